package alerts

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

func TestMain(m *testing.M) { kubernetestest.Main(m) }

const root = "../.."

// rare are the series that a healthy gateway and operator do not export.
var rare = map[string]string{
	`authgateway_operator_upgrade_failing`:                `it exists while an upgrade has stopped`,
	`authgateway_operator_watch_denied`:                   `it exists while the operator lacks a right`,
	`authgateway_key_steps_total{reason="ClockWentBack"}`: `it exists after a clock went back`,
}

// Every query of the rules, the dashboard and the documents returns data in a Prometheus that scrapes a gateway under
// load and its operator, with the labels that the chart's monitors give. A metric or label that was renamed fails it.
func TestEveryQueryReturnsData(t *testing.T) {
	if testing.Short() {
		t.Skip("the test needs an API server and half a minute")
	}
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed: install the package prometheus")
	}
	operator, gatewayNamespace := startOperator(t)
	mails, address := receiveMails(t)
	p := startPrometheus(t, program, startServer(t, address), operator)
	drive(t, p.server, mails)

	queries := slices.Concat(ruleQueries(t), dashboardQueries(t, "shop|"+gatewayNamespace), documentQueries(t))
	if len(queries) < 150 {
		t.Errorf("only %d queries were found", len(queries))
	}
	var missing []string
	testenv.Eventually(t, time.Minute, "every query returns data", func() error {
		missing = nil
		queries = slices.DeleteFunc(queries, func(q query) bool {
			found, err := p.has(q)
			if err != nil {
				t.Errorf("%s: %v\n%s", q.from, err, q.expr)
				return true // it will not get better
			}
			if !found {
				missing = append(missing, q.from+": no data for "+q.expr)
			}
			return found
		})
		if missing != nil {
			return fmt.Errorf("%d queries:\n%s", len(missing), strings.Join(missing, "\n"))
		}
		return nil
	})
	p.checkRules(t)
}

// query is an expression that must return data. Its series have the labels.
type query struct {
	from, expr string
	labels     []string
}

// ruleQueries returns the series of each recording rule, and those that the alerts read.
func ruleQueries(t *testing.T) []query {
	t.Helper()
	var all []query
	absent := maps.Clone(rare)
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				var matchers []string
				for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
					matchers = append(matchers, name+`="`+r.Labels[name]+`"`)
				}
				all = append(all, query{from: r.Record, expr: r.Record + "{" + strings.Join(matchers, ",") + "}"})
			}
			for _, s := range selectors(t, r.Expr) {
				if rare[s] != "" {
					delete(absent, s)
					continue
				}
				all = append(all, query{from: cmp.Or(r.Alert, r.Record), expr: "last_over_time(" + s + "[10m])"})
			}
		}
	}
	for s := range absent {
		t.Errorf("no rule uses %s: remove it from rare", s)
	}
	// The load makes sign-ins fail, so one alert fires.
	return append(all, query{from: "alert", expr: `ALERTS{alertname="` + fast + `",alertstate="firing",slo="sign-in"}`})
}

// The words of PromQL in the rules that are no metrics. Prometheus rejects a rule with another function.
var (
	functions = strings.Fields("absent_over_time clamp_min count group increase last_over_time max min rate sum " +
		"sum_over_time time vector")
	operators = strings.Fields("and or unless by on ignoring without group_left offset")

	clause = regexp.MustCompile(`\b(by|on|ignoring|without|group_left) ?\([^)]*\)|\[\d+[smhd]\]|\boffset \w+`)
	term   = regexp.MustCompile(`[a-zA-Z_:][\w:]*(\{[^}]*\})?(\(| \()?`)
)

// selectors returns the series that an expression reads, without their ranges.
func selectors(t *testing.T, expr string) []string {
	t.Helper()
	var all []string
	for _, found := range term.FindAllString(clause.ReplaceAllString(strings.ReplaceAll(expr, "\n", " "), " "), -1) {
		name, isCall := strings.CutSuffix(found, "(")
		name = strings.TrimSpace(name)
		switch {
		case slices.Contains(operators, name):
		case isCall && slices.Contains(functions, name):
		case !isCall && slices.Contains(functions, name): // followed by a grouping clause
		case isCall:
			t.Errorf("%s is no function that this test knows: %s", name, expr)
		case !slices.Contains(all, name):
			all = append(all, name)
		}
	}
	return all
}

func TestSelectorsAreTakenFromAnExpression(t *testing.T) {
	got := selectors(t, `max by (a, b) (x_total{c="d"}) / on (a) rate(y:z{e=~"[+]a|5.."}[5m]) > 0
		unless time() - z offset 15m or x_total{c="d"}`)
	if want := []string{`x_total{c="d"}`, `y:z{e=~"[+]a|5.."}`, "z"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

type dashboard struct {
	Panels []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			Expr, LegendFormat string
			Datasource         struct{ UID string }
		}
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
			AllValue   string
		}
	}
	Annotations struct{ List []struct{ Expr string } }
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	testenv.NoError(t, json.Unmarshal(testenv.Must(os.ReadFile(filepath.Join(root, "docs", "dashboard.json")))(t), &d))
	return d
}

var (
	variable = regexp.MustCompile(`\$\{?(\w+)\}?`)
	legend   = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)
	values   = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
)

// dashboardQueries returns the queries of the dashboard as Grafana sends them: with all namespaces and gateways, and
// with those that a person chose.
func dashboardQueries(t *testing.T, namespaces string) []query {
	t.Helper()
	d := readDashboard(t)
	var all []query
	for _, chosen := range []map[string]string{
		{"namespace": ".+", "gateway": ".+", "__rate_interval": "10s"},
		{"namespace": namespaces, "gateway": "auth", "__rate_interval": "10s"},
	} {
		fill := func(expr string) string {
			return variable.ReplaceAllStringFunc(expr, func(v string) string {
				name := variable.FindStringSubmatch(v)[1]
				if chosen[name] == "" {
					t.Errorf("there is no variable %s: %s", v, expr)
				}
				return chosen[name]
			})
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				q := query{from: "the panel " + p.Title, expr: fill(target.Expr)}
				for _, m := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
					q.labels = append(q.labels, m[1])
				}
				all = append(all, q)
			}
		}
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			text, _ := v.Query.(map[string]any)["query"].(string)
			m := values.FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("the variable %s is %q, want label_values(…)", v.Name, text)
			}
			all = append(all, query{from: "the variable " + v.Name, expr: "group by (" + m[2] + ") (" + fill(m[1]) + ")", labels: m[2:]})
		}
		for _, a := range d.Annotations.List {
			all = append(all, query{from: "the annotations", expr: fill(a.Expr)})
		}
	}
	return all
}

func TestTheDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	const ds = "${datasource}"
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("the panel %s has the ID %d, which another one has", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Errorf("the panel %s overlaps %q at %v", p.Title, other, at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != ds || len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("the panel %q has the data source %q and %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != ds {
				t.Errorf("a query of %s has the data source %q", p.Title, target.Datasource.UID)
			}
			if target.LegendFormat == "" {
				t.Errorf("a query of %s has no legend", p.Title)
			}
		}
	}
}

// documentQueries returns the queries of the documents. A line that is indented continues a query.
func documentQueries(t *testing.T) []query {
	t.Helper()
	var all []query
	for _, name := range []string{"monitoring.md", "runbooks.md"} {
		text := testenv.Must(os.ReadFile(filepath.Join(root, "docs", name)))(t)
		for _, block := range regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllSubmatch(text, -1) {
			for line := range strings.Lines(string(block[1])) {
				if strings.HasPrefix(line, " ") {
					all[len(all)-1].expr += line
				} else {
					all = append(all, query{from: "docs/" + name, expr: line})
				}
			}
		}
	}
	return all
}

// prometheus is a Prometheus that scrapes a server and an operator each second.
type prometheus struct {
	base   string
	server *gatewaytest.Server
}

// relabelings returns those of the chart's PodMonitor, in the form of Prometheus.
func relabelings(t *testing.T) []any {
	t.Helper()
	text := string(testenv.Must(os.ReadFile(filepath.Join(root, "charts/auth-gateway/templates/monitoring.yaml")))(t))
	_, text, found := strings.Cut(text, "    relabelings:\n")
	text, _, _ = strings.Cut(text, "{{- end }}")
	var monitor []struct {
		SourceLabels []string `json:"sourceLabels"`
		TargetLabel  string   `json:"targetLabel"`
	}
	testenv.NoError(t, yaml.UnmarshalStrict([]byte(text), &monitor))
	if !found || len(monitor) == 0 {
		t.Fatal("the chart's PodMonitor has no relabelings")
	}
	// The Prometheus operator adds these for each monitor.
	all := []any{
		map[string]any{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "namespace"},
		map[string]any{"source_labels": []string{"__meta_kubernetes_pod_name"}, "target_label": "pod"},
	}
	for _, m := range monitor {
		all = append(all, map[string]any{"source_labels": m.SourceLabels, "target_label": m.TargetLabel})
	}
	return all
}

func startPrometheus(t *testing.T, program string, server *gatewaytest.Server, operator string) prometheus {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content any) string {
		path := filepath.Join(dir, name)
		testenv.NoError(t, os.WriteFile(path, testenv.Must(yaml.Marshal(content))(t), 0o600))
		return path
	}
	// The rules run each second, so that the test takes no minutes.
	rules := readRules(t)
	for i := range rules.Groups {
		rules.Groups[i].Interval = "1s"
	}
	target := func(job, address, namespace, pod, instance string) map[string]any {
		return map[string]any{"job_name": job, "relabel_configs": relabelings(t), "static_configs": []any{map[string]any{
			"targets": []string{address},
			"labels": map[string]string{
				"__meta_kubernetes_namespace": namespace, "__meta_kubernetes_pod_name": pod,
				"__meta_kubernetes_pod_label_app_kubernetes_io_instance": instance,
			},
		}}}
	}
	config := write("prometheus.yaml", map[string]any{
		"global":     map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{write("rules.yaml", rules)},
		"scrape_configs": []any{
			target("servers", strings.TrimPrefix(server.Ops, "http://"), "shop", "auth-0", "auth"),
			target("operator", operator, "auth-gateway-system", "auth-gateway-operator-0", "auth-gateway"),
		},
	})
	address := testenv.FreeAddress(t)
	cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	var log testenv.Output
	cmd.Stdout, cmd.Stderr = &log, &log
	testenv.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus: %s", log.String())
		}
	})
	p := prometheus{base: "http://" + address, server: server}
	testenv.Eventually(t, 20*time.Second, "Prometheus is ready", func() error {
		reply, err := http.Get(p.base + "/-/ready")
		if err != nil {
			return err
		}
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", reply.Status)
		}
		return nil
	})
	return p
}

// get calls the API of Prometheus.
func (p prometheus) get(path string, parameters url.Values, into any) error {
	reply, err := http.Get(p.base + "/api/v1/" + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(reply.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// has reports whether a query returns series with all its labels, and a value that is a number.
func (p prometheus) has(q query) (bool, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("query", url.Values{"query": {q.expr}}, &data); err != nil {
		return false, err
	}
	if !slices.ContainsFunc(data.Result, func(r struct {
		Metric map[string]string
		Value  [2]any
	}) bool {
		return r.Value[1] != "NaN"
	}) {
		return false, nil
	}
	for _, label := range q.labels {
		if data.Result[0].Metric[label] == "" {
			return false, fmt.Errorf("the series %v have no label %s", data.Result[0].Metric, label)
		}
	}
	return true, nil
}

// checkRules checks that Prometheus evaluates every rule without an error.
func (p prometheus) checkRules(t *testing.T) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	testenv.NoError(t, p.get("rules", nil, &data))
	evaluated := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			evaluated++
			if r.Health != "ok" {
				t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	written := 0
	for _, g := range readRules(t).Groups {
		written += len(g.Rules)
	}
	if evaluated != written {
		t.Errorf("Prometheus evaluates %d rules of %d", evaluated, written)
	}
}

// startServer starts a server that has everything that a metric is about: mail, an event webhook, and one slow hashing
// thread.
func startServer(t *testing.T, mail string) *gatewaytest.Server {
	t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(receiver.Close)
	host, port, _ := net.SplitHostPort(mail)
	settings := gatewaytest.Environ(postgrestest.Config(t), gatewaytest.Settings{
		"SMTP_HOST": host, "SMTP_PORT": port, "SMTP_TLS": "none", "MAIL_FROM": "no-reply@auth.test",
		"EVENT_WEBHOOK_URL": receiver.URL, "EVENT_WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
		"EXPOSURE": "public", "LIMIT_SIGNIN": "off", "LIMIT_SIGNUP": "off", "LIMIT_CODES": "off", "LIMIT_WRITES": "off",
		"TRUSTED_CALLER_KEY": callerKey,
		"SALT_ROUNDS":        "8", "HASHING_THREADS": "1", "HASHING_MAX_WAIT": "20ms", "LOG_LEVEL": "error",
	}).Load(t)
	server := testenv.Must(gatewaytest.Start(t, settings, authserver.Options{Version: "v0.0.0-test"}))(t)
	t.Cleanup(func() { testenv.NoError(t, server.End()) })
	testenv.Until(t, time.Minute, "the server is ready", func() bool {
		status, _ := server.Probe("/readyz")
		return status == http.StatusOK
	})
	return server
}

const callerKey = "a key of a trusted backend, long enough"

// aCode matches the code in a mail, which is on a line of its own.
var aCode = regexp.MustCompile(`(?m)^[ \t]*([A-Z2-7]{2,}(?:[ -][A-Z2-7]+)*)[ \t]*\r?$`)

// receiveMails starts a mail server. The channel has the codes.
func receiveMails(t *testing.T) (codes <-chan string, address string) {
	t.Helper()
	received := make(chan string, 1)
	server := smtpsink.Sink{Receive: func(m smtpsink.Mail) error {
		content, err := smtpsink.Read(m.Raw)
		if found := aCode.FindStringSubmatch(content.Text); found != nil {
			select {
			case received <- found[1]:
			default:
			}
		}
		return err
	}}.Server()
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return received, listener.Addr().String()
}

// drive signs a user up, and then uses every kind of route until the test ends. More sign-ins arrive than the thread can
// hash, so some get 503.
func drive(t *testing.T, server *gatewaytest.Server, codes <-chan string) {
	t.Helper()
	c := testenv.NewClient(t, server.API)
	trusted := http.Header{"X-Caller-Key": {callerKey}}
	const password = "correct horse battery staple"
	testenv.Expect(t, c.Do("POST", "/users", trusted, map[string]string{
		"username": "ada", "email": "ada@example.com", "password": password, "first_name": "Ada", "last_name": "Lovelace",
	}), http.StatusAccepted)
	var code string
	select {
	case code = <-codes:
	case <-time.After(20 * time.Second):
		t.Fatal("no mail has come within 20 s")
	}
	tokens := c.Do("POST", "/users/verify-user", trusted, map[string]string{"code": code})
	testenv.Expect(t, tokens, http.StatusOK)

	var ended atomic.Bool
	var workers sync.WaitGroup
	t.Cleanup(func() {
		ended.Store(true)
		workers.Wait()
	})
	repeat := func(pause time.Duration, do func(i int)) {
		workers.Go(func() {
			for i := 0; !ended.Load(); i++ {
				do(i)
				time.Sleep(pause)
			}
		})
	}
	send := func(method, path string, header http.Header, body any) {
		header = maps.Clone(header)
		if header == nil {
			header = http.Header{}
		}
		header.Set("X-Caller-Key", callerKey)
		_, _ = c.Try(method, path, header, body) // a lost reply makes a query fail
	}
	for range 6 {
		repeat(10*time.Millisecond, func(int) {
			send("POST", "/tokens/signin", nil, map[string]string{"username": "ada", "password": password})
		})
	}
	repeat(50*time.Millisecond, func(i int) {
		send("POST", "/tokens/signin", nil, map[string]string{"username": fmt.Sprint("nobody", i), "password": "wrong password"})
	})
	repeat(100*time.Millisecond, func(i int) {
		send("POST", "/users", nil, map[string]string{"username": fmt.Sprint("user", i), "email": fmt.Sprintf("user%d@example.com", i),
			"password": password, "first_name": "A", "last_name": "User"})
		send("POST", "/users/forgot-password", nil, map[string]string{"email": "ada@example.com"})
		send("PUT", "/users", testenv.Bearer(tokens.Text("access_token")), map[string]string{"first_name": fmt.Sprint("Ada", i)})
	})
	repeat(20*time.Millisecond, func(int) {
		send("GET", "/users", testenv.Bearer(tokens.Text("access_token")), nil)
		send("GET", "/.well-known/jwks.json", nil, nil)
		send("POST", "/tokens", nil, map[string]string{"refresh_token": tokens.Text("refresh_token")})
		send("GET", "/sessions/ended?wait=0", nil, nil)
	})
}

// startOperator starts an operator with a gateway and a copy of its keys. It returns the address of its metrics and the
// namespace of the gateway.
func startOperator(t *testing.T) (address, namespace string) {
	t.Helper()
	access, namespace := kubernetestest.Config(t), kubernetestest.Namespace(t)
	address = testenv.FreeAddress(t)
	o := controllers.Options{
		ServerImage: "auth-gateway/authserver:test", OperatorNamespace: namespace, Namespaces: []string{namespace},
	}
	m := testenv.Must(ctrl.NewManager(access, ctrl.Options{
		Scheme:           controllers.Scheme(),
		NewCache:         controllers.NewCache(o),
		Client:           client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		Metrics:          metricsserver.Options{BindAddress: address},
		LeaderElection:   true,
		LeaderElectionID: "auth-gateway-operator", LeaderElectionNamespace: namespace,
		LeaderElectionReleaseOnCancel: true,
	}))(t)
	ctx, cancel := context.WithCancel(context.Background())
	r := controllers.New(m, o)
	testenv.NoError(t, r.SetUp(ctx, m))
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		testenv.NoError(t, <-done)
	})

	c := testenv.Must(client.New(access, client.Options{Scheme: controllers.Scheme()}))(t)
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	testenv.NoError(t, c.Create(ctx, &corev1.Secret{ObjectMeta: meta("auth-db"), Data: map[string][]byte{
		"username": []byte("auth"), "password": []byte("a database password"),
	}}))
	g := &v1alpha1.AuthGateway{ObjectMeta: meta("auth")}
	g.Spec.Database = v1alpha1.Database{
		Host: "postgres", Name: "auth", CredentialsSecretRef: &v1alpha1.LocalReference{Name: "auth-db"},
	}
	testenv.NoError(t, c.Create(ctx, g))
	k := &v1alpha1.PublicKeys{ObjectMeta: meta("copy")}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: namespace, Name: "auth"}
	testenv.NoError(t, c.Create(ctx, k))
	return address, namespace
}

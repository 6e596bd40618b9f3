// Package docstest checks the documents against the code: links resolve, each condition and alert has a runbook, and
// flags, values, metrics, fields and rights exist. It also checks the wording of documents, comments and messages.
package docstest

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	_ "sigs.k8s.io/controller-runtime/pkg/controller" // registers the metrics that every controller has
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const root = "../.."

// documents returns the paths of all documents, relative to the root.
func documents(t *testing.T) []string {
	t.Helper()
	all := []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"}
	for _, dir := range []string{"docs", "charts"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Ext(path) == ".md" {
				relative, relErr := filepath.Rel(root, path)
				all, err = append(all, filepath.ToSlash(relative)), relErr
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text := testenv.Must(os.ReadFile(filepath.Join(root, path)))(t)
	return string(text)
}

// block is a fenced code block.
type block struct{ language, text string }

var (
	fence    = regexp.MustCompile("^ *```(\\w*)")
	indented = regexp.MustCompile(`^(    |\t)`)
	inline   = regexp.MustCompile("``.+?``|`[^`]+`")
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading  = regexp.MustCompile(`^(#{1,6}) +(.*?) *$`)
)

// split separates the prose of a document from its code blocks.
func split(text string) (prose []string, blocks []block) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch start := fence.FindStringSubmatch(line); {
		case start != nil && !inside:
			inside = true
			blocks = append(blocks, block{language: start[1]})
		case start != nil:
			inside = false
		case inside:
			blocks[len(blocks)-1].text += line + "\n"
		case indented.MatchString(line):
		default:
			prose = append(prose, line)
		}
	}
	return prose, blocks
}

// anchors returns the anchors that GitHub generates for the headings.
func anchors(prose []string) []string {
	var all []string
	for _, line := range prose {
		h := heading.FindStringSubmatch(line)
		if h == nil {
			continue
		}
		anchor := slug(h[2])
		for n, plain := 1, anchor; slices.Contains(all, anchor); n++ {
			anchor = fmt.Sprintf("%s-%d", plain, n)
		}
		all = append(all, anchor)
	}
	return all
}

var linked = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)

func slug(title string) string {
	title = linked.ReplaceAllString(title, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 0x80 && r != '…':
			return r
		}
		return -1
	}, strings.ToLower(title))
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	checked := 0
	for _, document := range documents(t) {
		prose, _ := split(read(t, document))
		for _, line := range prose {
			for _, found := range link.FindAllStringSubmatch(inline.ReplaceAllString(line, "code"), -1) {
				target := found[1]
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				checked++
				if err := leads(document, target); err != nil {
					t.Errorf("%s: %v", document, err)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d links were found; this test looks in the wrong place", checked)
	}
}

// leads checks that the target of a link in a document exists.
func leads(document, target string) error {
	path, anchor, hasAnchor := strings.Cut(target, "#")
	file := document
	if path != "" {
		file = filepath.ToSlash(filepath.Join(filepath.Dir(document), path))
	}
	info, err := os.Stat(filepath.Join(root, file))
	switch {
	case err != nil:
		return fmt.Errorf("the link to %s leads nowhere: there is no %s", target, file)
	case !hasAnchor:
		return nil
	case info.IsDir() || filepath.Ext(file) != ".md":
		return fmt.Errorf("the link to %s has an anchor, and %s has no headings", target, file)
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return err
	}
	prose, _ := split(string(text))
	if !slices.Contains(anchors(prose), anchor) {
		return fmt.Errorf("the link to %s leads nowhere: %s has no heading with the anchor #%s", target, file, anchor)
	}
	return nil
}

func TestALinkThatLeadsNowhereIsFound(t *testing.T) {
	for _, target := range []string{"missing.md", "runbooks.md#missing", "alerts.yaml#groups", "decisions#x", "#missing"} {
		if leads("docs/install.md", target) == nil {
			t.Errorf("%s passes for a link that leads somewhere", target)
		}
	}
	good := []string{"runbooks.md#keyslost", "decisions/", "../README.md", "#the-operators-rights", "../charts/auth-gateway/README.md#values"}
	for _, target := range good {
		if err := leads("docs/install.md", target); err != nil {
			t.Error(err)
		}
	}
	if got, want := fmt.Sprint(anchors([]string{"# A `b`, [c](d): e_f", "## Twice", "### Twice"})), "[a-b-c-e_f twice twice-1]"; got != want {
		t.Errorf("anchors: got %s, want %s", got, want)
	}
}

// section is a text under a heading of the runbooks.
type section struct{ part, title, text string }

func runbooks(t *testing.T) map[string]section {
	t.Helper()
	all := map[string]section{}
	part, title := "", ""
	for line := range strings.Lines(read(t, "docs/runbooks.md")) {
		if h := heading.FindStringSubmatch(strings.TrimRight(line, "\n")); h != nil && len(h[1]) > 1 {
			if len(h[1]) == 2 {
				part, title = h[2], ""
				continue
			}
			title = h[2]
			all[title] = section{part: part, title: title}
			continue
		}
		if title != "" {
			s := all[title]
			s.text += line
			all[title] = s
		}
	}
	return all
}

// reasons returns the values of the API's constants Reason….
func reasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api/v1alpha1/conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		if value, ok := spec.Values[0].(*ast.BasicLit); ok && value.Kind == token.STRING {
			text := testenv.Must(strconv.Unquote(value.Value))(t)
			all = append(all, text)
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("only %d reasons were found in api/v1alpha1/conditions.go", len(all))
	}
	return all
}

// noAction lists the reasons that need no runbook, with the explanation.
var noAction = map[string]string{
	"Ready":            "all is well",
	"KeysPublished":    "all is well",
	"ReplicasReady":    "all is well",
	"DatabaseAnswers":  "all is well",
	"VersionSupported": "all is well",
}

func TestEveryReasonThatAPersonActsOnHasARunbook(t *testing.T) {
	sections, known := runbooks(t), reasons(t)
	for _, reason := range known {
		_, exempt := noAction[reason]
		s, has := sections[reason]
		says := func(part string) bool { return strings.Contains(s.text, "**"+part+".**") }
		switch {
		case exempt && has:
			t.Errorf("%s needs no runbook (%s), and has one: take it out of noAction, or take the section out", reason, noAction[reason])
		case !exempt && (!has || s.part != "Conditions"):
			t.Errorf("docs/runbooks.md has no section %q under Conditions", "### "+reason)
		case !exempt && !(says("Means") && (says("Users notice") || says("Do"))):
			t.Errorf("the runbook of %s lacks Means, or both Users notice and Do", reason)
		}
	}
	for title, s := range sections {
		if s.part == "Conditions" && !slices.Contains(known, title) {
			t.Errorf("docs/runbooks.md has a section %q, which is no longer a reason in api/v1alpha1/conditions.go", title)
		}
	}
}

type rules struct {
	Groups []struct {
		Name, Interval string
		Rules          []rule
	}
}

type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

// prometheusRules returns all rules of docs/alerts.yaml.
func prometheusRules(t *testing.T) []rule {
	t.Helper()
	var file rules
	testenv.NoError(t, yaml.UnmarshalStrict([]byte(read(t, "docs/alerts.yaml")), &file))
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func alerts(t *testing.T) []rule {
	t.Helper()
	all := slices.DeleteFunc(prometheusRules(t), func(r rule) bool { return r.Alert == "" })
	if len(all) < 10 {
		t.Fatalf("only %d alerts were found in docs/alerts.yaml", len(all))
	}
	return all
}

func TestEveryAlertHasARunbook(t *testing.T) {
	const base = "https://github.com/auth-gateway/auth-gateway/blob/main/docs/runbooks.md#"
	sections, seen := runbooks(t), map[string]bool{}
	for _, r := range alerts(t) {
		if seen[r.Alert] {
			t.Errorf("there are two alerts %s", r.Alert)
		}
		seen[r.Alert] = true
		if s, ok := sections[r.Alert]; !ok || s.part != "Alerts" || strings.TrimSpace(s.text) == "" {
			t.Errorf("docs/runbooks.md has no section %q under Alerts", "### "+r.Alert)
		}
		if got, want := r.Annotations["runbook_url"], base+slug(r.Alert); got != want {
			t.Errorf("%s: runbook_url is %q, want %q", r.Alert, got, want)
		}
		if r.Annotations["summary"] == "" || r.Expr == "" {
			t.Errorf("%s has no summary or no expression", r.Alert)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
	}
	for title, s := range sections {
		if s.part == "Alerts" && !seen[title] {
			t.Errorf("docs/runbooks.md has a section for the alert %s, which is not in docs/alerts.yaml", title)
		}
	}
}

var (
	quoted   = regexp.MustCompile(`"[^"]*"`)
	braces   = regexp.MustCompile(`\{[^}]*\}`)
	grouping = regexp.MustCompile(`\b(by|on|without|ignoring)\s*\([^)]*\)`)
	word     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	promql   = strings.Fields("absent_over_time and by clamp_min count group group_left ignoring increase last_over_time " +
		"max min offset on or rate sum sum_over_time time unless vector without m h")
)

// metricNames returns the metrics that an expression uses.
func metricNames(expr string) []string {
	expr = regexp.MustCompile(`\[[^\]]*\]`).ReplaceAllString(expr, "")
	expr = grouping.ReplaceAllString(braces.ReplaceAllString(quoted.ReplaceAllString(expr, ""), ""), "")
	var all []string
	for _, name := range word.FindAllString(expr, -1) {
		if !slices.Contains(promql, name) {
			all = append(all, name)
		}
	}
	return all
}

// ownMetrics returns all strings in the files that define metrics. The server's metrics get their common prefix there.
func ownMetrics(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, path := range []string{"controllers/metrics.go", "authserver/metrics.go", "internal/httpapi/metrics.go"} {
		file := testenv.Must(parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, 0))(t)
		ast.Inspect(file, func(n ast.Node) bool {
			if value, ok := n.(*ast.BasicLit); ok && value.Kind == token.STRING {
				if text, err := strconv.Unquote(value.Value); err == nil && word.FindString(text) == text && text != "" {
					all[text] = true
					all["authgateway_"+strings.TrimPrefix(text, "authgateway_")] = true
				}
			}
			return true
		})
	}
	return all
}

var fqName = regexp.MustCompile(`fqName: "([^"]+)"`)

// controllerMetrics returns the metrics that controller-runtime registers.
func controllerMetrics(t *testing.T) map[string]bool {
	t.Helper()
	registry, ok := metrics.Registry.(prometheus.Collector)
	if !ok {
		t.Fatal("the registry of controller-runtime does not list its metrics")
	}
	to := make(chan *prometheus.Desc)
	go func() { defer close(to); registry.Describe(to) }()
	all := map[string]bool{}
	for d := range to {
		if m := fqName.FindStringSubmatch(d.String()); m != nil {
			all[m[1]] = true
		}
	}
	return all
}

func TestAlertsAndDocumentsNameMetricsThatExist(t *testing.T) {
	own, theirs := ownMetrics(t), controllerMetrics(t)
	recorded := map[string]bool{}
	for _, r := range prometheusRules(t) {
		recorded[r.Record] = true
	}
	exists := func(name string) bool {
		return own[name] || theirs[name] || recorded[name] || own[strings.TrimSuffix(name, "_bucket")]
	}
	for _, r := range prometheusRules(t) {
		names := metricNames(r.Expr)
		if len(names) == 0 && !strings.HasPrefix(r.Expr, "vector(") {
			t.Errorf("%s%s uses no metric", r.Alert, r.Record)
		}
		for _, name := range names {
			if !exists(name) {
				t.Errorf("%s%s uses the metric %s, which does not exist", r.Alert, r.Record, name)
			}
		}
	}
	cell := regexp.MustCompile("^\\| `([a-z_]+)` \\| `")
	found := 0
	for _, document := range []string{"docs/install.md", "docs/operations.md"} {
		in := false
		for line := range strings.Lines(read(t, document)) {
			in = strings.HasPrefix(line, "| metric |") || in && strings.HasPrefix(line, "|")
			if m := cell.FindStringSubmatch(line); in && m != nil {
				found++
				if !exists(m[1]) {
					t.Errorf("%s names the metric %s, which does not exist", document, m[1])
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d metrics were found in the documents", found)
	}
}

// withoutObjective are the routes of no objective: documentation, and long polls, which have an alert of their own.
var withoutObjective = regexp.MustCompile(`^GET /(docs.*|openapi\.json|sessions/ended)$`)

// matcher is a label matcher of an expression.
var matcher = regexp.MustCompile(`(method|route|le)(=~?)"([^"]*)"`)

// selects returns what a matcher accepts, as a regular expression of whole values.
func selects(t *testing.T, operator, value string) *regexp.Regexp {
	t.Helper()
	if operator == "=" {
		value = regexp.QuoteMeta(value)
	}
	return testenv.Must(regexp.Compile("^(?:" + value + ")$"))(t)
}

// Each route is in one objective, and docs/monitoring.md has what the rules say.
func TestObjectivesAreThoseOfTheRules(t *testing.T) {
	var api struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	testenv.NoError(t, yaml.Unmarshal([]byte(read(t, "internal/httpapi/openapi.yaml")), &api))
	var routes []string // sorted by path
	for _, path := range slices.Sorted(maps.Keys(api.Paths)) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if _, ok := api.Paths[path][strings.ToLower(method)]; ok {
				routes = append(routes, method+" "+path)
			}
		}
	}
	objective := map[string]string{} // by SLO and indicator
	for _, r := range prometheusRules(t) {
		if r.Record == "authgateway:slo_objective:ratio" {
			share := testenv.Must(strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(r.Expr, "vector("), ")"), 64))(t)
			objective[r.Labels["slo"]+" "+r.Labels["sli"]] = strconv.FormatFloat(math.Round(share*1e6)/1e4, 'f', -1, 64) + "%"
		}
	}
	document, of := read(t, "docs/monitoring.md"), map[string]string{}
	for _, r := range prometheusRules(t) {
		if r.Record != "authgateway:slo_request_durations:rate5m" {
			continue
		}
		slo, is := r.Labels["slo"], map[string]*regexp.Regexp{}
		threshold := ""
		for _, m := range matcher.FindAllStringSubmatch(r.Expr, -1) {
			is[m[1]] = selects(t, m[2], m[3])
			if m[1] == "le" {
				threshold, _, _ = strings.Cut(m[3], "|")
			}
		}
		var own []string
		for _, route := range routes {
			method, path, _ := strings.Cut(route, " ")
			if is["method"].MatchString(method) && is["route"].MatchString(path) {
				own = append(own, "`"+route+"`")
				if of[route] != "" {
					t.Errorf("%s is in the objectives %s and %s", route, of[route], slo)
				}
				of[route] = slo
			}
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s within %s s |\n", slo, strings.Join(own, ", "), objective[slo+" availability"],
			objective[slo+" latency"], threshold)
		if !strings.Contains(document, row) {
			t.Errorf("docs/monitoring.md lacks the row\n%s", row)
		}
	}
	for _, route := range routes {
		if (of[route] == "") != withoutObjective.MatchString(route) {
			t.Errorf("%s is in the objective %q: add it to a rule of docs/alerts.yaml, or to withoutObjective", route, of[route])
		}
	}
}

// burns matches a part of an alert on an error budget: the long window, the burn rate, the short window and its rate,
// and the window of the least number of bad requests.
var burns = regexp.MustCompile(`window="(\w+)"\} > ([\d.]+)\s+and ignoring \(window\) authgateway:slo_burn_rate:ratio` +
	`\{window="(\w+)"\} > ([\d.]+)\s+` +
	`and ignoring \(window\) sum_over_time\(authgateway:slo_errors:rate5m\[(\w+)\]\) \* 60 >= 10\s`)

// Scenarios of days would take long, so the windows and rates of the alerts are compared with the table of them.
func TestBurnRatesAreThoseOfTheRules(t *testing.T) {
	document, parts := read(t, "docs/monitoring.md"), 0
	for _, r := range alerts(t) {
		if !strings.Contains(r.Expr, "authgateway:slo_burn_rate:ratio") {
			continue
		}
		first := fmt.Sprintf("| [%s](runbooks.md#%s) (%s) ", r.Alert, slug(r.Alert), r.Labels["severity"])
		for _, m := range burns.FindAllStringSubmatch(r.Expr, -1) {
			parts++
			if m[2] != m[4] || m[1] != m[5] {
				t.Errorf("%s: the windows or rates of a part differ: %q", r.Alert, m[1:])
			}
			unit := map[byte]string{'m': "min", 'h': "h", 'd': "d"}
			window := func(text string) string { return text[:len(text)-1] + " " + unit[text[len(text)-1]] }
			length := testenv.Must(time.ParseDuration(strings.Replace(strings.Replace(m[1], "1d", "24h", 1), "3d", "72h", 1)))(t)
			rate := testenv.Must(strconv.ParseFloat(m[2], 64))(t)
			spent := strconv.FormatFloat(math.Round(1000*rate*length.Hours()/(30*24))/10, 'f', -1, 64)
			row := fmt.Sprintf("\n%s| %s | %s | %s | %s%% |\n", first, m[2], window(m[1]), window(m[3]), spent)
			if !strings.Contains(document, row) {
				t.Errorf("docs/monitoring.md lacks the row%s", row)
			}
			first = "| "
		}
	}
	if parts != 4 {
		t.Errorf("%d parts were found; want 4", parts)
	}
}

func TestExpressionsAreTakenApart(t *testing.T) {
	got := metricNames(`max by (a, b) (x_total{c="d"}) / on (a) rate(y{e=~"5.."}[5m]) > 0 unless time() - z`)
	if want := []string{"x_total", "y", "z"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestExamplesAreAuthGateways finds unknown fields. Validation rules are not checked
// here; the samples in config/ are applied to a real API server elsewhere.
func TestExamplesAreAuthGateways(t *testing.T) {
	found := 0
	for _, document := range documents(t) {
		_, blocks := split(read(t, document))
		for _, b := range blocks {
			for _, text := range yamls(b) {
				var g v1alpha1.AuthGateway
				switch {
				case strings.Contains(text, "kind: AuthGateway\n"):
					found++
					if err := yaml.UnmarshalStrict([]byte(text), &g); err != nil {
						t.Errorf("%s: %v in\n%s", document, err, text)
					}
				case b.language == "yaml" && strings.HasPrefix(text, "  database:"):
					found++
					if err := yaml.UnmarshalStrict([]byte("spec:\n"+text), &g); err != nil {
						t.Errorf("%s: %v in\n%s", document, err, text)
					}
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d examples were found", found)
	}
}

// yamls returns the YAML of a block: the block itself, or its here-documents.
func yamls(b block) []string {
	if b.language == "yaml" {
		return []string{b.text}
	}
	var all []string
	for _, here := range regexp.MustCompile(`(?s)<<'?(YAML|EOF)'?\n(.*?)\n(?:YAML|EOF)\n`).FindAllStringSubmatch(b.text, -1) {
		all = append(all, here[2]+"\n")
	}
	return all
}

func TestTheRightsInTheManualAreThoseOfTheOperator(t *testing.T) {
	var role rbacv1.ClusterRole
	testenv.NoError(t, yaml.Unmarshal([]byte(read(t, "config/rbac/role.yaml")), &role))
	has := map[string]string{}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			verbs := slices.Clone(rule.Verbs)
			slices.Sort(verbs)
			has[resource] = strings.Join(verbs, ", ")
		}
	}
	says := map[string]string{}
	in := false
	for line := range strings.Lines(read(t, "docs/install.md")) {
		in = strings.HasPrefix(line, "| resource | verbs |") || in && strings.HasPrefix(line, "|")
		cells := strings.Split(line, "|")
		if !in || len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		for _, resource := range inline.FindAllString(cells[1], -1) {
			says[strings.Trim(resource, "`")] = strings.TrimSpace(cells[2])
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(has)) {
		if says[resource] != has[resource] {
			t.Errorf("docs/install.md lists %q for %s, and config/rbac/role.yaml %q",
				cmp.Or(says[resource], "nothing"), resource, has[resource])
		}
	}
	for resource := range says {
		if has[resource] == "" {
			t.Errorf("docs/install.md lists a right to %s that the operator does not have", resource)
		}
	}
}

// TestFlagsAndValuesInTheManualExist checks the values after --set, and the
// operator's flags in the prose.
func TestFlagsAndValuesInTheManualExist(t *testing.T) {
	var values map[string]any
	testenv.NoError(t, yaml.Unmarshal([]byte(read(t, "charts/auth-gateway/values.yaml")), &values))
	operator := read(t, "cmd/operator/main.go")
	set := regexp.MustCompile(`--set '?([\w.]+)=`)
	flag := regexp.MustCompile("`--([a-z-]+)[`=]")
	found := 0
	for _, document := range documents(t) {
		text := read(t, document)
		for _, m := range set.FindAllStringSubmatch(text, -1) {
			found++
			var at any = values
			for part := range strings.SplitSeq(m[1], ".") {
				mapping, ok := at.(map[string]any)
				if at, ok = mapping[part], ok && hasKey(mapping, part); !ok {
					t.Errorf("%s sets the value %s, which the chart does not have", document, m[1])
					break
				}
			}
		}
		if document != "docs/install.md" && document != "docs/runbooks.md" {
			continue
		}
		for _, m := range flag.FindAllStringSubmatch(text, -1) {
			found++
			if !strings.Contains(operator, `"`+m[1]+`"`) {
				t.Errorf("%s names the flag --%s, which the operator does not have", document, m[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d values and flags were found", found)
	}
}

func hasKey(mapping map[string]any, key string) bool { _, ok := mapping[key]; return ok }

func TestEveryDecisionIsListed(t *testing.T) {
	entries := testenv.Must(os.ReadDir(filepath.Join(root, "docs/decisions")))(t)
	list, architecture := read(t, "docs/README.md"), read(t, "ARCHITECTURE.md")
	for i, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, fmt.Sprintf("%04d-", i+1)) {
			t.Errorf("docs/decisions/%s: the next number is %04d", name, i+1)
		}
		title := regexp.MustCompile(`^# (\d+)\. (.+)`).FindStringSubmatch(read(t, "docs/decisions/"+name))
		if title == nil || title[1] != strconv.Itoa(i+1) {
			t.Errorf("docs/decisions/%s does not begin with its number and its title", name)
			continue
		}
		if !strings.Contains(list, "| ["+title[1]+"](decisions/"+name+") | ") {
			t.Errorf("docs/README.md does not list decision %s", title[1])
		}
		if !strings.Contains(architecture, "docs/decisions/"+name) {
			t.Errorf("ARCHITECTURE.md does not name decision %s", title[1])
		}
	}
}

// TestDecisionsNameCodeThatExists checks the paths after "Where", and the identifiers before them.
func TestDecisionsNameCodeThatExists(t *testing.T) {
	entries := testenv.Must(os.ReadDir(filepath.Join(root, "docs/decisions")))(t)
	found := 0
	for _, entry := range entries {
		_, where, _ := strings.Cut(read(t, "docs/decisions/"+entry.Name()), "\n**Where.**")
		var names []string
		for _, span := range inline.FindAllString(where, -1) {
			span = strings.Trim(span, "`")
			if !strings.ContainsRune(span, '/') && !strings.HasPrefix(span, ".golangci") {
				names = append(names, span[strings.LastIndexByte(span, '.')+1:])
				continue
			}
			found++
			code := ""
			err := filepath.WalkDir(filepath.Join(root, span), func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && len(names) > 0 {
					text, readErr := os.ReadFile(path)
					code, err = code+string(text), readErr
				}
				return err
			})
			if err != nil {
				t.Errorf("docs/decisions/%s: %v", entry.Name(), err)
			}
			for _, name := range names {
				if !strings.Contains(code, name) {
					t.Errorf("docs/decisions/%s: %s has no %s", entry.Name(), span, name)
				}
			}
			names = nil
		}
	}
	if found < 30 {
		t.Errorf("only %d paths were found in the decisions", found)
	}
}

// TestTheRunbooksQuoteMessagesThatExist checks each quoted message, apart from those
// of other programs, against the strings in the code.
func TestTheRunbooksQuoteMessagesThatExist(t *testing.T) {
	var code strings.Builder
	for path, content := range sources(t) {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			code.WriteString(content)
		}
	}
	others := []string{"connection refused", "connection reset", "password authentication failed for user"}
	commands := regexp.MustCompile(`^(?:kubectl|helm|curl|jq) |^[\w./-]+: \S+$`)
	variable := regexp.MustCompile(`[…0-9(]`)
	prose, _ := split(read(t, "docs/runbooks.md"))
	found := 0
	for _, line := range prose {
		for _, span := range inline.FindAllString(line, -1) {
			span = strings.Trim(span, "`")
			if commands.MatchString(span) {
				continue
			}
			for _, piece := range variable.Split(span, -1) {
				piece = strings.Trim(piece, " :")
				if !strings.Contains(piece, " ") || slices.Contains(others, piece) {
					continue
				}
				for part := range strings.SplitSeq(piece, ": ") {
					found++
					if !strings.Contains(code.String(), part) {
						t.Errorf("docs/runbooks.md quotes %q, which the code does not contain", part)
					}
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d messages were found in the runbooks", found)
	}
}

// TestTheMapNamesFilesThatExist checks the files and folders in ARCHITECTURE.md and
// CONTRIBUTING.md. A file may be named without its folder.
func TestTheMapNamesFilesThatExist(t *testing.T) {
	var paths []string
	for path := range sources(t) {
		paths = append(paths, "/"+path)
	}
	named := regexp.MustCompile(`^[\w./-]+\.(?:go|sql|yaml|yml|json|md|sh)$|` +
		`^(?:api|authserver|charts|cmd|config|controllers|docs|examples|hack|internal|keys|test)/[\w./-]*$`)
	tree := regexp.MustCompile(`^ {4}( {2})?([\w./-]+)  `)
	found := 0
	for _, document := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		var names []string
		parent := ""
		for line := range strings.Lines(read(t, document)) {
			if m := tree.FindStringSubmatch(line); m != nil && strings.Contains(m[2], "/") {
				if m[1] == "" {
					parent = m[2]
					names = append(names, m[2])
				} else {
					names = append(names, parent+m[2])
				}
			}
			for _, span := range inline.FindAllString(line, -1) {
				if span = strings.Trim(span, "`"); named.MatchString(span) {
					names = append(names, span)
				}
			}
		}
		for _, name := range names {
			found++
			_, err := os.Stat(filepath.Join(root, name))
			if err != nil && !slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix(p, "/"+name) }) {
				t.Errorf("%s names %s, which does not exist", document, name)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d files were found in the documents", found)
	}
}

// The API's port serves no decisions if they have one of their own, so a page that uses it says so.
func TestPagesOfProxiesNameThePortOfDecisions(t *testing.T) {
	found := 0
	for _, document := range documents(t) {
		text := read(t, document)
		if !strings.HasPrefix(document, "docs/consumers/") || !strings.Contains(text, "/authz/") {
			continue
		}
		found++
		for _, name := range []string{"`AUTHZ_PORT`", "`spec.authz.port`", "authz.md#the-port"} {
			if !strings.Contains(text, name) {
				t.Errorf("%s does not name %s", document, name)
			}
		}
	}
	if found < 3 {
		t.Errorf("only %d pages of proxies were found", found)
	}
}

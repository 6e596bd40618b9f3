package scale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	kubernetestest.Main(m)
}

const (
	namespaces = 10
	gateways   = 1000 // in all
	others     = 10_000
	payload    = 1024 // bytes in each unrelated Secret

	mostMemory = 150 << 20   // of the operator
	mostDelay  = time.Second // of its reaction to a change
	window     = 15 * time.Second
	patience   = 15 * time.Minute // for a busy machine

	// memoryLimit is the container's limit in config/manager.
	memoryLimit = "268435456"
)

func TestAThousandGatewaysAmongTenThousandSecrets(t *testing.T) {
	f := newFleet(t)
	t.Logf("it took %s to build the operator and to start an API server", since(f.began))
	operator := f.startOperator()
	operator.waitFor("Starting workers")
	f.rest()
	operator.tell("0 gateways")

	// One gateway of each namespace has its own keys. The others adopt a copy, like retained keys: creating two
	// thousand keys takes long, and adds nothing to the test.
	f.each(namespaces, func(ctx context.Context, i int) error {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespaceOf(i)}}
		credentials := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "auth-db"},
			StringData: map[string]string{"username": "auth", "password": "a database password"}}
		return errors.Join(f.client.Create(ctx, namespace), f.client.Create(ctx, credentials), f.client.Create(ctx, f.gateway(i)))
	})
	f.eventually("the first gateways are made", func() error { return f.count(&appsv1.DeploymentList{}, namespaces) })
	f.copyKeys()

	begin := time.Now()
	f.each(gateways-namespaces, func(ctx context.Context, i int) error { return f.client.Create(ctx, f.gateway(namespaces+i)) })
	t.Logf("%d gateways were created in %s", gateways-namespaces, since(begin))
	f.eventually("every gateway has its Deployment", func() error { return f.count(&appsv1.DeploymentList{}, gateways) })
	t.Logf("every object was created %s after the first gateway was created", since(begin))
	f.rollOut()
	f.eventually("every gateway is ready", f.allReady)
	t.Logf("all were ready after %s", since(begin))
	f.rest()
	operator.tell(fmt.Sprintf("%d gateways", gateways))

	begin = time.Now()
	f.createCopies()
	f.eventually("every copy is ready", f.copiesReady)
	t.Logf("%d copies of public keys were ready after %s", gateways, since(begin))
	f.rest()
	operator.tell(fmt.Sprintf("%d gateways and as many copies", gateways))

	begin = time.Now()
	f.createOthers()
	t.Logf("%d unrelated Secrets were created in %s", others, since(begin))
	f.rest()
	operator.tell(fmt.Sprintf("%d gateways and %d Secrets of others", gateways, others))

	f.writesNothing("a steady state", func() { time.Sleep(window) }) // the absence of writes cannot be waited for
	operator.isSmall("a steady state")

	operator.stop()
	f.writesNothing("another operator that starts", func() {
		reads := f.requests().of("GET secrets")
		begin := time.Now()
		operator = f.startOperator()
		// The operator reads the keys, their passphrases, the caller keys and the credentials of each gateway.
		f.eventually("it has looked at every gateway", func() error {
			if more := f.requests().of("GET secrets") - reads; more < 4*gateways {
				return fmt.Errorf("it has read %d Secrets", more)
			}
			return nil
		})
		t.Logf("another operator had read the Secrets of every gateway %s after its start", since(begin))
		f.rest()
		operator.tell("it was started and had looked at all")
	})
	operator.isSmall("a start")

	f.isPrompt("a shorter life of tokens is in the Deployment", func(g client.ObjectKey, round int) func() error {
		return f.changeExpiry(g, time.Duration(14-round)*time.Minute)
	})
	// The operator first decrypts a ring that it has not seen before, to find the passphrases of its keys.
	f.isPrompt("a longer life of tokens is in the Deployment", func(g client.ObjectKey, round int) func() error {
		return f.changeExpiry(g, time.Duration(20+round)*time.Minute)
	})
	f.isPrompt("a Service that was deleted is there again", func(g client.ObjectKey, _ int) func() error {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: g.Name}}
		if err := f.client.Delete(f.t.Context(), service); err != nil {
			f.t.Fatal(err)
		}
		return func() error { return f.client.Get(f.t.Context(), g, &corev1.Service{}) }
	})
	operator.isSmall("the changes")
	operator.stop()
}

// fleet holds all gateways in one API server.
type fleet struct {
	t       *testing.T
	began   time.Time
	client  client.Client        // an administrator's
	server  kubernetes.Interface // for its metrics
	program string               // the operator
	config  string               // its kubeconfig
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, began: time.Now(), program: filepath.Join(t.TempDir(), "operator"), config: filepath.Join(t.TempDir(), "kubeconfig")}
	// The binary is built as in the Dockerfile.
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", f.program, "../../cmd/operator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the operator: %v\n%s", err, out)
	}
	administrator := kubernetestest.Config(t)
	administrator.QPS = -1
	var err error
	if f.client, err = client.New(administrator, client.Options{Scheme: controllers.Scheme()}); err != nil {
		t.Fatal(err)
	}
	if f.server, err = kubernetes.NewForConfig(administrator); err != nil {
		t.Fatal(err)
	}
	// By default the server has addresses for 254 Services.
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
	testenv.NoError(t, f.client.Create(t.Context(), more))
	config := api.NewConfig()
	config.Clusters["it"] = &api.Cluster{Server: administrator.Host, CertificateAuthorityData: administrator.CAData}
	config.AuthInfos["it"] = &api.AuthInfo{ClientCertificateData: administrator.CertData, ClientKeyData: administrator.KeyData}
	config.Contexts["it"] = &api.Context{Cluster: "it", AuthInfo: "it"}
	config.CurrentContext = "it"
	testenv.NoError(t, clientcmd.WriteToFile(*config, f.config))
	return f
}

func (*fleet) namespaceOf(i int) string { return fmt.Sprintf("scale-%d", i%namespaces) }

func (f *fleet) gateway(i int) *v1alpha1.AuthGateway {
	return &v1alpha1.AuthGateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespaceOf(i), Name: fmt.Sprintf("auth-%d", i)},
		Spec: v1alpha1.AuthGatewaySpec{Database: v1alpha1.Database{
			Host: "postgres.shop.svc", Name: "auth", CredentialsSecretRef: &v1alpha1.LocalReference{Name: "auth-db"},
		}, PublicKeys: v1alpha1.PublicKeysSharing{AllowedNamespaces: &metav1.LabelSelector{}}},
	}
}

// createCopies creates a PublicKeys of each gateway in the next namespace.
func (f *fleet) createCopies() {
	f.t.Helper()
	f.each(gateways, func(ctx context.Context, i int) error {
		k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespaceOf(i + 1), Name: fmt.Sprintf("copy-%d", i)}}
		k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: f.namespaceOf(i), Name: f.gateway(i).Name}
		return f.client.Create(ctx, k)
	})
}

func (f *fleet) copiesReady() error {
	var all v1alpha1.PublicKeysList
	if err := f.client.List(f.t.Context(), &all); err != nil {
		return err
	}
	ready := 0
	for _, k := range all.Items {
		if meta.IsStatusConditionTrue(k.Status.Conditions, "Ready") {
			ready++
		}
	}
	if ready != gateways {
		return fmt.Errorf("%d of %d are", ready, gateways)
	}
	return nil
}

// each calls a function n times, several times in parallel.
func (f *fleet) each(n int, do func(ctx context.Context, i int) error) {
	f.t.Helper()
	g, ctx := errgroup.WithContext(f.t.Context())
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

// copyKeys copies the keys of the first gateway for the next ones.
func (f *fleet) copyKeys() {
	f.t.Helper()
	first := f.gateway(0)
	for _, of := range []string{"-keys", "-passphrases"} {
		original := &corev1.Secret{}
		if err := f.client.Get(f.t.Context(), client.ObjectKey{Namespace: first.Namespace, Name: first.Name + of}, original); err != nil {
			f.t.Fatal(err)
		}
		f.each(gateways-namespaces, func(ctx context.Context, i int) error {
			g := f.gateway(namespaces + i)
			duplicate := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: g.Name + of, Labels: maps.Clone(original.Labels),
					Annotations: original.Annotations},
				Type: original.Type, Data: original.Data,
			}
			duplicate.Labels["authgateway.io/gateway"] = g.Name
			return f.client.Create(ctx, duplicate)
		})
	}
}

// createOthers creates Secrets that are unrelated to the operator, beside its own.
func (f *fleet) createOthers() {
	f.t.Helper()
	f.each(others, func(ctx context.Context, i int) error {
		content := make([]byte, payload)
		for j := range content {
			content[j] = byte(rand.Uint32())
		}
		return f.client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: f.namespaceOf(i), Name: fmt.Sprintf("other-%d", i),
				Labels:      map[string]string{"app.kubernetes.io/name": "other", "app.kubernetes.io/managed-by": "Helm"},
				Annotations: map[string]string{"meta.helm.sh/release-name": fmt.Sprintf("other-%d", i)},
			},
			Data: map[string][]byte{"content": content},
		})
	})
}

// rollOut replaces the Deployment controller. It marks all pods as ready.
func (f *fleet) rollOut() {
	f.t.Helper()
	f.each(gateways, func(ctx context.Context, i int) error {
		g := f.gateway(i)
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: g.Name}}
		return f.client.Status().Patch(ctx, d, client.RawPatch(types.MergePatchType,
			[]byte(`{"status":{"observedGeneration":1,"replicas":2,"updatedReplicas":2,"readyReplicas":2,"availableReplicas":2}}`)))
	})
}

func (f *fleet) count(list client.ObjectList, want int) error {
	if err := f.client.List(f.t.Context(), list); err != nil {
		return err
	}
	if have := meta.LenList(list); have != want {
		return fmt.Errorf("there are %d of %d", have, want)
	}
	return nil
}

func (f *fleet) allReady() error {
	var all v1alpha1.AuthGatewayList
	if err := f.client.List(f.t.Context(), &all); err != nil {
		return err
	}
	ready, example := 0, ""
	for _, g := range all.Items {
		c := meta.FindStatusCondition(g.Status.Conditions, "Ready")
		switch {
		case c != nil && c.Status == metav1.ConditionTrue:
			ready++
		case c != nil:
			example = fmt.Sprintf("; %s: %s: %s", g.Name, c.Reason, c.Message)
		}
	}
	if ready != gateways {
		return fmt.Errorf("%d of %d are%s", ready, gateways, example)
	}
	return nil
}

// changeExpiry changes the lifetime of access tokens, and returns a function that checks the Deployment for it.
func (f *fleet) changeExpiry(g client.ObjectKey, expiry time.Duration) func() error {
	f.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"tokens":{"accessTokenTTL":%q}}}`, expiry)
	object := &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: g.Name}}
	if err := f.client.Patch(f.t.Context(), object, client.RawPatch(types.MergePatchType, patch)); err != nil {
		f.t.Fatal(err)
	}
	return func() error {
		d := &appsv1.Deployment{}
		if err := f.client.Get(f.t.Context(), g, d); err != nil {
			return err
		}
		for _, e := range d.Spec.Template.Spec.Containers[0].Env {
			if e.Name == serverconfig.EnvAccessTokenExpiry && e.Value == strconv.Itoa(int(expiry.Seconds())) {
				return nil
			}
		}
		return fmt.Errorf("the Deployment does not set the lifetime %s", expiry)
	}
}

// isPrompt changes one gateway after another, and measures the reaction. The machine may be busy with other tests, so
// one round of three must be fast enough.
func (f *fleet) isPrompt(what string, ask func(g client.ObjectKey, round int) (done func() error)) {
	f.t.Helper()
	for round := range 3 {
		var took []time.Duration
		for i := range namespaces {
			begin := time.Now()
			done := ask(client.ObjectKeyFromObject(f.gateway(i)), round)
			for err := done(); err != nil; err = done() {
				if time.Since(begin) > patience {
					f.t.Fatalf("not in time: %s: %v", what, err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		median := took[len(took)/2]
		f.t.Logf("%s: fastest %s, median %s, slowest %s", what, rounded(took[0]), rounded(median), rounded(took[len(took)-1]))
		if median < mostDelay {
			return
		}
	}
	f.t.Errorf("%s: not within %s", what, mostDelay)
}

// writesNothing counts the writes to the API server while f runs. The server counts all clients, of which only the
// operator is not part of the test.
func (f *fleet) writesNothing(during string, something func()) {
	f.t.Helper()
	before := f.requests()
	something()
	after := f.requests()
	reads := 0
	for what, n := range after {
		n -= before[what]
		verb, resource, _ := strings.Cut(what, " ")
		switch {
		case n == 0:
		case slices.Contains([]string{"GET", "LIST", "WATCH"}, verb):
			reads += n
		case resource == "leases", strings.HasPrefix(resource, "events"): // the server's own, and events of earlier changes
			f.t.Logf("during %s: %d × %s", during, n, what)
		default:
			f.t.Errorf("during %s: %d × %s", during, n, what)
		}
	}
	f.t.Logf("during %s: %d reads", during, reads)
}

// requests returns the number of requests that the API server has served, by verb and resource.
type requests map[string]int

func (r requests) of(what string) int { return r[what] }

var requestsLine = regexp.MustCompile(`(?m)^apiserver_request_total\{([^}]*)\} (\S+)$`)

func (f *fleet) requests() requests {
	f.t.Helper()
	text, err := f.server.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	all := requests{}
	for _, line := range requestsLine.FindAllSubmatch(text, -1) {
		label := func(name string) string {
			_, value, _ := strings.Cut(","+string(line[1]), ","+name+`="`)
			value, _, _ = strings.Cut(value, `"`)
			return value
		}
		n, err := strconv.ParseFloat(string(line[2]), 64)
		if err != nil {
			f.t.Fatalf("%s: %v", line[0], err)
		}
		what := label("verb") + " " + label("resource")
		if sub := label("subresource"); sub != "" && label("resource") != "" {
			what += "/" + sub
		}
		if label("resource") != "" {
			all[what] += int(n)
		}
	}
	if len(all) == 0 {
		f.t.Fatal("the server counts no requests")
	}
	return all
}

// rest waits until the operator sends no more requests.
func (f *fleet) rest() {
	f.t.Helper()
	asked := func() (n int) {
		for what, times := range f.requests() {
			if !strings.HasSuffix(what, " leases") && !strings.HasPrefix(what, "WATCH") {
				n += times
			}
		}
		return n
	}
	still := 0
	last := asked()
	f.eventually("the operator is at rest", func() error {
		time.Sleep(time.Second) // the absence of requests cannot be waited for
		now := asked()
		if now == last {
			still++
		} else {
			still = 0
		}
		last = now
		if still < 3 {
			return fmt.Errorf("it was, for %d s", still)
		}
		return nil
	})
}

func (f *fleet) eventually(what string, holds func() error) {
	f.t.Helper()
	testenv.Eventually(f.t, patience, what, holds)
}

// process is a running operator.
type process struct {
	f     *fleet
	cmd   *exec.Cmd
	log   string // the path of its log
	ended chan error
}

func (f *fleet) startOperator() *process {
	f.t.Helper()
	log, err := os.Create(filepath.Join(f.t.TempDir(), "operator.log"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	p := &process{f: f, log: log.Name(), ended: make(chan error, 1)}
	// It does not use leader election, because a busy machine would make it lose the lease. It ends with the context of
	// the test.
	p.cmd = exec.CommandContext(f.t.Context(), f.program, "--server-image=example.com/authserver:test",
		"--leader-elect=false", "--metrics-bind-address=0", "--health-probe-bind-address=0")
	p.cmd.Env = append(os.Environ(), "KUBECONFIG="+f.config, "POD_NAMESPACE=auth-gateway-system", "MEMORY_LIMIT="+memoryLimit)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Linux ends the child with the thread that created it, so this thread stays.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		said, err := os.ReadFile(p.log)
		if f.t.Failed() {
			f.t.Logf("the end of the operator's log (%v):\n%s", err, said[max(0, len(said)-4096):])
		}
	})
	return p
}

// waitFor waits until the operator logs a text.
func (p *process) waitFor(text string) {
	p.f.t.Helper()
	p.f.eventually("it says "+text, func() error {
		said, err := os.ReadFile(p.log)
		if err == nil && !bytes.Contains(said, []byte(text)) {
			err = fmt.Errorf("it is not in the %d bytes of the log", len(said))
		}
		return err
	})
}

// stop ends the operator with SIGTERM, as Kubernetes does.
func (p *process) stop() {
	p.f.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.f.t.Fatalf("the operator ended before it was stopped: %v", err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			p.f.t.Errorf("the operator ended: %v", err)
		}
	case <-time.After(time.Minute):
		p.f.t.Fatal("the operator does not stop")
	}
}

var memoryLine = regexp.MustCompile(`(?m)^(VmHWM|VmRSS):\s+(\d+) kB$`)

// memory returns the operator's resident memory and its maximum.
func (p *process) memory() (now, peak int) {
	p.f.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.f.t.Fatalf("the operator has ended: %v", err)
	}
	found := map[string]int{}
	for _, line := range memoryLine.FindAllSubmatch(status, -1) {
		kilobytes, err := strconv.Atoi(string(line[2]))
		if err != nil {
			p.f.t.Fatal(err)
		}
		found[string(line[1])] = kilobytes << 10
	}
	if found["VmRSS"] == 0 {
		p.f.t.Fatalf("there are no memory figures in %s", status)
	}
	return found["VmRSS"], found["VmHWM"]
}

func (p *process) tell(when string) {
	p.f.t.Helper()
	now, peak := p.memory()
	p.f.t.Logf("memory after %s: %d MiB, at most %d MiB", when, now>>20, peak>>20)
}

func (p *process) isSmall(after string) {
	p.f.t.Helper()
	p.tell(after)
	if now, _ := p.memory(); now >= mostMemory {
		p.f.t.Errorf("after %s the operator uses %d MiB, want less than %d", after, now>>20, mostMemory>>20)
	}
}

func since(begin time.Time) time.Duration { return time.Since(begin).Round(100 * time.Millisecond) }

func rounded(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

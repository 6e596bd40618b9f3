package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
)

const (
	operatorNamespace = "auth-gateway-system"
	operatorName      = "auth-gateway-operator" // the name of its Deployment and lease, and the label of its pods
	release           = "auth-gateway"
)

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	flag.Parse()
	code := m.Run()
	for _, line := range figures.all {
		fmt.Println(line)
	}
	os.Exit(code)
}

var figures struct {
	sync.Mutex
	all []string
}

// figure prints a measurement now and again after all tests.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	line := "figure: " + fmt.Sprintf(format, args...)
	t.Log(line)
	figures.Lock()
	defer figures.Unlock()
	figures.all = append(figures.all, line)
}

// cluster is an administrator's access to the cluster.
type cluster struct {
	client.Client

	clients    kubernetes.Interface
	config     *rest.Config
	http       *http.Client
	kubeconfig string
	root       string // of the checkout

	probeImage, postgresImage string
}

func connect(t *testing.T) cluster {
	t.Helper()
	c := testenv.Must(connected())(t)
	return c
}

var connected = sync.OnceValues(func() (cluster, error) {
	root, err := localkubernetes.Root()
	if err != nil {
		return cluster{}, err
	}
	c := cluster{root: root, kubeconfig: cmp.Or(os.Getenv("KUBECONFIG"), filepath.Join(root, ".local", "cluster", "kubeconfig"))}
	if _, err := os.Stat(c.kubeconfig); err != nil {
		return c, fmt.Errorf("there is no cluster: run `make up`, or set KUBECONFIG to the kubeconfig of one: %w", err)
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return c, fmt.Errorf("%s: %w", c.kubeconfig, err)
	}
	c.config.QPS = -1
	c.config.Timeout = time.Minute // ending a load can take half a minute
	if c.Client, err = client.New(c.config, client.Options{Scheme: controllers.Scheme()}); err != nil {
		return c, fmt.Errorf("the cluster of %s does not answer; `make up` creates one: %w", c.kubeconfig, err)
	}
	if c.clients, err = kubernetes.NewForConfig(c.config); err != nil {
		return c, err
	}
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return c, err
	}
	images := &corev1.ConfigMap{}
	err = c.Get(context.Background(), client.ObjectKey{Namespace: operatorNamespace, Name: "local-images"}, images)
	if err != nil && !apierrors.IsNotFound(err) {
		return c, fmt.Errorf("read the names of images: %w", err)
	}
	c.probeImage = cmp.Or(os.Getenv("E2E_PROBE_IMAGE"), images.Data["probe"])
	c.postgresImage = cmp.Or(os.Getenv("E2E_POSTGRES_IMAGE"), images.Data["postgres"])
	if c.probeImage == "" || c.postgresImage == "" {
		return c, errors.New("the images to use are unknown: `make up` writes the ConfigMap local-images; " +
			"for another kind of cluster set E2E_PROBE_IMAGE and E2E_POSTGRES_IMAGE")
	}
	return c, nil
})

// pidFile returns the file with the process id of a component, and whether the node is our own and has such files.
// While the component is down, its file does not exist.
func (c cluster) pidFile(of string) (path string, ours bool) {
	dir := filepath.Join(filepath.Dir(c.kubeconfig), "pids")
	_, err := os.Stat(dir)
	return filepath.Join(dir, of), err == nil
}

// lead returns the delay after which readers see new keys. Our node's kubelet checks mounted ConfigMaps every 10 to 15
// seconds, others every 90 seconds at most, and the probe reads them again after 2.
func (c cluster) lead(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("E2E_PUBLISH_LEAD"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("E2E_PUBLISH_LEAD: %v", err)
		}
		return d
	}
	if _, ours := c.pidFile("kubelet"); ours {
		return 20 * time.Second
	}
	return 100 * time.Second
}

// exec runs a command in a pod's only container. The caller must check its effect elsewhere: it may end the container
// and the command with it.
func (c cluster) exec(t *testing.T, namespace, pod string, command ...string) {
	t.Helper()
	location := c.clients.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	location.Scheme = strings.Replace(location.Scheme, "http", "ws", 1)
	socket, err := websocket.NewConfig(location.String(), c.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	socket.Protocol = []string{"v5.channel.k8s.io"}
	if socket.TlsConfig, err = rest.TLSConfigFor(c.config); err != nil {
		t.Fatal(err)
	}
	if c.config.BearerToken != "" {
		socket.Header.Set("Authorization", "Bearer "+c.config.BearerToken)
	}
	conn, err := socket.DialContext(t.Context())
	if err != nil {
		t.Fatalf("exec in pod %s: %v", pod, err)
	}
	defer conn.Close()
	testenv.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	for {
		var frame []byte
		if err := websocket.Message.Receive(conn, &frame); err != nil {
			return
		}
		if len(frame) > 1 { // its first byte is the channel
			t.Logf("exec in pod %s: %s", pod, frame[1:])
		}
	}
}

// tell prints what happened in a namespace, without the content of Secrets.
func (c cluster) tell(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	say("==== %s ====", namespace)
	c.tellGateways(ctx, namespace, say)
	pods, err := c.clients.CoreV1().Pods(namespace).List(ctx, everything)
	if err != nil {
		say("pods: %v", err)
		pods = &corev1.PodList{}
	}
	for i := range pods.Items {
		tellPod(&pods.Items[i], say)
	}
	events, err := c.clients.CoreV1().Events(namespace).List(ctx, everything)
	if err != nil {
		say("events: %v", err)
		events = &corev1.EventList{}
	}
	when := func(e corev1.Event) time.Time {
		if e.LastTimestamp.IsZero() {
			return e.CreationTimestamp.Time
		}
		return e.LastTimestamp.Time
	}
	slices.SortFunc(events.Items, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	for _, e := range events.Items[max(0, len(events.Items)-50):] {
		say("event %s %s/%s %s: %s", when(e).Format(time.TimeOnly), e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			for _, before := range []bool{true, false} {
				if before && s.RestartCount == 0 {
					continue
				}
				text, err := c.clients.CoreV1().Pods(namespace).GetLogs(p.Name, &corev1.PodLogOptions{
					Container: s.Name, Previous: before, TailLines: new(int64(40)),
				}).DoRaw(ctx)
				say("---- log of %s (before it was restarted: %v): %v\n%s", p.Name, before, err, text)
			}
		}
	}
	t.Log(out.String())
}

func (c cluster) tellGateways(ctx context.Context, namespace string, say func(string, ...any)) {
	gateways, err := c.gateways(ctx, namespace)
	if err != nil {
		say("AuthGateways: %v", err)
	}
	for _, g := range gateways {
		say("AuthGateway %s, generation %d, observed %d", g.Name, g.Generation, g.Status.ObservedGeneration)
		for _, condition := range g.Status.Conditions {
			say("  %s %s since %s %s: %s", condition.Type, condition.Status,
				condition.LastTransitionTime.Format(time.TimeOnly), condition.Reason, condition.Message)
		}
		if g.Status.Keys != nil {
			for _, k := range slices.Concat(g.Status.Keys.Access, g.Status.Keys.Refresh) {
				say("  key %s %s since %s", k.KID, k.Phase, k.LastTransitionTime.Format(time.TimeOnly))
			}
		}
	}
}

func tellPod(p *corev1.Pod, say func(string, ...any)) {
	say("pod %s %s %s, leaving: %v", p.Name, p.Status.Phase, p.Status.PodIP, p.DeletionTimestamp != nil)
	for _, condition := range p.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			say("  %s %s %s: %s", condition.Type, condition.Status, condition.Reason, condition.Message)
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		say("  container %s ready %v, restarted %d times", s.Name, s.Ready, s.RestartCount)
		if waits := s.State.Waiting; waits != nil {
			say("    waits: %s: %s", waits.Reason, waits.Message)
		}
		for _, ended := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if ended != nil {
				say("    ended with %d at %s: %s: %s", ended.ExitCode, ended.FinishedAt.Format(time.TimeOnly), ended.Reason, ended.Message)
			}
		}
	}
}

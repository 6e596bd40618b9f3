//go:build cloudnativepg

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/failovertest"
)

// postgresCluster is a Cluster of CloudNativePG with three instances.
type postgresCluster struct {
	testNamespace

	password string // of the gateway's user
}

const (
	clusterName = "shop-db"
	instances   = 3
)

// TestCloudNativePG runs a gateway over a real CloudNativePG, whose primary is killed, switched over and frozen, and
// whose replicas are cut off. Package failovertest judges what the clients get.
//
// It takes five minutes, and needs the operator in the cluster: `make cloudnativepg` installs it and runs the test.
func TestCloudNativePG(t *testing.T) {
	d := newPostgresCluster(t)
	d.server(t, d.primary(t)).Prepare(t)

	g := smallest("auth", cheapPasswords, func(s *v1alpha1.AuthGatewaySpec) {
		s.Database = v1alpha1.Database{
			CloudNativePG: &v1alpha1.CloudNativePG{Cluster: clusterName}, MinIdleConnections: 2,
			SSLMode: "verify-full", CASecretRef: &v1alpha1.LocalReference{Name: clusterName + "-ca"},
		}
		s.Tokens.AccessTokenTTL, s.Tokens.ReuseGrace = "2h", "10m"
	})
	d.create(t, g)
	figure(t, "over CloudNativePG, from apply to Ready: %.1f s", d.ready(t, "auth", later).Seconds())
	a := d.probe(t, "auth")
	a.drive(t)

	servers := testenv.Must(d.servers(t, "auth"))(t)
	// Hashes cost more than in test/failover, and three PostgreSQL with their operators share the processors.
	options := failovertest.Options{People: 2, Pace: 400 * time.Millisecond, Pulse: 200 * time.Millisecond}
	for _, pod := range servers {
		options.Gateways = append(options.Gateways, failovertest.Gateway{
			URL:    "http://" + net.JoinHostPort(pod.Status.PodIP, "8080"),
			Header: http.Header{"X-Caller-Key": {a.callerKey}},
			Database: func() string {
				text, err := d.clients.CoreV1().RESTClient().Get().Namespace(d.name).Resource("pods").Name(pod.Name + ":9090").
					SubResource("proxy").Suffix("readyz/database").DoRaw(context.WithoutCancel(t.Context()))
				return fmt.Sprintf("%s, %v", text, err)
			},
		})
	}
	order := failovertest.Order(t, []string{"kill", "switchover", "freeze", "cut"}, []string{"kill", "switchover", "freeze"}, "cut")
	failovertest.New(t, options).Run(order, d.faults(t), func() { d.whole(t) })

	for _, before := range servers {
		var now corev1.Pod
		d.get(t, before.Name, &now)
		if now.UID != before.UID || !isReady(&now) || now.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("pod %s was replaced, restarted or is not ready: %+v", before.Name, now.Status)
		}
	}
	testenv.NoError(t, d.isReady(t, "auth"))
	a.drive(t)
}

func newPostgresCluster(t *testing.T) *postgresCluster {
	t.Helper()
	c := connect(t)
	if _, ours := c.pidFile("kubelet"); !ours {
		t.Fatal("the test freezes processes of the node: it needs the cluster that make up creates without Docker")
	}
	if _, err := c.RESTMapper().RESTMapping(clusterKind.GroupKind()); meta.IsNoMatchError(err) {
		t.Fatal("CloudNativePG is not installed in the cluster: run make cloudnativepg")
	}
	volumes := &volumes{cluster: c}
	t.Cleanup(func() { volumes.remove(t) })
	d := &postgresCluster{testNamespace: newTestNamespace(t)}
	volumes.create(t, d.name)
	begun := time.Now()
	d.create(t, d.manifest(t))
	d.whole(t)
	figure(t, "CloudNativePG has %d instances after %.0f s", instances, time.Since(begun).Seconds())
	secret := &corev1.Secret{}
	d.get(t, clusterName+"-app", secret)
	d.password = string(secret.Data["password"])
	return d
}

var clusterKind = schema.GroupVersionKind{Group: "postgresql.cnpg.io", Version: "v1", Kind: "Cluster"}

// manifest is that of docs/operations.md with an image and a volume that the node has.
func (d *postgresCluster) manifest(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	testenv.NoError(t, yaml.Unmarshal([]byte(`
spec:
  instances: `+strconv.Itoa(instances)+`
  bootstrap:
    initdb: {database: `+databaseName+`, owner: `+databaseUser+`}
  postgresql:
    synchronous: {method: any, number: 1, dataDurability: required, failoverQuorum: true}
  probes:
    readiness: {periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 3}
    liveness: {periodSeconds: 3, timeoutSeconds: 3, failureThreshold: 4, terminationGracePeriodSeconds: 1}
  # From here on it is for the test.
  imageName: `+d.postgresImage+`
  postgresUID: 999
  postgresGID: 999
  storage: {size: 1Gi, storageClass: `+d.name+`}
  resources:
    requests: {cpu: 100m, memory: 128Mi}
  smartShutdownTimeout: 2
`), &object.Object))
	object.SetGroupVersionKind(clusterKind)
	object.SetName(clusterName)
	return object
}

// volumes are folders of the node, which provides no volumes on its own.
type volumes struct {
	cluster

	name string // of the StorageClass, and in front of the numbers of the volumes
}

func (v *volumes) folder(number int) string {
	return filepath.Join(filepath.Dir(v.kubeconfig), "volumes", v.volume(number))
}

func (v *volumes) volume(number int) string { return fmt.Sprintf("%s-%d", v.name, number) }

func (v *volumes) create(t *testing.T, name string) {
	t.Helper()
	v.name = name
	testenv.NoError(t, v.Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "kubernetes.io/no-provisioner",
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	}))
	for number := range instances {
		testenv.NoError(t, os.MkdirAll(v.folder(number), 0o700))
		testenv.NoError(t, v.Create(t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: v.volume(number)},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: name,
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: v.folder(number)}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}},
				}}}},
			},
		}))
	}
}

// remove waits until the pods are gone, which use the folders.
func (v *volumes) remove(t *testing.T) {
	if v.name == "" || t.Failed() && os.Getenv("E2E_KEEP") == "1" {
		return
	}
	ctx := context.WithoutCancel(t.Context())
	testenv.Eventually(t, later, "the pods of the PostgreSQL have ended", func() error {
		var pods corev1.PodList
		if err := v.List(ctx, &pods, client.InNamespace(v.name), client.HasLabels{"cnpg.io/cluster"}); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("pod %s has not", pods.Items[0].Name)
		}
		return nil
	})
	for number := range instances {
		testenv.NoError(t, v.Delete(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: v.volume(number)}}))
		testenv.NoError(t, os.RemoveAll(v.folder(number)))
	}
	testenv.NoError(t, v.Delete(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: v.name}}))
}

// state is the status of the Cluster, as far as the test needs it.
type state struct {
	Phase          string `json:"phase"`
	CurrentPrimary string `json:"currentPrimary"`
	TargetPrimary  string `json:"targetPrimary"`
	ReadyInstances int    `json:"readyInstances"`
}

func (d *postgresCluster) state(t *testing.T) (s state, err error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(clusterKind)
	if err := d.Get(t.Context(), client.ObjectKey{Namespace: d.name, Name: clusterName}, object); err != nil {
		return s, err
	}
	text, err := yaml.Marshal(object.Object["status"])
	if err != nil {
		return s, err
	}
	return s, yaml.Unmarshal(text, &s)
}

// whole waits until all instances are ready, and replicate from the primary.
func (d *postgresCluster) whole(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, 4*time.Minute, "all instances of the PostgreSQL are ready", func() error {
		s, err := d.state(t)
		if err != nil {
			return err
		}
		if s.ReadyInstances != instances || s.Phase != "Cluster in healthy state" || s.CurrentPrimary != s.TargetPrimary {
			return fmt.Errorf("the status of the Cluster is %+v", s)
		}
		return nil
	})
}

// primary returns the pod of the primary, and standbys returns the others.
func (d *postgresCluster) primary(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	d.get(t, testenv.Must(d.state(t))(t).CurrentPrimary, pod)
	return pod
}

func (d *postgresCluster) standbys(t *testing.T) (pods []corev1.Pod) {
	t.Helper()
	var all corev1.PodList
	testenv.NoError(t, d.List(t.Context(), &all, client.InNamespace(d.name),
		client.MatchingLabels{"cnpg.io/cluster": clusterName, "cnpg.io/podRole": "instance"}))
	primary := d.primary(t).Name
	for _, pod := range all.Items {
		if pod.Name != primary {
			pods = append(pods, pod)
		}
	}
	if len(pods) != instances-1 {
		t.Fatalf("there are %d standbys", len(pods))
	}
	return pods
}

// server is the PostgreSQL of a pod, for the gateway's user.
func (d *postgresCluster) server(t *testing.T, pod *corev1.Pod) failovertest.Server {
	t.Helper()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(databaseUser, d.password), Host: net.JoinHostPort(pod.Status.PodIP, "5432"),
		Path: databaseName, RawQuery: "sslmode=require&connect_timeout=2"}
	return failovertest.Server{Name: pod.Name, URL: u.String()}
}

// faults returns what happens to the PostgreSQL.
func (d *postgresCluster) faults(t *testing.T) map[string]failovertest.Fault {
	nothing := func() {}
	type fault func(primary *corev1.Pod, standbys []corev1.Pod) (restarted []failovertest.Server, mend func())
	promotes := func(f fault) failovertest.Fault {
		return func() (failovertest.Turn, func()) {
			primary, standbys := d.primary(t), d.standbys(t)
			var servers []failovertest.Server
			for i := range standbys {
				servers = append(servers, d.server(t, &standbys[i]))
			}
			restarted, mend := f(primary, standbys)
			return failovertest.Promoted(t, append(servers, restarted...)...), mend
		}
	}
	return map[string]failovertest.Fault{
		"kill": promotes(func(primary *corev1.Pod, _ []corev1.Pod) ([]failovertest.Server, func()) {
			d.destroy(t, *primary)
			return nil, nothing
		}),
		// As kubectl cnpg promote does.
		"switchover": promotes(func(_ *corev1.Pod, standbys []corev1.Pod) ([]failovertest.Server, func()) {
			object := &unstructured.Unstructured{}
			object.SetGroupVersionKind(clusterKind)
			object.SetNamespace(d.name)
			object.SetName(clusterName)
			patch := asJSON(t, map[string]any{"status": map[string]any{
				"targetPrimary": standbys[0].Name, "targetPrimaryTimestamp": time.Now().UTC().Format(time.RFC3339Nano),
				"phase": "Switchover in progress", "phaseReason": "Switching over to " + standbys[0].Name,
			}})
			testenv.NoError(t, d.Status().Patch(t.Context(), object, client.RawPatch(types.MergePatchType, patch)))
			return nil, nothing
		}),
		"freeze": promotes(func(primary *corev1.Pod, _ []corev1.Pod) ([]failovertest.Server, func()) {
			signal(t, primary, syscall.SIGSTOP)
			// If the kubelet restarts it before the operator has noticed, it stays the primary.
			return []failovertest.Server{d.server(t, primary)}, func() { signal(t, primary, syscall.SIGCONT) }
		}),
		"cut": func() (failovertest.Turn, func()) {
			pod := d.standbys(t)[0]
			network(t, &pod, "-I")
			return failovertest.Turn{}, func() { network(t, &pod, "-D") }
		},
	}
}

// processes returns the processes of a pod on the node.
func processes(t *testing.T, pod *corev1.Pod) (pids []int) {
	t.Helper()
	groups := testenv.Must(filepath.Glob("/proc/[0-9]*/cgroup"))(t)
	for _, path := range groups {
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		testenv.NoError(t, err)
		if bytes.Contains(content, []byte("/pod"+string(pod.UID)+"/")) {
			pids = append(pids, testenv.Must(strconv.Atoi(strings.Split(path, "/")[2]))(t))
		}
	}
	return pids
}

// signal sends a signal to all processes of a pod. It may have been replaced since.
func signal(t *testing.T, pod *corev1.Pod, s syscall.Signal) {
	t.Helper()
	pids := processes(t, pod)
	if len(pids) < 5 && s == syscall.SIGSTOP {
		t.Fatalf("pod %s has the processes %v", pod.Name, pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("signal process %d of pod %s: %v", pid, pod.Name, err)
		}
	}
}

// network drops all packets from and to a pod, with -I, or lets them pass again, with -D.
func network(t *testing.T, pod *corev1.Pod, change string) {
	t.Helper()
	pids := processes(t, pod)
	if len(pids) == 0 {
		t.Fatalf("pod %s has no processes", pod.Name)
	}
	for _, rule := range [][]string{{"INPUT", "-i"}, {"OUTPUT", "-o"}} {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pids[0]),
			"iptables", "--wait", change, rule[0], rule[1], "eth0", "-j", "DROP")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", cmd.Args, err, out)
		}
	}
}

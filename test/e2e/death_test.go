package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// tries is the number of times that a well-behaved client retries a request.
const tries = 8

// It is not parallel, because it kills the operator and the API server, which all tests share.
func TestWhateverDiesComesBackAndNobodyIsAnsweredWrongly(t *testing.T) {
	// If each renewal replaces the refresh token, a lost reply to a renewal is the hardest case.
	p, a := serving(t, func(s *v1alpha1.AuthGatewaySpec) { s.Tokens.Rotation = v1alpha1.RotateAlways })
	for _, tc := range []struct {
		who string
		// kill returns a function that waits until the component is back.
		kill func(t *testing.T, p testNamespace) (back func())
		// If patientLoseNothing is set, a client that retries gets a reply to every request.
		patientLoseNothing bool
	}{
		{"a server", killServer, true},
		{"the operator that leads", killLeader, true},
		{"every operator", killOperators, true},
		{"the API server", killAPIServer, true},
		{"the database", killDatabase, false},
	} {
		t.Run(tc.who, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() { // before the next case changes the state
					p.tell(t, p.name)
					p.tell(t, operatorNamespace)
				}
			})
			l := a.load(t, tries, time.Minute)
			begin := time.Now()
			back := tc.kill(t, p)
			back()
			isBack := time.Since(begin)
			p.settled(t, "auth", 2)
			p.operatorActs(t, "auth")
			all := time.Since(begin)
			l.flows(t)
			what := fmt.Sprintf("%s is killed; back after %.1f s, all is well after %.1f s", tc.who, isBack.Seconds(), all.Seconds())
			if tc.patientLoseNothing {
				l.perfect(t, what)
			} else {
				l.truthful(t, what)
			}
		})
	}
}

// destroy deletes a pod without a grace period.
func (c cluster) destroy(t *testing.T, pods ...corev1.Pod) {
	t.Helper()
	for _, pod := range pods {
		testenv.NoError(t, c.Delete(t.Context(), &pod, client.GracePeriodSeconds(0)))
	}
}

func killServer(t *testing.T, p testNamespace) func() {
	pods, err := p.servers(t, "auth")
	if err != nil || len(pods) == 0 {
		t.Fatalf("its pods are %v, %v", pods, err)
	}
	p.destroy(t, pods[0])
	return func() { p.settled(t, "auth", 2, pods[0]) }
}

// leader returns the operator's pod that holds the lease.
func (c cluster) leader(t *testing.T) (string, error) {
	lease := &coordinationv1.Lease{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}, lease); err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil {
		return "", nil
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod, nil
}

// killOperatorsWho kills some of the operator's pods, and waits until another pod leads and all are ready.
func killOperatorsWho(t *testing.T, p testNamespace, meant func(name, leader string) bool) func() {
	t.Helper()
	p.operatorRuns(t)
	leader := testenv.Must(p.leader(t))(t)
	dead := map[string]bool{}
	for _, pod := range p.operators(t) {
		if meant(pod.Name, leader) {
			dead[pod.Name] = true
			p.destroy(t, pod)
		}
	}
	if !dead[leader] {
		t.Fatalf("the lease is held by %q, which is not a pod of the operator", leader)
	}
	return func() {
		testenv.Eventually(t, later, "another operator leads", func() error {
			switch now, err := p.leader(t); {
			case err != nil:
				return err
			case now == "" || dead[now]:
				return fmt.Errorf("the lease is held by %q", now)
			}
			return nil
		})
		p.operatorRuns(t)
	}
}

func killLeader(t *testing.T, p testNamespace) func() {
	return killOperatorsWho(t, p, func(name, leader string) bool { return name == leader })
}

func killOperators(t *testing.T, p testNamespace) func() {
	return killOperatorsWho(t, p, func(string, string) bool { return true })
}

// killAPIServer kills the process, which is possible only on our own node.
func killAPIServer(t *testing.T, p testNamespace) func() {
	file, ours := p.pidFile("kube-apiserver")
	if !ours {
		t.Skipf("make up did not create this cluster without Docker (%s does not exist), so its API server cannot be killed", file)
	}
	read := func() (int, error) {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(text)))
	}
	pid := testenv.Must(read())(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
	return func() {
		testenv.Eventually(t, later, "the API server is back", func() error {
			now, err := read()
			if err != nil {
				return err
			}
			if now == pid {
				return fmt.Errorf("it is still process %d", pid)
			}
			return p.clients.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
		})
		p.operatorRuns(t)
	}
}

// killDatabase crashes PostgreSQL. Its data stays.
func killDatabase(t *testing.T, p testNamespace) func() {
	restarts := func() int32 {
		pod := &corev1.Pod{}
		p.get(t, databaseHost, pod)
		return pod.Status.ContainerStatuses[0].RestartCount
	}
	before := restarts()
	p.exec(t, p.name, databaseHost, "/bin/sh", "-c", "kill -QUIT 1")
	return func() {
		testenv.Eventually(t, later, "PostgreSQL was started again", func() error {
			if now := restarts(); now == before {
				return fmt.Errorf("it was still restarted only %d times", now)
			}
			return nil
		})
		p.podReady(t, databaseHost)
	}
}

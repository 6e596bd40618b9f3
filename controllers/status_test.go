package controllers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// conditionsOf summarizes, and returns each condition as "Status Reason".
func conditionsOf(cs *clusterState, t keyResult, inKeys, found *problem) (map[string]string, v1alpha1.AuthGatewayStatus) {
	status := summarize(cs, t, inKeys, found, "an/image")
	all := map[string]string{}
	for _, c := range status.Conditions {
		all[c.Type] = string(c.Status) + " " + c.Reason
	}
	return all, status
}

func messageOf(status v1alpha1.AuthGatewayStatus, conditionType string) string {
	return meta.FindStatusCondition(status.Conditions, conditionType).Message
}

func addPod(cs *clusterState, name string, ready bool, age time.Duration) *corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(testTime.Add(-age))}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(testTime.Add(-age)),
	}}
	cs.pods = append(cs.pods, p)
	return &cs.pods[len(cs.pods)-1]
}

// starting changes a running gateway to one whose first pods are not ready.
func starting(cs *clusterState) {
	cs.deployment().Status.ReadyReplicas, cs.deployment().Status.AvailableReplicas = 0, 0
}

// administrators adds a Deployment for administrators with a pod of an age, which answers with a state.
func administrators(available int32, age time.Duration, state config.State) func(*clusterState, *keyResult) {
	return func(cs *clusterState, _ *keyResult) {
		cs.gateway.Spec.Admin.Enabled = true
		one := int32(1)
		cs.objects[idAdminDeployment] = &appsv1.Deployment{
			Spec:   appsv1.DeploymentSpec{Replicas: &one},
			Status: appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: available, AvailableReplicas: available},
		}
		if available == 0 {
			cs.adminPods = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{
				Name: "admin", CreationTimestamp: metav1.NewTime(testTime.Add(-age)),
			}}}
			cs.adminStates["admin"] = state
		}
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	never := errors.New("never")
	for name, c := range map[string]struct {
		change  func(*clusterState, *keyResult)
		problem *problem
		inKeys  bool // the problem is one with the keys
		want    map[string]string
		says    map[string][]string
	}{
		"everything is in place": {
			want: map[string]string{
				"Ready": "True Ready", "KeysReady": "True KeysPublished", "Available": "True ReplicasReady",
				"Reconciling": "False Ready", "Stalled": "False Ready", "DatabaseAvailable": "Unknown ReplicasMissing",
			},
		},
		"the first pods are not ready": {
			change: func(cs *clusterState, _ *keyResult) { starting(cs) },
			want: map[string]string{
				"Ready": "False Progressing", "Reconciling": "True Progressing", "Available": "False ReplicasMissing",
			},
			says: map[string][]string{"Ready": {"0 of 2 replicas"}},
		},
		"there is no Deployment": {
			change: func(cs *clusterState, _ *keyResult) { delete(cs.objects, idDeployment) },
			want:   map[string]string{"Ready": "False Progressing", "Available": "False ReplicasMissing"},
		},
		"the Deployment cannot be read": {
			change: func(cs *clusterState, _ *keyResult) {
				delete(cs.objects, idDeployment)
				cs.unread[idDeployment] = never
			},
			problem: classify(never),
			want:    map[string]string{"Ready": "False APIUnavailable", "Available": "Unknown APIUnavailable"},
		},
		"scaled to zero": {
			change: func(cs *clusterState, _ *keyResult) {
				d := cs.deployment()
				*d.Spec.Replicas, d.Status = 0, appsv1.DeploymentStatus{ObservedGeneration: 1}
			},
			want: map[string]string{"Ready": "True Ready", "Available": "False ScaledToZero"},
		},
		"suspended": {
			change: func(cs *clusterState, _ *keyResult) { cs.gateway.Spec.Suspend = true },
			want: map[string]string{ // not Unknown, which kstatus calls InProgress
				"Ready": "True Suspended", "Reconciling": "False Suspended", "Stalled": "False Ready",
				"Available": "True ReplicasReady",
			},
		},
		"suspended from the start": {
			change: func(cs *clusterState, found *keyResult) {
				cs.gateway.Spec.Suspend = true
				cs.objects, *found = nil, keyResult{}
			},
			want: map[string]string{"Ready": "False Suspended", "Stalled": "True Suspended"},
		},
		"administrators are served": {
			change: administrators(1, 1*time.Second, config.State{}),
			want:   map[string]string{"Ready": "True Ready", "AdminAvailable": "True ReplicasReady"},
		},
		"administrators are not served yet": {
			change: func(cs *clusterState, _ *keyResult) { cs.gateway.Spec.Admin.Enabled = true },
			want:   map[string]string{"Ready": "False Progressing", "AdminAvailable": "False Progressing"},
		},
		"the pods for administrators start": {
			change: administrators(0, 1*time.Second, config.State{Reason: "starting"}),
			want: map[string]string{
				"Ready": "False Progressing", "AdminAvailable": "False Progressing", "Available": "True ReplicasReady",
			},
			says: map[string][]string{"Ready": {"0 of 1 replicas for administrators", "pod admin: starting"}},
		},
		"the pods for administrators fail": {
			change: administrators(0, 60*time.Second, config.State{Reason: "waiting for the database"}),
			want:   map[string]string{"Ready": "False PodsFailing", "AdminAvailable": "False PodsFailing"},
			says:   map[string][]string{"AdminAvailable": {"pod admin: waiting for the database"}},
		},
		"the pods for administrators may not ask": {
			change: administrators(0, 60*time.Second, config.State{Reason: "may not", MayNotReview: true}),
			want: map[string]string{
				"Ready": "False ReviewsForbidden", "AdminAvailable": "False ReviewsForbidden", "Available": "True ReplicasReady",
			},
			says: map[string][]string{"Ready": {
				"kubectl create clusterrolebinding shop-auth-admin --clusterrole=system:auth-delegator --serviceaccount=shop:auth-admin",
			}},
		},
		"a problem that the operator waits for": {
			problem: waiting(v1alpha1.ReasonSecretMissing, "create it"),
			want: map[string]string{
				"Ready": "False SecretMissing", "Reconciling": "True SecretMissing", "Stalled": "False Ready",
				"KeysReady": "True KeysPublished",
			},
			says: map[string][]string{"Ready": {"create it"}},
		},
		"a problem that a person has to solve": {
			problem: stalled(v1alpha1.ReasonImageNotAllowed, "choose another"),
			want: map[string]string{
				"Ready": "False ImageNotAllowed", "Reconciling": "False ImageNotAllowed", "Stalled": "True ImageNotAllowed",
				"Available": "True ReplicasReady",
			},
			says: map[string][]string{"Stalled": {"choose another"}},
		},
		"a problem with the keys": {
			change:  func(_ *clusterState, found *keyResult) { found.complete = false },
			problem: stalled(v1alpha1.ReasonKeysLost, "restore them"), inKeys: true,
			want: map[string]string{"Ready": "False KeysLost", "KeysReady": "False KeysLost", "Stalled": "True KeysLost"},
		},
		"a kind is missing": {
			change: func(cs *clusterState, _ *keyResult) {
				cs.gateway.Spec.Monitoring.ServiceMonitor = &v1alpha1.ServiceMonitor{}
				cs.absent[objectID{gvk: gvkServiceMonitor}] = true
			},
			want: map[string]string{
				"Ready": "False KindMissing", "Available": "True ReplicasReady", "KeysReady": "True KeysPublished",
			},
			says: map[string][]string{"Ready": {"ServiceMonitor", "monitoring.coreos.com/v1"}},
		},
		"an upgrade waits": {
			change: func(cs *clusterState, _ *keyResult) { cs.upgradeWaits = true },
			want:   map[string]string{"Ready": "True Ready", "Reconciling": "True UpgradeWaiting"},
		},
		"a quota forbids pods": {
			change: func(cs *clusterState, _ *keyResult) {
				starting(cs)
				cs.deployment().Status.Conditions = []appsv1.DeploymentCondition{{
					Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota: pods",
				}}
			},
			want: map[string]string{"Ready": "False PodsFailing"},
			says: map[string][]string{"Ready": {"exceeded quota: pods"}},
		},
		"more connections than the database has": {
			change: func(cs *clusterState, _ *keyResult) {
				cs.gateway.Spec.Database.MaxConnections = 10
				addPod(cs, "one", true, time.Hour)
				cs.states["one"] = config.State{Database: config.DatabaseState{MaxConnections: 20}}
			},
			want: map[string]string{"Ready": "True Ready", "Available": "True TooManyConnections"},
			says: map[string][]string{"Available": {"2 replicas", "spec.database.maxConnections 10", "20 connections"}},
		},
		"a replica has no database": {
			change: func(cs *clusterState, _ *keyResult) {
				for _, name := range []string{"one", "two"} {
					addPod(cs, name, true, time.Hour)
					cs.states[name] = config.State{}
				}
				problem := "the database \"auth\" takes no writes:\nit is a standby\x07 " + strings.Repeat("x", 2000)
				cs.states["two"] = config.State{Database: config.DatabaseState{Problem: problem}}
			},
			want: map[string]string{
				"Ready": "False DatabaseUnavailable", "DatabaseAvailable": "False DatabaseUnavailable",
				"Available": "True ReplicasReady", "KeysReady": "True KeysPublished",
			},
			says: map[string][]string{"Ready": {
				"1 of 2 replicas", "pod two", `the database "auth" takes no writes: it is a standby`, "public keys",
			}},
		},
		"a replica has its database": {
			change: func(cs *clusterState, _ *keyResult) {
				addPod(cs, "one", true, time.Hour)
				cs.states["one"] = config.State{}
			},
			want: map[string]string{"Ready": "True Ready", "DatabaseAvailable": "True DatabaseAnswers"},
		},
		"a replica has not loaded a key": {
			change: func(cs *clusterState, found *keyResult) {
				next := found.ring.Keys[0]
				next.ID, next.Phase = "NEXT", keys.Published
				found.ring.Keys = append(slices.Clone(found.ring.Keys), next)
				cs.ring = found.ring
				cs.publicKeys().Data[keys.PublicFile("NEXT")] = "a public key"
				addPod(cs, "one", true, time.Hour)
				cs.states["one"] = config.State{}
				addPod(cs, "two", true, time.Hour)
				cs.silent["two"] = errors.New("connection refused")
			},
			want: map[string]string{
				"Ready": "True Ready", "KeysReady": "True AwaitingReplicas", "Reconciling": "True AwaitingReplicas",
			},
			says: map[string][]string{"KeysReady": {
				"NEXT", "pod one has not loaded it", "pod two cannot be asked: connection refused",
			}},
		},
		"keys that no passphrase opens": {
			change: func(_ *clusterState, found *keyResult) {
				found.next = keys.Step{Reason: keys.Unopenable, Message: "restore the passphrase"}
			},
			problem: stalled(v1alpha1.ReasonKeysUnopenable, "restore the passphrase"),
			want: map[string]string{
				"Ready": "False KeysUnopenable", "KeysReady": "False KeysUnopenable", "Stalled": "True KeysUnopenable",
			},
		},
		"a revocation while it is suspended": {
			change: func(cs *clusterState, _ *keyResult) {
				cs.gateway.Spec.Suspend, cs.gateway.Spec.Keys.Revoked = true, []string{"ACCESS"}
			},
			want: map[string]string{"KeysReady": "False RevocationPending"},
			says: map[string][]string{"KeysReady": {"ACCESS", "spec.suspend"}},
		},
		"a revoked key in a ConfigMap of another's": {
			change: func(cs *clusterState, found *keyResult) {
				publish(cs, found.ring)
				cs.gateway.Spec.Keys.Revoked, found.complete = []string{"ACCESS"}, false
				found.ring.Keys = slices.Clone(found.ring.Keys)
				found.ring.Keys[0].Phase = keys.Revoked
			},
			problem: nameConflict("a ConfigMap auth-public-keys"), inKeys: true,
			want: map[string]string{"KeysReady": "False RevocationPending", "Ready": "False NameConflict"},
			says: map[string][]string{"KeysReady": {"still published", "ConfigMap auth-public-keys"}},
		},
		"a revoked key still signs": {
			change: func(cs *clusterState, found *keyResult) {
				cs.gateway.Spec.Keys.Revoked = []string{found.ring.Keys[0].ID}
				found.complete = false
			},
			problem: stalled(v1alpha1.ReasonSecretImmutable, "the Secret auth-keys is immutable"), inKeys: true,
			want: map[string]string{"KeysReady": "False RevocationPending", "Ready": "False SecretImmutable"},
			says: map[string][]string{"KeysReady": {"ACCESS", "the Secret auth-keys is immutable"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs, found := running(t, newGateway(t))
			if c.change != nil {
				c.change(cs, &found)
			}
			inKeys := c.problem
			if !c.inKeys {
				inKeys = nil
			}
			got, status := conditionsOf(cs, found, inKeys, c.problem)
			for conditionType, want := range c.want {
				if got[conditionType] != want {
					t.Errorf("%s is %s, want %s", conditionType, got[conditionType], want)
				}
			}
			for conditionType, words := range c.says {
				message := messageOf(status, conditionType)
				contains(t, message, words...)
				if strings.ContainsAny(message, "\n\x07") || len(message) > 1000 {
					t.Errorf("the message has %d bytes: %q", len(message), message)
				}
			}
			wanted := len(conditionOrder)
			if !wantsAdmin(cs.gateway) {
				wanted-- // AdminAvailable
			}
			if len(status.Conditions) != wanted {
				t.Errorf("there are %d conditions", len(status.Conditions))
			}
		})
	}
}

// The status shows what was last known if nothing is known now.
func TestConditionsKeepWhatWasKnown(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.Generation = 3
	g.Status.Conditions = []metav1.Condition{
		{Type: "DatabaseAvailable", Status: "True", Reason: v1alpha1.ReasonDatabaseAnswers, ObservedGeneration: 2},
		{Type: "Available", Status: "True", Reason: v1alpha1.ReasonReplicasReady, ObservedGeneration: 2},
		{Type: "KeysReady", Status: "True", Reason: v1alpha1.ReasonKeysPublished, ObservedGeneration: 2},
	}
	cs, found := running(t, g)
	found.complete = false
	cs.unread[idDeployment] = errors.New("never")
	addPod(cs, "one", true, time.Hour) // it does not answer
	got, status := conditionsOf(cs, found, nil, nil)
	if got["Available"] != "True ReplicasReady" || got["DatabaseAvailable"] != "True DatabaseAnswers" {
		t.Errorf("the conditions are %v", got)
	}
	for conditionType, want := range map[string]int64{"Available": 2, "Ready": 3, "KeysReady": 2} {
		if about := meta.FindStatusCondition(status.Conditions, conditionType).ObservedGeneration; about != want {
			t.Errorf("%s has generation %d, want %d", conditionType, about, want)
		}
	}
}

func TestConditionsShowWhyAPodIsNotReady(t *testing.T) {
	t.Parallel()
	container := func(c corev1.ContainerStatus) func(*corev1.PodStatus) {
		c.Name = "authserver"
		return func(s *corev1.PodStatus) { s.ContainerStatuses = []corev1.ContainerStatus{c} }
	}
	ended := func(code int32, reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, Message: message,
		}}
	}
	waits := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	const wrong = `database: the password of user "auth" is wrong (28P01)`
	for name, c := range map[string]struct {
		status   func(*corev1.PodStatus)
		reported string
		says     string
	}{
		"an image that cannot be pulled": {
			container(corev1.ContainerStatus{State: waits("ImagePullBackOff", `Back-off pulling image "x"`)}), "",
			`ImagePullBackOff: Back-off pulling image "x"`,
		},
		"a server that ended": {container(corev1.ContainerStatus{State: ended(1, "", wrong+"\n")}), "", wrong},
		"a server that ends again and again": {
			container(corev1.ContainerStatus{
				State: waits("CrashLoopBackOff", "back-off 5m0s"), LastTerminationState: ended(1, "", wrong),
			}), "", wrong,
		},
		"a server that was killed": {
			container(corev1.ContainerStatus{LastTerminationState: ended(137, "OOMKilled", "")}), "",
			"ended with code 137 (OOMKilled)",
		},
		"no node": {
			func(s *corev1.PodStatus) {
				s.Conditions = append(s.Conditions, corev1.PodCondition{
					Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available",
				})
			}, "", "it cannot be scheduled: 0/3 nodes are available",
		},
		"a server that reports why": {
			func(*corev1.PodStatus) {}, "the migrations wait for a lock", "the migrations wait for a lock",
		},
		"a server that waits for its database and was restarted": {
			container(corev1.ContainerStatus{RestartCount: 1, LastTerminationState: ended(1, "Error", "")}),
			"waiting for the database: connection refused", "waiting for the database: connection refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// During an ordinary start that is no failure yet.
			for age, want := range map[time.Duration][2]string{
				29 * time.Second: {"False Progressing", "False ReplicasMissing"},
				31 * time.Second: {"False PodsFailing", "False PodsFailing"},
			} {
				cs, found := running(t, newGateway(t))
				starting(cs)
				p := addPod(cs, "the-pod", false, age)
				c.status(&p.Status)
				cs.states["the-pod"] = config.State{Reason: c.reported}
				got, status := conditionsOf(cs, found, nil, nil)
				if got["Ready"] != want[0] || got["Available"] != want[1] {
					t.Errorf("after %v the conditions are %v", age, got)
				}
				for _, conditionType := range []string{"Ready", "Available"} {
					contains(t, messageOf(status, conditionType), "the-pod", c.says)
				}
			}
		})
	}
}

func TestSummarizeShowsWhatThereIs(t *testing.T) {
	t.Parallel()
	cs, found := running(t, newGateway(t))
	_, s := conditionsOf(cs, found, nil, nil)
	if s.URL != "http://auth.shop.svc" || s.PublicKeysConfigMapRef.Name != "auth-public-keys" ||
		s.CallerSecretRef.Name != "auth-caller" || s.Replicas != 2 || s.ReadyReplicas != 2 || s.ReplicaSummary != "2/2" ||
		s.Image != "an/image" || s.ObservedGeneration != 1 || s.Issuer != "http://auth.shop.svc" ||
		s.Selector != "app.kubernetes.io/instance=auth,app.kubernetes.io/name=authserver" {
		t.Errorf("the status is %+v", s)
	}
	if s.Keys == nil || s.Keys.Generation != 7 || len(s.Keys.Access) != 1 || len(s.Keys.Refresh) != 1 ||
		s.Keys.Access[0].KID != "ACCESS" || s.Keys.Access[0].Phase != "Signing" || s.Keys.NextRotationTime == nil {
		t.Errorf("the keys are %+v", s.Keys)
	}
}

// A condition whose status or reason changes is an event. If it failed, the event is
// a warning, but an ordinary start is not.
func TestTransitionsAreEvents(t *testing.T) {
	t.Parallel()
	status := func(ready, keysReady, message string) v1alpha1.AuthGatewayStatus {
		var s v1alpha1.AuthGatewayStatus
		for conditionType, reason := range map[string]string{"Ready": ready, "KeysReady": keysReady} {
			c := metav1.Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: reason, Message: conditionType}
			if reason == v1alpha1.ReasonReady || reason == v1alpha1.ReasonKeysPublished {
				c.Status = metav1.ConditionTrue
			}
			if message != "" {
				c.Message = message
			}
			s.Conditions = append(s.Conditions, c)
		}
		return s
	}
	for _, c := range []struct {
		before, after v1alpha1.AuthGatewayStatus
		want          []string
	}{
		{v1alpha1.AuthGatewayStatus{}, status("Progressing", "KeysPublished", ""), []string{"Normal Progressing Ready"}},
		{status("Progressing", "KeysPublished", ""), status("Progressing", "KeysPublished", "other words"), nil},
		{status("Progressing", "KeysPublished", ""), status("PodsFailing", "KeysPublished", ""), []string{
			"Warning PodsFailing Ready",
		}},
		{status("Ready", "KeysPublished", ""), status("KeysLost", "KeysLost", "the same"), []string{
			"Warning KeysLost the same",
		}},
		{status("Ready", "KeysPublished", ""), status("SecretMissing", "KeysLost", ""), []string{
			"Warning SecretMissing Ready", "Warning KeysLost KeysReady",
		}},
	} {
		recorder := events.NewFakeRecorder(10)
		g := newGateway(t)
		g.Status = c.before
		(&Reconciler{Events: recorder}).recordTransitions(g, c.after)
		close(recorder.Events)
		var got []string
		for e := range recorder.Events {
			got = append(got, e)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("the events are %q, want %q", got, c.want)
		}
	}
}

func TestRequeueAfterIsTheEarliestReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*clusterState, *keyResult) (*problem, bool)
		want   time.Duration
	}{
		"never":              {func(*clusterState, *keyResult) (*problem, bool) { return nil, false }, 0},
		"Secrets are denied": {func(*clusterState, *keyResult) (*problem, bool) { return nil, true }, recheckKinds},
		"a name is taken": {func(*clusterState, *keyResult) (*problem, bool) {
			return nameConflict("a Secret x"), true
		}, recheckNames},
		"a step of the keys": {func(_ *clusterState, found *keyResult) (*problem, bool) {
			found.next.When = testTime.Add(7 * time.Second)
			return nil, true
		}, 7 * time.Second},
		"a step that is overdue": {func(_ *clusterState, found *keyResult) (*problem, bool) {
			found.next.When = testTime.Add(-time.Hour)
			return nil, false
		}, time.Second},
		"suspended": {func(cs *clusterState, found *keyResult) (*problem, bool) {
			cs.gateway.Spec.Suspend = true
			found.next.When = testTime.Add(7 * time.Second)
			return nil, true
		}, 0},
		"a pod is not ready": {func(cs *clusterState, _ *keyResult) (*problem, bool) {
			starting(cs)
			addPod(cs, "one", false, time.Minute)
			return nil, false
		}, recheckPods},
		"a former passphrase": {func(_ *clusterState, found *keyResult) (*problem, bool) {
			found.passphraseState.Former = map[keys.Use]string{keys.Access: "former"}
			return nil, false
		}, recheckPods},
		"an upgrade": {func(cs *clusterState, _ *keyResult) (*problem, bool) {
			cs.upgradeWaits = true
			return nil, false
		}, recheckUpgrade},
		"a missing kind": {func(cs *clusterState, _ *keyResult) (*problem, bool) {
			cs.gateway.Spec.HTTPRoute = &v1alpha1.HTTPRoute{}
			cs.absent = map[objectID]bool{{gvk: gvkHTTPRoute}: true}
			return nil, false
		}, recheckKinds},
	} {
		cs, found := running(t, newGateway(t))
		p, denied := c.change(cs, &found)
		_, status := conditionsOf(cs, found, nil, p)
		if got := requeueAfter(cs, found, p, status, denied); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestClipKeepsRunesWhole(t *testing.T) {
	t.Parallel()
	for most := 8; most < 16; most++ {
		got := clipTo(strings.Repeat("é", 50), most)
		if len(got) > most || !strings.HasSuffix(got, "…") || strings.ContainsRune(got, '\uFFFD') {
			t.Errorf("clipped to %d bytes: %q", most, got)
		}
	}
	if got := tail(fmt.Sprintf("%s the error", strings.Repeat("é", 50)), 12); !strings.HasSuffix(got, " the error") {
		t.Errorf("tail returns %q", got)
	}
}

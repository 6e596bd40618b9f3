package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/test/e2e/load"
)

// An operator with another server image replaces the pods of ten gateways in waves, and then back. Both names are of the
// same image, because a cluster without a registry has no other one; test/upgrade compares different versions. The test
// is not parallel, because it changes the operator that all tests share.
func TestAnUpgradeOfTenGatewaysGoesInWavesAndCostsNoRequest(t *testing.T) {
	const many, wave = 10, 3
	p := newTestNamespace(t)
	password := p.database(t)
	var loads []loading
	for i := range many {
		name := fmt.Sprintf("auth-%d", i)
		p.newDatabase(t, password, name)
		p.create(t, smallest(name, cheapPasswords, func(s *v1alpha1.AuthGatewaySpec) {
			s.Replicas = new(int32(1))
			s.Database.Name, s.Database.MaxConnections = name, 3
			s.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}}
		}))
	}
	for i := range many {
		p.ready(t, fmt.Sprintf("auth-%d", i), 2*later)
	}
	for i := range many {
		loads = append(loads, p.probe(t, fmt.Sprintf("auth-%d", i)).begin(t, load.Order{Rate: 4, Keep: time.Minute}))
	}
	restore := p.reconfigureOperator(t, func(args []string) []string {
		for i, arg := range args {
			if image, found := strings.CutPrefix(arg, "--server-image="); found {
				args[i] = "--server-image=docker.io/" + strings.TrimPrefix(image, "docker.io/")
				if args[i] == arg {
					args[i] = "--server-image=" + strings.TrimPrefix(image, "docker.io/")
				}
			}
		}
		return append(args, fmt.Sprintf("--concurrent-upgrades=%d", wave))
	})
	begin := time.Now()
	most := p.upgraded(t, many)
	there := time.Since(begin)
	restore()
	begin = time.Now()
	p.upgraded(t, many)
	back := time.Since(begin)
	if most > wave || most < 2 {
		t.Errorf("the pods of %d gateways were replaced at the same time, of at most %d", most, wave)
	}
	for i, l := range loads {
		l.perfect(t, fmt.Sprintf("ten gateways upgraded in %.0f s and back in %.0f s, gateway %d", there.Seconds(), back.Seconds(), i))
	}
}

// newDatabase creates another database on the PostgreSQL of the namespace.
func (p testNamespace) newDatabase(t *testing.T, password, name string) {
	t.Helper()
	where := fmt.Sprintf("postgresql://%s:%s@/%s?host=/var/run/postgresql", databaseUser, password, databaseName)
	p.exec(t, p.name, databaseHost, "psql", where, "--command="+fmt.Sprintf(`CREATE DATABASE %q`, name))
}

// reconfigureOperator changes the operator's arguments, and waits until the operator runs with them. The returned
// function restores them.
func (p testNamespace) reconfigureOperator(t *testing.T, edit func([]string) []string) (restore func()) {
	t.Helper()
	d := &appsv1.Deployment{}
	key := client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}
	testenv.NoError(t, p.Get(t.Context(), key, d))
	before := d.Spec.Template.Spec.Containers[0].Args
	set := func(ctx context.Context, args []string) error {
		patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": args}})
		if err != nil {
			return err
		}
		return p.Patch(ctx, &appsv1.Deployment{ObjectMeta: d.ObjectMeta}, client.RawPatch(types.JSONPatchType, patch))
	}
	restore = func() {
		testenv.NoError(t, set(context.WithoutCancel(t.Context()), before))
	}
	t.Cleanup(restore)
	testenv.NoError(t, set(t.Context(), edit(slices.Clone(before))))
	return restore
}

// upgraded waits until the operator of the current Deployment has replaced the pods of all gateways, and returns how many
// were replaced at the same time.
func (p testNamespace) upgraded(t *testing.T, many int) (most int) {
	t.Helper()
	p.operatorRuns(t)
	d := &appsv1.Deployment{}
	testenv.NoError(t, p.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}, d))
	var image string
	for _, arg := range d.Spec.Template.Spec.Containers[0].Args {
		if found, ok := strings.CutPrefix(arg, "--server-image="); ok {
			image = found
		}
	}
	testenv.Eventually(t, 3*later, "all gateways are upgraded", func() error {
		var all appsv1.DeploymentList
		if err := p.List(t.Context(), &all, client.InNamespace(p.name)); err != nil {
			return err
		}
		underWay, done := 0, 0
		for _, d := range all.Items {
			switch {
			case d.Labels["authgateway.io/upgrading"] != "":
				underWay++
			case d.Spec.Template.Spec.Containers[0].Image == image && d.Status.UpdatedReplicas == 1 && d.Status.Replicas == 1 &&
				d.Status.AvailableReplicas == 1 && d.Status.ObservedGeneration == d.Generation:
				done++
			}
		}
		most = max(most, underWay)
		if done < many {
			return fmt.Errorf("%d are upgraded, and %d are under way", done, underWay)
		}
		return nil
	})
	gateways := testenv.Must(p.gateways(t.Context(), p.name))(t)
	for _, g := range gateways {
		p.ready(t, g.Name, later)
	}
	if len(gateways) != many {
		t.Fatalf("there are %d gateways, not %d", len(gateways), many)
	}
	return most
}

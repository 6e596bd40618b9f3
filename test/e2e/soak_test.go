//go:build soak

package e2e

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/test/e2e/load"
)

var soakFor = flag.Duration("soak", time.Hour, "how long TestSoak rotates keys")

// soaked counts over all gateways.
type soaked struct {
	sync.Mutex
	rotations, servers, databases, operators int
	verified                                 map[string]int // by where the keys came from
}

// TestSoak rotates the keys of a gateway of each algorithm as often as the settings allow. Meanwhile it kills servers,
// databases, operators and the API server at random moments. Services in two namespaces verify each token many times
// from its issue to its expiry: by the mounted ConfigMap, by that of a PublicKeys, and by the URL. None is refused.
//
// It takes an hour, so only `make soak` builds it.
func TestSoak(t *testing.T) {
	end := time.Now().Add(*soakFor)
	s := &soaked{verified: map[string]int{}}
	t.Run("gateways", func(t *testing.T) {
		for _, algorithm := range []v1alpha1.Algorithm{"ES256", "RS256", "EdDSA"} {
			t.Run(string(algorithm), func(t *testing.T) {
				t.Parallel()
				s.gateway(t, algorithm, end)
			})
		}
		t.Run("operators", func(t *testing.T) {
			t.Parallel()
			s.killOperators(t, end)
		})
	})
	verifications := 0
	for _, n := range s.verified {
		verifications += n
	}
	figure(t, "in %s: %d rotations, %d servers, %d databases and %d times operators or the API server killed; %d verifications by %v",
		soakFor, s.rotations, s.servers, s.databases, s.operators, verifications, s.verified)
}

// gateway rotates the keys of one gateway until the end.
func (s *soaked) gateway(t *testing.T, algorithm v1alpha1.Algorithm, end time.Time) {
	lead := connect(t).lead(t)
	consumer, p := newTestNamespace(t), newTestNamespace(t)
	p.database(t)
	p.create(t, smallest("auth", cheapPasswords, shortLived(lead), func(g *v1alpha1.AuthGatewaySpec) {
		g.Keys.Algorithm = algorithm
		// The kubelet waits longer and longer before it starts a database again that was killed several times.
		g.Tokens.RefreshTokenTTL = "15m"
		// Three gateways with their databases must find room on two processors.
		g.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}}
		g.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: consumer.name}}
	}))
	consumer.change(t, &corev1.Namespace{}, consumer.name, `{"metadata":{"labels":{"authgateway.io/client":"true"}}}`)
	k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Name: "auth"}}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: p.name, Name: "auth"}
	consumer.create(t, k)
	p.ready(t, "auth", later)
	consumer.copied(t, "auth", "Ready")
	// Each token lives for 20 s. A minute is how long the JWKS may be cached.
	order := load.Order{Rate: 5, Retries: tries, Keep: time.Minute, Checks: 20}
	loads := map[string]loading{
		"directory":  p.probe(t, "auth").begin(t, order),
		"PublicKeys": p.probeIn(t, consumer, "auth", "auth-public-keys").begin(t, order),
	}

	for time.Now().Before(end) {
		s.rotate(t, p, lead)
		for where, l := range loads {
			if r := l.report(t, "GET"); r.Wrong > 0 || r.Refused() > 0 {
				t.Errorf("%s: %s\n%s", where, r, r.Details())
			}
		}
		if t.Failed() {
			break
		}
	}
	for where, l := range loads {
		l.flows(t)
		r := l.truthful(t, fmt.Sprintf("%s, %s", algorithm, where))
		if len(r.Tokens) < 2 {
			t.Errorf("%s: all tokens are of the keys %v", where, r.Tokens)
		}
		s.Lock()
		for name, c := range r.Checks {
			if source, _, _ := strings.Cut(name, ","); source == "URL" {
				s.verified["URL"] += c.Verified
			} else {
				s.verified[where] += c.Verified
			}
		}
		s.Unlock()
	}
}

// rotate orders a rotation and waits until it is complete. At a random moment it kills a server or the database. The API
// server may be down at any time.
func (s *soaked) rotate(t *testing.T, p testNamespace, lead time.Duration) {
	t.Helper()
	order := strconv.FormatInt(time.Now().UnixNano(), 10)
	ordered, begin := false, time.Now()
	kill := begin.Add(rand.N(untilItSigns(lead) - later))
	testenv.Eventually(t, untilItSigns(lead)+2*later, "a rotation", func() error {
		g := &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: "auth"}}
		if !ordered {
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRotate, order)
			if err := p.Patch(t.Context(), g, client.RawPatch(types.MergePatchType, patch)); err != nil {
				return err
			}
			ordered = true
		}
		if !kill.IsZero() && time.Now().After(kill) {
			if err := s.killOne(t, p); err != nil {
				return err
			}
			kill = time.Time{}
		}
		if err := p.Get(t.Context(), client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		if g.Status.Keys == nil || g.Status.Keys.ObservedRotate != order {
			return fmt.Errorf("the keys are %+v", g.Status.Keys)
		}
		return nil
	})
	s.Lock()
	defer s.Unlock()
	s.rotations++
	t.Logf("rotation %d, after %.0f s", s.rotations, time.Since(begin).Seconds())
}

// killOne kills a server, or in one of six cases the database.
func (s *soaked) killOne(t *testing.T, p testNamespace) error {
	pods, err := p.servers(t, "auth")
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return errors.New("there are no servers")
	}
	s.Lock()
	defer s.Unlock()
	if rand.N(6) == 0 {
		s.databases++
		p.exec(t, p.name, databaseHost, "/bin/sh", "-c", "kill -QUIT 1")
		return nil
	}
	s.servers++
	return p.Delete(t.Context(), &pods[rand.N(len(pods))], client.GracePeriodSeconds(0))
}

// killOperators kills the operator that leads, all of them, or the API server, every few minutes.
func (s *soaked) killOperators(t *testing.T, end time.Time) {
	p := newTestNamespace(t)
	kills := []func(*testing.T, testNamespace) func(){killLeader, killOperators, killAPIServer}
	for n := rand.N(len(kills)); ; n++ {
		select {
		case <-t.Context().Done():
			return
		case <-time.After(min(time.Until(end), time.Minute+rand.N(3*time.Minute))):
		}
		if time.Now().After(end) {
			return
		}
		kills[n%len(kills)](t, p)()
		s.Lock()
		s.operators++
		s.Unlock()
	}
}

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// Lifetimes are short, so a rotation takes only minutes.
const (
	accessExpiry  = 20 * time.Second
	refreshExpiry = time.Minute
	skew          = 20 * time.Second // verifierSkew in controllers/settings.go
)

// shortLived sets short lifetimes of tokens, and the lead of new keys.
func shortLived(lead time.Duration) func(*v1alpha1.AuthGatewaySpec) {
	return func(s *v1alpha1.AuthGatewaySpec) {
		s.Tokens.AccessTokenTTL, s.Tokens.RefreshTokenTTL = v1alpha1.Duration(seconds(accessExpiry)), v1alpha1.Duration(seconds(refreshExpiry))
		s.Keys.PublishLead = v1alpha1.Duration(seconds(lead))
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

// Each wait runs twice (decision 5), and the pods load the new key first.
func untilItSigns(lead time.Duration) time.Duration { return 2*(lead+skew) + lead + later }
func untilItIsGone(lead time.Duration) time.Duration {
	return 2*(lead+accessExpiry+skew) + later
}

func TestARotationCostsNoToken(t *testing.T) {
	t.Parallel()
	lead := connect(t).lead(t)
	p, a := serving(t, shortLived(lead))
	old, _ := signingKey(p.gateway(t, "auth"))
	l := a.load(t, 0, lead) // this cache is as slow as a mounted ConfigMap

	order := strconv.FormatInt(time.Now().Unix(), 10)
	p.change(t, &v1alpha1.AuthGateway{}, "auth", fmt.Sprintf(`{"metadata":{"annotations":{"authgateway.io/rotate":%q}}}`, order))
	fresh := ""
	toSign := testenv.Eventually(t, untilItSigns(lead), "a new key signs", func() error {
		g := p.gateway(t, "auth")
		if fresh, _ = signingKey(g); fresh == old || g.Status.Keys.ObservedRotate != order {
			return fmt.Errorf("the keys are %+v", g.Status.Keys)
		}
		return nil
	})
	toRetire := testenv.Eventually(t, untilItIsGone(lead), "the old key is gone", func() error {
		g := p.gateway(t, "auth")
		public := &corev1.ConfigMap{}
		p.get(t, g.Status.PublicKeysConfigMapRef.Name, public)
		if _, kids := signingKey(g); slices.Contains(kids, old) || public.Data[old+".pem"] != "" {
			return fmt.Errorf("the keys are %+v", g.Status.Keys)
		}
		return nil
	})
	l.flows(t)
	r := l.perfect(t, fmt.Sprintf("a rotation; the new key signs after %.0f s, the old one is gone %.0f s later",
		toSign.Seconds(), toRetire.Seconds()))
	if r.Tokens[old] == 0 || r.Tokens[fresh] == 0 || len(r.Tokens) != 2 {
		t.Errorf("there were tokens of the keys %v; want some of %s and of %s", r.Tokens, old, fresh)
	}
	if r.Surprises > 0 {
		t.Errorf("the JWKS that was cached for %s lacked the key of a token %d times", lead, r.Surprises)
	}
}

func TestAChangedPassphraseCostsNoTokenWhilePodsAreRestarted(t *testing.T) {
	t.Parallel()
	lead := connect(t).lead(t)
	p := newTestNamespace(t)
	p.database(t)
	passphrases := func(which string) map[string]string {
		return map[string]string{"ACCESS_PASSPHRASE": "access tokens, the " + which, "REFRESH_PASSPHRASE": "refresh tokens, the " + which}
	}
	p.secret(t, "auth-seal", passphrases("first"))
	p.create(t, smallest("auth", cheapPasswords, shortLived(lead), func(s *v1alpha1.AuthGatewaySpec) {
		s.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "auth-seal"}
	}))
	p.ready(t, "auth", later)
	a := p.probe(t, "auth")
	old, _ := signingKey(p.gateway(t, "auth"))
	l := a.load(t, 0, lead)

	p.change(t, &corev1.Secret{}, "auth-seal", string(asJSON(t, map[string]any{"stringData": passphrases("second")})))
	restarts, fresh := 0, ""
	took := testenv.Eventually(t, later+untilItSigns(lead),
		"a key signs that is sealed with the new passphrase, and the old one is forgotten", func() error {
			restarts += p.restartOne(t)
			kept := &corev1.Secret{}
			p.get(t, "auth-passphrases", kept)
			g := p.gateway(t, "auth")
			fresh, _ = signingKey(g)
			former := len(kept.Data["FORMER_ACCESS_PASSPHRASE"]) + len(kept.Data["FORMER_REFRESH_PASSPHRASE"])
			if fresh == old || former > 0 {
				return fmt.Errorf("a previous passphrase is kept: %v; the keys are %+v", former > 0, g.Status.Keys)
			}
			return nil
		})
	p.settled(t, "auth", 2)
	testenv.Eventually(t, later, "the new key has reached the pods", func() error { // whose mounts are updated late
		if r := l.report(t, http.MethodGet); r.Tokens[fresh] == 0 {
			return fmt.Errorf("there were tokens of %v", r.Tokens)
		}
		return nil
	})
	l.flows(t)
	r := l.perfect(t, fmt.Sprintf("a changed passphrase is through after %.0f s, while pods were restarted %d times",
		took.Seconds(), restarts))
	if restarts == 0 || r.Tokens[old] == 0 || r.Tokens[fresh] == 0 {
		t.Errorf("pods were restarted %d times; there were tokens of the keys %v, want some of %s and of %s", restarts, r.Tokens, old, fresh)
	}
}

// restartOne ends the older of two servers gracefully if both have been ready for a while. It returns how many it has
// ended.
func (p testNamespace) restartOne(t *testing.T) int {
	t.Helper()
	pods := testenv.Must(p.servers(t, "auth"))(t)
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if len(pods) != 2 || !isReady(&pods[0]) || !isReady(&pods[1]) || time.Since(pods[1].CreationTimestamp.Time) < 15*time.Second {
		return 0
	}
	testenv.NoError(t, client.IgnoreNotFound(p.Delete(t.Context(), &pods[0])))
	return 1
}

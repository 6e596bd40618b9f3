package consumers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

const (
	issuer = "https://auth.example.com"
	shop   = "https://shop.example.com"
	leeway = 10 * time.Second
)

// consumer is a service whose keys lag. At each of its syncs it gets the keys of that moment.
type consumer struct {
	name     string
	lag      func() time.Duration // until the next sync
	next     time.Time
	sync     func(keys.Ring)
	verifier *verify.Verifier
	refused  int
}

// world is a gateway and its consumers in simulated time.
type world struct {
	t         *testing.T
	now       time.Time
	policy    keys.Policy
	ring      keys.Ring
	consumers []*consumer
	issued    []issued
	verified  int
}

type issued struct {
	token   string
	expires time.Time
}

// add adds a consumer with keys in memory, or with a mounted directory.
func (w *world) add(name string, mounted bool, lag func() time.Duration) *consumer {
	w.t.Helper()
	c := &consumer{name: name, lag: lag}
	var source verify.Source
	if mounted {
		dir := w.t.TempDir()
		c.sync = func(r keys.Ring) { verifytest.WriteVolume(w.t, dir, keys.PublicFiles(r, issuer)) }
		source = verify.FromDir(dir)
	} else {
		var held verify.Document
		c.sync = func(r keys.Ring) {
			held = verify.Document{Issuer: issuer, JWKS: keys.PublicFiles(r, issuer)["jwks.json"], Generation: r.Generation}
		}
		source = verify.FromFunc(func(context.Context) (verify.Document, error) { return held, nil })
	}
	c.sync(w.ring)
	v, err := verify.New(context.Background(), source, verify.Audience(shop),
		verify.Clock(func() time.Time { return w.now }), verify.Leeway(leeway), verify.Cache(50))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.Close)
	c.verifier = v
	w.consumers = append(w.consumers, c)
	return c
}

// advance moves the time, rotates the keys and syncs consumers. It reports whether the ring has changed.
func (w *world) advance(d time.Duration) bool {
	w.now = w.now.Add(d)
	before := w.ring.Generation
	w.ring = keystest.Advance(w.t, w.ring, w.policy, keystest.Passphrases(), w.now)
	for _, c := range w.consumers {
		if w.now.Before(c.next) {
			continue
		}
		c.next = w.now.Add(c.lag())
		c.sync(w.ring)
		if err := c.verifier.Refresh(context.Background()); err != nil {
			w.t.Fatal(c.name, err)
		}
	}
	return w.ring.Generation != before
}

// verify lets every consumer verify a token that has not expired.
func (w *world) verify(text string) {
	for _, c := range w.consumers {
		w.verified++
		if _, err := c.verifier.Verify(context.Background(), text); err != nil {
			c.refused++
			if c.refused == 1 && !strings.HasPrefix(c.name, "late") {
				w.t.Errorf("%s: %s refuses a valid token: %v", w.now.Format(time.RFC3339), c.name, err)
			}
		}
	}
}

// TestNoValidTokenIsRefusedInAYearOfRotations has consumers that lag behind the keys by up to the lead, and a signer
// that lags as much. The keys rotate every five days, and the algorithm changes.
func TestNoValidTokenIsRefusedInAYearOfRotations(t *testing.T) {
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &world{t: t, now: start, policy: keystest.Policy()}
	w.policy.RotationInterval = 5 * 24 * time.Hour
	w.ring = keystest.New(t, w.policy, keystest.Passphrases(), w.now)
	lead, ttl := w.policy.PublishLead, w.policy.Lifetimes[keys.Access]
	random := rand.New(rand.NewPCG(1, 2))
	atMost := func(d time.Duration) func() time.Duration {
		return func() time.Duration { return time.Duration(random.Int64N(int64(d))) }
	}
	w.add("a consumer without lag", false, func() time.Duration { return 0 })
	w.add("a consumer that lags by the lead", false, func() time.Duration { return lead })
	w.add("a consumer that lags at random", false, atMost(lead))
	w.add("a directory that lags at random", true, atMost(lead))
	late := w.add("late: a consumer that lags by a day", false, func() time.Duration { return 24 * time.Hour })

	signers := []struct {
		lag    time.Duration
		next   time.Time
		ring   int64
		tokens *token.Service
	}{{}, {lag: lead}}
	for i := range signers {
		signers[i].tokens = token.New(token.Config{
			Issuer: issuer, Audience: []string{shop}, AccessTTL: ttl, Now: func() time.Time { return w.now },
		})
	}
	rotations, hurry := 0, 0
	var algorithms []string
	for tick := 0; w.now.Before(start.AddDate(1, 0, 0)); tick++ {
		switch day := int(w.now.Sub(start).Hours() / 24); { // RSA keys take long to make
		case day%120 < 60:
			w.policy.Algorithm = keys.ES256
		case day%120 < 115:
			w.policy.Algorithm = keys.EdDSA
		default:
			w.policy.Algorithm = keys.RS256
		}
		step := 3 * time.Hour
		if hurry > 0 { // around a change of the keys
			step = time.Duration(60+random.IntN(180)) * time.Second
			hurry--
		}
		signing, _ := w.ring.Signing(keys.Access)
		changed := false
		for until := w.now.Add(step); len(w.issued) > 0 && !until.Before(w.issued[0].expires); w.issued = w.issued[1:] {
			changed = w.advance(w.issued[0].expires.Sub(w.now)) || changed
			w.verify(w.issued[0].token) // in its last second
			step = until.Sub(w.now)
		}
		if w.advance(step) || changed {
			hurry = 12
		}
		if now, _ := w.ring.Signing(keys.Access); now.ID != signing.ID {
			rotations++
			if a := string(now.Algorithm); !slices.Contains(algorithms, a) {
				algorithms = append(algorithms, a)
			}
		}
		s := &signers[tick%len(signers)]
		if !w.now.Before(s.next) && s.ring != w.ring.Generation {
			s.tokens.Use(keystest.Open(t, w.ring, keystest.Passphrases()))
			s.ring = w.ring.Generation
		}
		if !w.now.Before(s.next) {
			s.next = w.now.Add(s.lag)
		}
		text, err := s.tokens.SignAccess(token.Access{
			Subject: "3f1c2a52-6f2d-4d9e-9b1a-0d6d3c1f5a77", SessionID: "9d1f7d3e-51a4-4a58-8f7c-2b9a5c1d4e60", Scope: "profile",
		})
		if err != nil {
			t.Fatal(err)
		}
		w.verify(text)
		w.issued = append(w.issued, issued{text, w.now.Add(ttl - time.Second)})
	}
	refused := 0
	for _, c := range w.consumers {
		if c != late {
			refused += c.refused
		}
	}
	t.Logf("%d rotations, %v, %d verifications, %d refused; a consumer that lags by a day refused %d",
		rotations, algorithms, w.verified, refused, late.refused)
	if rotations < 60 || len(algorithms) < 3 || w.verified < 50_000 {
		t.Error("the simulation is too short")
	}
	if late.refused == 0 {
		t.Error("a consumer that lags by a day refuses nothing, so this test finds nothing")
	}
}

func TestAServiceSeesNoOtherModule(t *testing.T) {
	dir := t.TempDir()
	verifyDir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/auth-gateway/auth-gateway/verify").Output()
	if err != nil {
		t.Fatal(err)
	}
	run := func(arguments ...string) string {
		cmd := exec.Command("go", arguments...)
		cmd.Dir = dir
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(arguments, " "), err, text)
		}
		return string(text)
	}
	run("mod", "init", "example.com/shop")
	run("mod", "edit", "-require=github.com/auth-gateway/auth-gateway/verify@v0.0.0",
		fmt.Sprintf("-replace=github.com/auth-gateway/auth-gateway/verify=%s", strings.TrimSpace(string(verifyDir))))
	if modules := strings.Fields(run("list", "-m", "-f", "{{.Path}}", "all")); len(modules) != 2 {
		t.Errorf("the modules %v, want the service and verify", modules)
	}
}

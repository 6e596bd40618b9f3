package identity_test

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// lineage is a model of one session and all its refresh tokens. The owner renews from
// several tabs at once and loses replies, and a thief has copies of the tokens.
type lineage struct {
	f        *fixture
	replicas []*identity.Service
	texts    []string // the refresh token of each generation
	lives    []life   // the lifetime of each generation
	replaced time.Time
	ends     time.Time // of the session
	over     bool
	latest   time.Time // time that the clock has shown
}

// life is the period from iat to exp of a refresh token.
type life struct{ from, to time.Time }

const leeway = 10 * time.Second

func (l *lineage) current() int { return len(l.texts) - 1 }

// answer returns the expected result of a renewal with the token of a generation now.
func (l *lineage) answer(generation int) (renewed, rotates, theft bool) {
	now, policy := l.f.Now(), l.f.policy
	switch of := l.lives[generation]; {
	case now.Unix() >= of.to.Add(leeway).Unix(), l.over, !now.Before(l.lives[l.current()].to):
		return false, false, false
	case generation == l.current():
		return true, policy.Rotation == identity.RotateAlways || now.Sub(of.from) > of.to.Sub(of.from)/2, false
	case generation == l.current()-1 && now.Sub(l.replaced) <= policy.ReuseGrace:
		return true, false, false
	default:
		return false, false, true
	}
}

// present makes concurrent renewals with the token of a generation at several replicas.
func (l *lineage) present(t *rapid.T, generation, times int) {
	renewed, rotates, theft := l.answer(generation)
	got := make([]identity.Tokens, times)
	errs := make([]error, times)
	var clients sync.WaitGroup
	for i := range times {
		clients.Go(func() {
			got[i], errs[i] = l.replicas[i%len(l.replicas)].Renew(l.f.Context(), l.texts[generation])
		})
	}
	clients.Wait()
	if theft {
		l.over = true
	}
	if rotates {
		now := l.f.Now()
		from := now.Truncate(time.Second)
		to := from.Add(l.f.policy.RefreshTTL)
		if l.ends.Before(to) {
			to = l.ends
		}
		for _, text := range l.texts {
			if text == got[0].RefreshToken {
				t.Fatal("a token is issued twice")
			}
		}
		l.texts, l.lives, l.replaced = append(l.texts, got[0].RefreshToken), append(l.lives, life{from, to}), now
	}
	for i, err := range errs {
		switch {
		case renewed && err != nil:
			t.Fatalf("generation %d of %d, %v after its replacement: %v", generation, l.current(), l.f.Now().Sub(l.replaced), err)
		case renewed && got[i].RefreshToken != l.texts[l.current()]:
			t.Fatalf("generation %d of %d has another successor", generation, l.current())
		case !renewed && identity.KindOf(err) != identity.Unauthenticated:
			t.Fatalf("generation %d of %d: %v; want 401", generation, l.current(), err)
		}
	}
}

// check introspects all tokens, which must not change their state.
func (l *lineage) check(t *rapid.T) {
	for generation, text := range l.texts {
		renewed, _, _ := l.answer(generation)
		want := renewed && l.f.Now().Before(l.lives[generation].to)
		if got := l.f.Introspect(text).Active; got != want {
			t.Fatalf("generation %d of %d is active: %v; want %v", generation, l.current(), got, want)
		}
	}
}

// Renewals, retries, lost answers, races and steps of the clock happen in any order. A session always has one lineage
// of tokens, a retry within the grace never ends it, and a reuse after the grace always ends it.
func TestRenewKeepsOneLineageOfTokens(t *testing.T) {
	for _, rotation := range []identity.Rotation{identity.RotateAlways, identity.RotateWhenNeeded} {
		t.Run(string(rotation), func(t *testing.T) {
			f := newFixture(t, func(p *identity.Policy) { p.Rotation = rotation })
			f.leeway = leeway
			p, _ := f.verified("grace")
			rapid.Check(t, func(t *rapid.T) {
				// An earlier run may have set the clock back. Every run begins at midnight.
				f.pass(f.Now().Add(2 * day).Truncate(day).Sub(f.Now()))
				f.policy.ReuseGrace = rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(t, "grace")
				f.service = f.replica(f.hasher)
				first := f.signIn(p)
				opened := f.Now().Truncate(time.Second)
				l := &lineage{
					f: f, replicas: []*identity.Service{f.service, f.replica(f.hasher)},
					texts: []string{first.RefreshToken}, lives: []life{{opened, opened.Add(f.policy.RefreshTTL)}},
					ends: opened.Add(f.policy.SessionLifetime), latest: f.Now(),
				}
				some := func(t *rapid.T) int { // prefers recent generations
					return max(l.current()-rapid.IntRange(0, 3).Draw(t, "generations ago"), 0)
				}
				t.Repeat(map[string]func(*rapid.T){
					"": l.check,
					"a renewal": func(t *rapid.T) {
						l.present(t, l.current(), 1)
					},
					"a retry, or a thief": func(t *rapid.T) {
						l.present(t, some(t), 1)
					},
					"a race": func(t *rapid.T) {
						l.present(t, some(t), rapid.IntRange(2, 5).Draw(t, "clients"))
					},
					"an answer of the database is lost": func(t *rapid.T) {
						f.store.Store = forgetful{f.memory}
						defer func() { f.store.Store = f.memory }()
						l.present(t, some(t), 1)
					},
					"moments pass": func(t *rapid.T) {
						f.pass(upTo(t, 2*f.policy.ReuseGrace+time.Second))
					},
					"days pass": func(t *rapid.T) {
						f.pass(upTo(t, 4*day))
					},
					"the clock is put back": func(t *rapid.T) {
						l.latest = latest(l.latest, f.Now())
						f.pass(l.latest.Add(-upTo(t, leeway-time.Second)).Sub(f.Now()))
					},
				})
			})
		})
	}
}

// upTo draws a duration with the resolution of a Store.
func upTo(t *rapid.T, most time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(0, int64(most/resolution)).Draw(t, "microseconds")) * resolution
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

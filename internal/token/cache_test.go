package token_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestCacheIsDiscardedWithTheKeys(t *testing.T) {
	c := testenv.NewClock(start)
	s := service(ring(t, keys.ES256), c)
	text := mustAccess(t, s)
	accepted(t, s, text)
	s.Use(ring(t, keys.EdDSA))
	refused(t, s, text)
}

func TestCacheIsBounded(t *testing.T) {
	c := testenv.NewClock(start)
	s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 2, Now: c.Now})
	s.Use(ring(t, keys.ES256))
	first := mustAccess(t, s)
	hit := testing.AllocsPerRun(10, func() { _, _ = s.VerifyAccess(first) })
	for range 3 {
		mustAccess(t, s)
	}
	missed := testing.AllocsPerRun(1, func() {
		_, _ = s.VerifyAccess(first)
		mustAccess(t, s)
		mustAccess(t, s)
	})
	const ids = 2 // sub and sid: the cache stores each as 16 bytes
	if hit > ids || missed <= ids {
		t.Errorf("%v allocations for a cached token, %v for an evicted one", hit, missed)
	}
	accepted(t, s, first)
}

// Run with -race: keys are replaced while tokens are signed and verified.
func TestUseReplacesKeysUnderLoad(t *testing.T) {
	c := testenv.NewClock(start)
	s := service(ring(t, keys.ES256), c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				text, err := s.SignAccess(access())
				if err != nil {
					t.Error(err)
				}
				if a, err := s.VerifyAccess(text); err == nil && a.Subject != subject || err != nil && !errors.Is(err, token.ErrInvalid) {
					t.Errorf("got %+v, %v, want the subject or ErrInvalid", a, err)
				}
			}
		})
	}
	for i := range 50 {
		s.Use(ring(t, []keys.Algorithm{keys.ES256, keys.EdDSA}[i%2]))
	}
	wg.Wait()
}

func FuzzVerify(f *testing.F) {
	c := testenv.NewClock(start)
	o := ring(f, keys.ES256)
	s := service(o, c)
	maker := forge{f, o.Signer(keys.Access)}
	good := maker.es256(maker.header(""), maker.claims())
	for _, seed := range []string{
		good, mustAccess(f, s), mustRefresh(f, s), "", "..", "a.b.c", good[:40], good + "=", strings.Replace(good, ".", "..", 1),
		"eyJhbGciOiJub25lIn0.e30.", maker.es256(maker.header(""), "null"), maker.es256("{}", maker.claims()),
		maker.es256(maker.header(`,"x":[{}]`), maker.claims("exp", "1e300")),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := s.VerifyAccess(text)
		if err == nil && a.Subject != subject || err != nil && !errors.Is(err, token.ErrInvalid) {
			t.Errorf("VerifyAccess(%q) = %+v, %v", text, a, err)
		}
		if _, err := s.VerifyRefresh(text); err != nil && !errors.Is(err, token.ErrInvalid) {
			t.Errorf("VerifyRefresh(%q): %v", text, err)
		}
	})
}

// FuzzClaims signs every input, so that the verifier reads the claims.
func FuzzClaims(f *testing.F) {
	c := testenv.NewClock(start)
	o := ring(f, keys.ES256)
	maker := forge{f, o.Signer(keys.Access)}
	s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 16, Now: c.Now})
	s.Use(o)
	for _, payload := range []string{
		maker.claims(), maker.claims("exp", "1e300"), maker.claims("aud", `["a",[]]`), "null", "[]",
		`{"sub":1,"sub":2}`, `{"a":{"b":[1,2,{"c":null}]}}`,
	} {
		f.Add(maker.header(""), payload)
	}
	f.Add(`{"alg":"ES256"}`, "{}")
	f.Fuzz(func(t *testing.T, head, payload string) {
		a, err := s.VerifyAccess(forge{t, maker.signer}.es256(head, payload))
		switch {
		case err != nil && !errors.Is(err, token.ErrInvalid):
			t.Errorf("err = %v, want ErrInvalid", err)
		case err == nil && (len(a.Subject) != 36 || !a.ExpiresAt.After(start.Add(-leeway)) || a.ExpiresAt.Sub(a.IssuedAt) > accessTTL):
			t.Errorf("%q was accepted as %+v", payload, a)
		}
	})
}

func BenchmarkSignAccess(b *testing.B) {
	for _, a := range algorithms {
		b.Run(string(a), func(b *testing.B) {
			s := service(ring(b, a), testenv.NewClock(start))
			claims := access()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.SignAccess(claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyAccess(b *testing.B) {
	for _, a := range algorithms {
		c := testenv.NewClock(start)
		text := mustAccess(b, service(ring(b, a), c))
		b.Run(string(a)+"/first", func(b *testing.B) {
			s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 1, Now: c.Now})
			s.Use(ring(b, a))
			other := mustAccess(b, service(ring(b, a), c))
			b.ReportAllocs()
			for b.Loop() { // each token evicts the other from the cache
				if _, err := s.VerifyAccess(text); err != nil {
					b.Fatal(err)
				}
				text, other = other, text
			}
		})
		b.Run(string(a)+"/again", func(b *testing.B) {
			s := service(ring(b, a), c)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.VerifyAccess(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package identity_test

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// forgetful is a Store that loses the first answer to AdvanceSession. It runs the call a
// second time, and returns the second answer.
type forgetful struct{ identity.Store }

func (l forgetful) AdvanceSession(
	ctx context.Context, r identity.SessionRef, generation int64, n identity.Renewal,
) (identity.Session, bool, error) {
	if _, _, err := l.Store.AdvanceSession(ctx, r, generation, n); err != nil {
		return identity.Session{}, false, err
	}
	return l.Store.AdvanceSession(ctx, r, generation, n)
}

// resolution is the resolution to which a Store truncates times.
const resolution = time.Microsecond

func TestRenewGraceIsExact(t *testing.T) {
	f := newFixture(t, rotating)
	p, _ := f.verified("grace")
	rapid.Check(t, func(t *rapid.T) {
		graces := []time.Duration{0, resolution, time.Millisecond, time.Second, 1500 * time.Millisecond, time.Minute}
		grace := rapid.SampledFrom(graces).Draw(t, "grace")
		f.policy.ReuseGrace = grace
		f.service = f.replica(f.hasher)
		f.pass(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "pause")))
		if rapid.Bool().Draw(t, "an answer of the database is lost") {
			f.store.Store = forgetful{f.memory}
			defer func() { f.store.Store = f.memory }()
		}
		first := f.signIn(p)
		f.pass(time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "age")))
		replaced := f.Now()
		next, err := f.Renew(first.RefreshToken)
		if err != nil {
			t.Fatalf("the renewal failed: %v", err)
		}
		claims := f.Introspect(next.RefreshToken)
		if want := replaced.Truncate(time.Second); !claims.IssuedAt.Equal(want) || !claims.ExpiresAt.Equal(want.Add(7*day)) {
			t.Fatalf("the successor lives from %v to %v; want whole seconds from %v", claims.IssuedAt, claims.ExpiresAt, want)
		}
		offset := rapid.OneOf(
			rapid.Int64Range(0, int64(2*time.Minute)),
			rapid.Int64Range(max(int64(grace-2*time.Second), 0), int64(grace+2*time.Second)),
			rapid.Int64Range(max(int64(grace-3*resolution), 0), int64(grace+3*resolution)),
		).Draw(t, "offset")
		f.pass(time.Duration(offset))
		again, err := f.Renew(first.RefreshToken)
		switch late := time.Duration(offset) - grace; {
		case late <= 0:
			if err != nil || again.RefreshToken != next.RefreshToken {
				t.Fatalf("%v before the end of the grace: the same successor is %v, error %v", -late, again.RefreshToken == next.RefreshToken, err)
			}
		case late > resolution:
			if identity.KindOf(err) != identity.Unauthenticated || f.alive(next) {
				t.Fatalf("%v after the end of the grace: error %v; the session is alive: %v", late, err, f.alive(next))
			}
		}
	})
}

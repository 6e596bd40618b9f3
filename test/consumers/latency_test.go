package consumers

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/verify"
)

var latencyRounds = flag.Int("latency.rounds", 3, "how often TestAHundredConsumersLearnInTime ends sessions in each way")

const (
	manyConsumers = 100
	mostLatency   = 3 * time.Second // at the 99th percentile
	latencyLook   = 20 * time.Millisecond
)

// waysToEnd end sessions of a user, who has three. The first one is that of the request, if it needs one.
var waysToEnd = map[string]func(*worker, *user, *session){
	"sign-out":                      (*worker).signOut,
	"revoked access token":          (*worker).revokeAccess,
	"revoked refresh token":         (*worker).revokeRefresh,
	"one session, by its owner":     (*worker).endSession,
	"change of the password":        (*worker).changePassword,
	"reset of the password":         (*worker).resetPassword,
	"deletion of the user":          (*worker).deleteUser,
	"use of a stolen refresh token": (*worker).steal,
	"sign-in beyond the cap":        (*worker).exceedCap,
	"suspension": func(w *worker, u *user, _ *session) {
		w.administer(u, `UPDATE users SET suspended_at = now() WHERE username = $1`)
	},
	"administrator deletes the user": func(w *worker, u *user, _ *session) { w.administer(u, `DELETE FROM users WHERE username = $1`) },
	"administrator deletes one":      (*worker).deleteRow,
}

// administer runs a statement that ends all sessions of a user.
func (w *worker) administer(u *user, statement string) {
	if _, err := w.feed.sql.ExecContext(w.feed.t.Context(), statement, u.name); err != nil {
		w.fail("%s: %v", statement, err)
	}
	w.replied = time.Now()
	w.ended(u, statement, u.sessions...)
}

// exceedCap signs in once more, which ends one of three sessions.
func (w *worker) exceedCap(u *user, _ *session) {
	w.signIn(u)
	for _, s := range slices.Clone(u.sessions) {
		var lives bool
		row := w.feed.sql.QueryRowContext(w.feed.t.Context(), `SELECT EXISTS (SELECT FROM sessions WHERE id = $1)`, s.id)
		if err := row.Scan(&lives); err != nil {
			w.fail("%v", err)
		} else if !lives {
			w.ended(u, "sign-in beyond the cap", s)
		}
	}
}

// TestAHundredConsumersLearnInTime ends sessions in every way and measures the time from the reply until each of a
// hundred consumers refuses the tokens. With -latency.rounds=30 -v it prints the figures of docs/revocation.md.
func TestAHundredConsumersLearnInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("this test builds and starts the server")
	}
	f := startFeed(t, "SESSIONS_PER_USER=3")
	for range manyConsumers {
		f.follow(30*time.Second, verify.FailClosed)
	}
	names := slices.Sorted(maps.Keys(waysToEnd))
	took := map[string][]time.Duration{}
	client := testenv.NewClient(t, f.url)
	var sessions []*session
	for round := range *latencyRounds {
		workers := map[string]*worker{}
		var acting sync.WaitGroup
		for i, name := range names {
			w := &worker{
				feed: f, name: fmt.Sprintf("round%d.way%d", round, i), client: client,
				random: rand.New(rand.NewPCG(uint64(round), uint64(i))),
			}
			workers[name] = w
			acting.Go(w.openThree)
		}
		acting.Wait()
		sessions = nil
		for _, w := range workers {
			testenv.NoError(t, w.err)
			sessions = append(sessions, w.sessions...)
		}
		testenv.Eventually(t, patience, "consumers accept the tokens", func() error { return f.judge(sessions) })
		var mu sync.Mutex
		for name, w := range workers {
			acting.Go(func() {
				time.Sleep(time.Duration(w.random.IntN(1000)) * time.Millisecond) // replicas look once a second
				u := w.users[0]
				waysToEnd[name](w, u, u.sessions[0])
				all := f.watch(w.sessions, w.replied)
				mu.Lock()
				defer mu.Unlock()
				took[name] = append(took[name], all...)
			})
		}
		acting.Wait()
		sessions = nil
		for _, w := range workers {
			testenv.NoError(t, w.err)
			sessions = append(sessions, w.sessions...)
		}
		testenv.NoError(t, f.judge(sessions))
	}
	// Consumers keep the keys of the last sessions, so they learn only from the feed that one was revoked.
	w := &worker{feed: f, name: "last", client: client, random: rand.New(rand.NewPCG(1, 1))}
	w.openThree()
	testenv.NoError(t, w.err)
	testenv.Eventually(t, patience, "consumers accept the tokens", func() error { return f.judge(w.sessions) })
	f.revokeKey(w)
	revoked := time.Now()
	for _, s := range w.sessions {
		s.ended = true
	}
	took["revoked key"] = f.watch(w.sessions, revoked)

	var table strings.Builder
	for _, name := range append(names, "revoked key") {
		all := took[name]
		slices.Sort(all)
		at := func(percent int) time.Duration { return all[(len(all)*percent+99)/100-1] }
		fmt.Fprintf(&table, "| %s | %.2f s | %.2f s | %.2f s | %d |\n",
			name, at(50).Seconds(), at(99).Seconds(), at(100).Seconds(), len(all))
		if at(99) >= mostLatency {
			t.Errorf("%s: the 99th percentile is %v", name, at(99))
		}
	}
	t.Logf("%d consumers, %d replicas\n| | p50 | p99 | max | refusals |\n|---|---|---|---|---|\n%s", manyConsumers, feedReplicas, &table)
}

// openThree opens three sessions of one user.
func (w *worker) openThree() {
	w.signUp()
	for len(w.users) == 1 && len(w.users[0].sessions) < 3 && w.err == nil {
		w.signIn(w.users[0])
	}
	if len(w.sessions) != 3 {
		w.fail("there are %d sessions; want 3", len(w.sessions))
	}
}

// watch returns how long after a moment each consumer refused each of the sessions that have ended.
func (f *feed) watch(sessions []*session, since time.Time) (took []time.Duration) {
	type pair struct {
		c *follower
		s *session
	}
	var waiting []pair
	for _, s := range sessions {
		for _, c := range f.consumers {
			if s.ended {
				waiting = append(waiting, pair{c, s})
			}
		}
	}
	for len(waiting) > 0 && time.Since(since) < patience {
		waiting = slices.DeleteFunc(waiting, func(p pair) bool {
			_, err := p.c.verifier.Verify(f.t.Context(), p.s.tokens[0].text)
			if !errors.Is(err, verify.ErrEnded) {
				return false
			}
			took = append(took, time.Since(since))
			return true
		})
		time.Sleep(latencyLook)
	}
	for range waiting { // judged by the percentile
		took = append(took, patience)
	}
	return took
}

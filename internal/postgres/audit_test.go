package postgres_test

import (
	"crypto/sha256"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestEventIsRecordedWithTheDatabasesTime(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	for _, e := range []identity.Event{
		{Name: "bare"},
		{Name: "no id is a UUID", UserID: "x", SessionID: "6F1C1F0E-3D52-4D0A-9A57-0F6B6F3A9D11"},
		{
			Name: "all of it", UserID: "6f1c1f0e-3d52-4d0a-9a57-0f6b6f3a9d11", SessionID: "0f8a6a54-6f0c-4a7e-8a51-3a1f0c2f7b9e",
			RequestID: "request-1", Address: netip.MustParseAddr("2001:db8::1"), Details: []slog.Attr{slog.Int("failures", 3), slog.String("purpose", `a "text"`)},
		},
		{Name: "an address with a zone", Address: netip.MustParseAddr("fe80::1%eth0")},
	} {
		testenv.NoError(t, store.CountFailure(t.Context(), identity.ThrottleKey(sha256.Sum256([]byte(e.Name))), e))
	}
	for name, want := range map[string]string{
		"bare":                   `- - - - -`,
		"no id is a UUID":        `- - - - -`,
		"an address with a zone": `- - - fe80::1 -`,
		"all of it":              `6f1c1f0e-3d52-4d0a-9a57-0f6b6f3a9d11 0f8a6a54-6f0c-4a7e-8a51-3a1f0c2f7b9e request-1 2001:db8::1 {"purpose": "a \"text\"", "failures": 3}`,
	} {
		var got string
		var at time.Time
		err := db.QueryRow(`SELECT at, concat_ws(' ', coalesce(user_id::text, '-'), coalesce(session_id::text, '-'), coalesce(request_id, '-'),
			coalesce(host(address), '-'), coalesce(details::text, '-')) FROM audit_events WHERE event = $1`, name).Scan(&at, &got)
		if err != nil || got != want {
			t.Errorf("%s is %s, error %v; want %s", name, got, err, want)
		}
		if age := time.Since(at); age < -time.Minute || age > time.Minute {
			t.Errorf("%s: recorded at %v", name, at)
		}
	}
}

func TestRingAndItsEventAreBothStoredOrNeither(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	changed := identity.Event{Name: identity.EventKeysChanged}
	for i, step := range []struct {
		from, to int64
		swapped  bool
		events   int
	}{{0, 1, true, 1}, {0, 1, false, 1}, {1, 2, true, 2}, {1, 2, false, 2}} {
		swapped, err := store.SwapRing(t.Context(), step.from, step.to, map[string][]byte{"x": []byte("y")}, changed)
		if err != nil || swapped != step.swapped {
			t.Errorf("step %d: swapped is %v, error %v", i, swapped, err)
		}
		if n := count(t, db, `SELECT count(*) FROM audit_events`); n != step.events {
			t.Errorf("step %d: %d events are recorded; want %d", i, n, step.events)
		}
	}
}

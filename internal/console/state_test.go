package console

import (
	"context"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
)

// everyone lets each caller do everything.
type everyone struct{}

func (everyone) Authorize(context.Context, string, admin.Right) (admin.Actor, error) {
	return admin.Actor{Name: "key:ada"}, nil
}

var (
	tags   = regexp.MustCompile(`<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// statePage returns the page about a state: the text that a person reads, and the source.
func statePage(t *testing.T, s State, now time.Time) (text, source string) {
	t.Helper()
	o := New(Config{
		Rights: everyone{}, Ready: func() error { return nil }, State: func(context.Context) State { return s },
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	get := func(path string, cookies ...*http.Cookie) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		o.ServeHTTP(w, r)
		return w
	}
	page := get(Path+"/state", get(o.Enter("a credential")).Result().Cookies()...)
	if source = page.Body.String(); page.Code != http.StatusOK {
		t.Fatalf("the page is %d: %s", page.Code, source)
	}
	return spaces.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(source, " ")), " "), source
}

// Each fact of a state is on its page, once it is changed, and nothing that is not so.
func TestStateIsShownAsItIs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	healthy := func() State {
		return State{
			Version: "v1.2.3", Started: now.Add(-48 * time.Hour), ServesAPI: true, KeysInUse: 7, SendsMail: true,
			Endings: &Endings{Held: 12, Age: 2 * time.Second},
			Database: Database{
				Ahead: 1500 * time.Millisecond, Uncertain: 3 * time.Millisecond,
				Database: admin.Database{Server: "17.2", Ring: 7, Connections: []admin.Connections{
					{Address: "192.0.2.1", Number: 4, Since: now.Add(-time.Hour), Own: true},
					{Number: 1, Since: now.Add(-2 * time.Hour)},
				}},
			},
		}
	}
	for name, tc := range map[string]struct {
		change     func(*State)
		has, lacks []string
	}{
		"nothing is wrong": {
			func(*State) {},
			[]string{
				"State ready", "v1.2.3", "27 Nov 2026, 12:00 UTC", "the API and administrators", "generation 7 is in use",
				"12 are reported to consumers; read 2s ago", "PostgreSQL 17.2", "No mail waits.",
				"differs by 1.5s from that of this server, which is behind; that can be wrong by 3ms",
				"192.0.2.1 this server 4 connections the oldest since 29 Nov 2026, 11:00 UTC",
				"a socket 1 connection the oldest since 29 Nov 2026, 10:00 UTC",
			},
			[]string{"not ready", "is stored", "last error", "sends no mail", "has paused", "is ahead"},
		},
		"not ready": {
			func(s *State) { s.Reason = "the keys are locked" },
			[]string{"not ready the keys are locked"},
			[]string{"State ready"},
		},
		"administrators": {
			func(s *State) { s.ServesAPI = false },
			[]string{"administrators only"},
			[]string{"the API and", "Ended sessions"},
		},
		"another ring": {
			func(s *State) { s.KeysInUse = 6 },
			[]string{"generation 6 is in use; generation 7 is stored"},
			nil,
		},
		"no ring in use": {func(s *State) { s.KeysInUse = 0 }, []string{"generation 7 is known"}, []string{"in use"}},
		"no ring": {
			func(s *State) { s.KeysInUse, s.Database.Ring = 0, 0 },
			[]string{"none is known"},
			[]string{"in use", "generation"},
		},
		"endings unread": {func(s *State) { s.Endings = nil }, []string{"not read: no consumer has asked"}, []string{"reported"}},
		"the other clock": {
			func(s *State) { s.Database.Ahead = -time.Hour },
			[]string{"differs by 1h0m0s from that of this server, which is ahead"},
			[]string{"which is behind"},
		},
		"no mail":          {func(s *State) { s.SendsMail = false }, []string{"This server sends no mail."}, nil},
		"mail that pauses": {func(s *State) { s.Paused = true }, []string{"This server has paused: no mail is accepted."}, nil},
		"an error of mails": {
			func(s *State) { s.LastError, s.FailedAt = "it replied 450", now.Add(-time.Minute) },
			[]string{"The last error of this server, at 29 Nov 2026, 11:59 UTC : it replied 450"},
			nil,
		},
		"no database": {
			func(s *State) { s.Database = Database{Problem: "connection refused"} },
			[]string{"Database connection refused", "The database has it."}, []string{"PostgreSQL", "Servers of", "No mail", "stored"},
		},
		"mails that wait": {
			func(s *State) {
				s.Database.Outbox = []admin.WaitingMails{
					{Purpose: "recovery", Number: 3, Oldest: now.Add(-time.Hour), Attempts: 5, Due: now.Add(time.Minute)},
					{Purpose: "invitation", Number: 1, Oldest: now, Attempts: 1, Due: now},
					{Purpose: "verification", Number: 2, Oldest: now, Due: now},
				}
			},
			[]string{
				"3 × recovery the oldest since 29 Nov 2026, 11:00 UTC tried up to 5 times next attempt 29 Nov 2026, 12:01 UTC",
				"1 × invitation the oldest since 29 Nov 2026, 12:00 UTC tried once next",
				"2 × verification the oldest since 29 Nov 2026, 12:00 UTC next",
			},
			[]string{"No mail waits"},
		},
	} {
		s := healthy()
		tc.change(&s)
		text, _ := statePage(t, s, now)
		for _, part := range tc.has {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the page lacks %q: %s", name, part, text)
			}
		}
		for _, part := range tc.lacks {
			if strings.Contains(text, part) {
				t.Errorf("%s: the page has %q: %s", name, part, text)
			}
		}
	}
}

// What another server says, such as a mail server in its error, is text on the page and nothing else.
func TestStateIsEscaped(t *testing.T) {
	t.Parallel()
	const hostile = `<script>alert(1)</script><b>"' onload=x`
	var s State
	s.Version, s.Reason, s.LastError, s.Database.Problem = hostile, hostile, hostile, hostile
	s.Database.Server = hostile
	s.Database.Connections = []admin.Connections{{Address: hostile}}
	s.Database.Outbox = []admin.WaitingMails{{Purpose: hostile}}
	text, source := statePage(t, s, time.Now())
	if n := strings.Count(text, hostile); n != 7 {
		t.Errorf("the text is %d times on the page; want 7: %s", n, source)
	}
	if strings.Contains(source, "<script") || strings.Contains(source, "<b>") {
		t.Errorf("it is not escaped: %s", source)
	}
}

// The log says who has asked, and not what about.
func TestLogNamesTheActorAndNoQuery(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	o := New(Config{
		Rights: everyone{}, Ready: func() error { return nil }, State: func(context.Context) State { return State{} },
		Log: slog.New(slog.NewTextHandler(&out, nil)), Now: time.Now,
	})
	r := httptest.NewRequest(http.MethodGet, Path+"/state?q=grace@example.com", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: o.sessions.open("a credential")})
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	if text := out.String(); w.Code != http.StatusOK || !strings.Contains(text, "actor=key:ada") ||
		!strings.Contains(text, `route="GET /console/state"`) || strings.Contains(text, "grace") || strings.Contains(text, "credential") {
		t.Errorf("%d; the log is %s", w.Code, text)
	}
}

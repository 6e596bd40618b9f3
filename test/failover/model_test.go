package failover

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// call is a request about an account. Passwords and sessions are numbers.
type call struct {
	what          string // verify, sign in, change, read, renew, sign out
	session       int    // whose token is sent
	password, new int
}

// outcome is the reply to a call.
type outcome struct {
	what    string // done, refused, unknown
	session int    // that was opened
}

// account is the state of the model: sessions has the live sessions, as " 1 2 ".
type account struct {
	exists   bool
	password int
	sessions string
}

func (a account) has(session int) bool {
	return strings.Contains(a.sessions, fmt.Sprintf(" %d ", session))
}

func (a account) with(session int) account {
	if a.sessions == "" {
		a.sessions = " "
	}
	list := strings.Fields(a.sessions + strconv.Itoa(session))
	slices.Sort(list)
	a.sessions = " " + strings.Join(list, " ") + " "
	return a
}

func (a account) without(session int) account {
	a.sessions = strings.Replace(a.sessions, fmt.Sprintf(" %d ", session), " ", 1)
	return a
}

// model is how an account behaves. A call with an unknown outcome has an effect where it takes place, if it may have
// one; one that takes place after all others had none.
var model = porcupine.Model{
	Init: func() any { return account{} },
	Step: func(state, input, output any) (bool, any) {
		a, in, out := state.(account), input.(call), output.(outcome)
		var allowed bool
		next := a
		switch in.what {
		case "verify":
			allowed = !a.exists
			next.exists = true
			next = next.with(out.session)
		case "sign in":
			allowed = a.exists && a.password == in.password
			next = a.with(out.session)
		case "change":
			allowed = a.has(in.session) && a.password == in.password
			next.password, next.sessions = in.new, fmt.Sprintf(" %d ", in.session)
		case "read", "renew":
			allowed = a.has(in.session)
		case "sign out":
			if out.what == "refused" {
				return !a.has(in.session), a
			}
			return true, a.without(in.session)
		}
		switch {
		case out.what == "refused":
			return !allowed, a
		case out.what == "unknown" && !allowed:
			return true, a
		}
		return allowed, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// person is an account with the history of all requests about it.
type person struct {
	world *world
	name  string

	mu       sync.Mutex
	history  []porcupine.Operation
	tokens   map[int]tokens // by session
	sessions int
	password int // that the client knows to be right
	latest   int // the highest number that was used
}

type tokens struct{ access, refresh string }

func (p *person) text(password int) string {
	return fmt.Sprintf("password %d of %s, and no other", password, p.name)
}

// do sends a request through a gateway, and records it. It reports the outcome.
func (p *person) do(client, gateway int, in call) outcome {
	p.mu.Lock()
	held := p.tokens[in.session]
	p.mu.Unlock()
	g := p.world.gateways[gateway]
	begun := time.Since(p.world.begun)
	var r *testenv.Reply
	switch in.what {
	case "sign in":
		r = g.send(http.MethodPost, "/tokens/signin", "", body{"username": p.name, "password": p.text(in.password)})
	case "change":
		r = g.send(http.MethodPost, "/users/change-password", held.access, body{"old_password": p.text(in.password), "password": p.text(in.new)})
	case "read":
		r = g.send(http.MethodGet, "/users", held.access, nil)
	case "renew":
		r = g.send(http.MethodPost, "/tokens", "", body{"refresh_token": held.refresh})
	case "sign out":
		r = g.send(http.MethodDelete, "/tokens", "", body{"refresh_token": held.refresh})
	}
	return p.record(client, in, begun, r)
}

func (p *person) record(client int, in call, begun time.Duration, r *testenv.Reply) (out outcome) {
	ended := time.Since(p.world.begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	out.session = p.sessions
	switch {
	case r.Status < 300 && r.Status >= 200:
		out.what = "done"
		if access := r.Text("access_token"); access != "" {
			session := out.session
			if in.what == "renew" {
				session = in.session
			}
			p.tokens[session] = tokens{access, r.Text("refresh_token")}
		}
	case r.Status == http.StatusServiceUnavailable || r.Status == 0:
		out.what = "unknown"
		// Without an effect that another request sees; a second verification has none that the first one had not.
		if in.what == "read" || in.what == "renew" || in.what == "sign in" || in.what == "verify" && len(p.history) > 0 {
			return out
		}
		ended = math.MaxInt64
	default:
		out.what = "refused"
	}
	p.history = append(p.history, porcupine.Operation{
		ClientId: client, Input: in, Call: begun.Nanoseconds(), Output: out, Return: ended.Nanoseconds(),
	})
	return out
}

// access returns the access token of a session.
func (p *person) access(session int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[session].access
}

// check reports an error if no order of the requests explains the replies.
func (p *person) check(t *testing.T) (requests int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	// Requests with an unknown outcome end after all others, and their clients go on: each is a client of its own.
	for i := range p.history {
		if p.history[i].Return == math.MaxInt64 {
			p.history[i].ClientId = 100 + i
		}
	}
	if got := porcupine.CheckOperationsTimeout(model, p.history, 30*time.Second); got != porcupine.Ok {
		t.Errorf("%s: the history of %d requests is %v:", p.name, len(p.history), got)
		for _, o := range p.history {
			t.Logf("%10.3f %10.3f  client %d  %s", time.Duration(o.Call).Seconds(), time.Duration(o.Return).Seconds(), o.ClientId,
				model.DescribeOperation(o.Input, o.Output))
		}
	}
	return len(p.history)
}

// The judge must find what a database that loses commits does.
func TestModelFindsLostWrites(t *testing.T) {
	t.Parallel()
	done, refused, unknown := "done", "refused", "unknown"
	step := func(at int64, in call, what string, session int) porcupine.Operation {
		o := porcupine.Operation{Input: in, Output: outcome{what, session}, Call: at, Return: at + 1}
		if what == unknown {
			o.Return, o.ClientId = math.MaxInt64, int(at)
		}
		return o
	}
	verify := step(1, call{what: "verify"}, done, 1)
	change := call{what: "change", session: 1, new: 1}
	for about, tc := range map[string]struct {
		list []porcupine.Operation
		want porcupine.CheckResult
	}{
		"a sign-up is lost": {[]porcupine.Operation{verify, step(3, call{what: "sign in"}, refused, 2)}, porcupine.Illegal},
		"a change is lost": {[]porcupine.Operation{verify, step(3, change, done, 0),
			step(5, call{what: "sign in", password: 1}, refused, 2)}, porcupine.Illegal},
		"the older password works": {[]porcupine.Operation{verify, step(3, change, done, 0), step(5, call{what: "sign in"}, done, 2)}, porcupine.Illegal},
		"a change may have happened": {[]porcupine.Operation{verify, step(3, change, unknown, 0),
			step(5, call{what: "sign in", password: 1}, done, 2), step(7, call{what: "sign in"}, refused, 3)}, porcupine.Ok},
		"a change did not happen": {[]porcupine.Operation{verify, step(3, change, unknown, 0), step(5, call{what: "sign in"}, done, 2)}, porcupine.Ok},
		"a change is undone": {[]porcupine.Operation{verify, step(3, change, unknown, 0),
			step(5, call{what: "sign in", password: 1}, done, 2), step(7, call{what: "sign in"}, done, 3)}, porcupine.Illegal},
		"an ended session is alive": {[]porcupine.Operation{verify, step(3, call{what: "sign out", session: 1}, done, 0),
			step(5, call{what: "read", session: 1}, done, 0)}, porcupine.Illegal},
		"a change ends other sessions": {[]porcupine.Operation{verify, step(3, call{what: "sign in"}, done, 2), step(5, change, done, 0),
			step(7, call{what: "read", session: 2}, refused, 0), step(9, call{what: "renew", session: 1}, done, 0)}, porcupine.Ok},
		"a session is lost": {[]porcupine.Operation{verify, step(3, call{what: "renew", session: 1}, refused, 0)}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(model, tc.list, time.Minute); got != tc.want {
			t.Errorf("%s: %v; want %v", about, got, tc.want)
		}
	}
}

package failovertest

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

// Call is a request about an account. Passwords and sessions are numbers.
type Call struct {
	What          string // verify, sign in, change, read, renew, sign out
	Session       int    // whose token is sent
	Password, New int
}

// Outcome is the reply to a call.
type Outcome struct {
	What    string // done, refused, unknown
	Session int    // that was opened
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
		a, in, out := state.(account), input.(Call), output.(Outcome)
		var allowed bool
		next := a
		switch in.What {
		case "verify":
			allowed = !a.exists
			next.exists = true
			next = next.with(out.Session)
		case "sign in":
			allowed = a.exists && a.password == in.Password
			next = a.with(out.Session)
		case "change":
			allowed = a.has(in.Session) && a.password == in.Password
			next.password, next.sessions = in.New, fmt.Sprintf(" %d ", in.Session)
		case "read", "renew":
			allowed = a.has(in.Session)
		case "sign out":
			if out.What == "refused" {
				return !a.has(in.Session), a
			}
			return true, a.without(in.Session)
		}
		switch {
		case out.What == "refused":
			return !allowed, a
		case out.What == "unknown" && !allowed:
			return true, a
		}
		return allowed, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// Person is an account with the history of all requests about it.
type Person struct {
	world *World
	name  string

	mu       sync.Mutex
	history  []porcupine.Operation
	tokens   map[int]tokens // by session
	sessions int
	password int // that the client knows to be right
	latest   int // the highest number that was used
}

type tokens struct{ access, refresh string }

func (p *Person) text(password int) string {
	return fmt.Sprintf("password %d of %s, and no other", password, p.name)
}

// Do sends a request through a gateway, and records it. The client is a number: each sends one request after the other.
func (p *Person) Do(client, gateway int, in Call) Outcome {
	p.mu.Lock()
	held := p.tokens[in.Session]
	p.mu.Unlock()
	g := p.world.gateways[gateway]
	begun := time.Since(p.world.begun)
	var r *testenv.Reply
	switch in.What {
	case "sign in":
		r = g.send(http.MethodPost, "/tokens/signin", "", body{"username": p.name, "password": p.text(in.Password)})
	case "change":
		r = g.send(http.MethodPost, "/users/change-password", held.access, body{"old_password": p.text(in.Password), "password": p.text(in.New)})
	case "read":
		r = g.send(http.MethodGet, "/users", held.access, nil)
	case "renew":
		r = g.send(http.MethodPost, "/tokens", "", body{"refresh_token": held.refresh})
	case "sign out":
		r = g.send(http.MethodDelete, "/tokens", "", body{"refresh_token": held.refresh})
	}
	return p.record(client, in, begun, r)
}

func (p *Person) record(client int, in Call, begun time.Duration, r *testenv.Reply) (out Outcome) {
	ended := time.Since(p.world.begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	out.Session = p.sessions
	switch {
	case r.Status < 300 && r.Status >= 200:
		out.What = "done"
		if access := r.Text("access_token"); access != "" {
			session := out.Session
			if in.What == "renew" {
				session = in.Session
			}
			p.tokens[session] = tokens{access, r.Text("refresh_token")}
		}
	case r.Status == http.StatusServiceUnavailable || r.Status == 0:
		out.What = "unknown"
		// Without an effect that another request sees; a second verification has none that the first one had not.
		if in.What == "read" || in.What == "renew" || in.What == "sign in" || in.What == "verify" && len(p.history) > 0 {
			return out
		}
		ended = math.MaxInt64
	default:
		out.What = "refused"
	}
	p.history = append(p.history, porcupine.Operation{
		ClientId: client, Input: in, Call: begun.Nanoseconds(), Output: out, Return: ended.Nanoseconds(),
	})
	return out
}

// Access returns the access token of a session.
func (p *Person) Access(session int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[session].access
}

// Check reports an error if no order of the requests explains the replies, and returns their number.
func (p *Person) Check(t *testing.T) (requests int) {
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

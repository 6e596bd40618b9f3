package authserver_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The replies about a session or a code must be possible if the requests had come one after the other, each between its
// start and its reply, whichever replicas served them.

// sessionCall is a request about one session.
type sessionCall struct {
	what       string // "renew", "profile" or "sign out"
	generation int    // of the refresh token in the request
}

// sessionReply is the status and the generation of the new refresh token.
type sessionReply struct{ status, generation int }

// sessionModel is a session in which every renewal within the reuse grace succeeds. Its state is the generation, or -1
// after its end.
var sessionModel = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		current, in, out := state.(int), input.(sessionCall), output.(sessionReply)
		switch {
		case in.what == "sign out":
			return out.status == http.StatusNoContent, -1
		case current < 0:
			return out.status == http.StatusUnauthorized, current
		case in.what == "profile":
			return out.status == http.StatusOK, current
		case in.generation == current:
			return out == sessionReply{http.StatusOK, current + 1}, current + 1
		case in.generation == current-1:
			return out == sessionReply{http.StatusOK, current}, current
		default: // older: theft
			return out.status == http.StatusUnauthorized, -1
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// history records the requests of several clients.
type history struct {
	mu   sync.Mutex
	zero time.Time
	list []porcupine.Operation
}

func (h *history) record(client int, input any, do func() any) {
	call := time.Since(h.zero)
	output := do()
	done := time.Since(h.zero)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, porcupine.Operation{
		ClientId: client, Input: input, Call: call.Nanoseconds(), Output: output, Return: done.Nanoseconds(),
	})
}

func (h *history) check(t *testing.T, model porcupine.Model) {
	t.Helper()
	if got := porcupine.CheckOperationsTimeout(model, h.list, 20*time.Second); got != porcupine.Ok {
		t.Errorf("the history of %d requests is %v:", len(h.list), got)
		for _, o := range h.list {
			t.Logf("%12d %12d %s", o.Call, o.Return, model.DescribeOperation(o.Input, o.Output))
		}
	}
}

func TestSessionIsLinearizable(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	for round := range 25 {
		u := c.any(round).newUser()
		// The tokens by generation. All replicas sign the same bytes.
		var mu sync.Mutex
		known := []string{u.refresh}
		generationOf := func(token string) int {
			mu.Lock()
			defer mu.Unlock()
			for g, text := range known {
				if text == token {
					return g
				}
			}
			// A new token is the successor of the current one.
			known = append(known, token)
			return len(known) - 1
		}
		h := &history{zero: time.Now()}
		together(5, func(client int) {
			n := c.any(client)
			held := 0
			for range 6 {
				switch draw := rand.IntN(20); {
				case draw < 12:
					mu.Lock()
					token := known[held]
					mu.Unlock()
					h.record(client, sessionCall{"renew", held}, func() any {
						r := n.renew(token)
						out := sessionReply{status: r.Status}
						if r.Status == http.StatusOK {
							out.generation = generationOf(r.Text("refresh_token"))
							held = out.generation
						}
						return out
					})
				case draw < 19 || round%2 == 0:
					h.record(client, sessionCall{what: "profile"}, func() any { return sessionReply{status: n.profile(u.access).Status} })
				default:
					h.record(client, sessionCall{what: "sign out"}, func() any { return sessionReply{status: n.signOut(u.refresh).Status} })
				}
			}
		})
		h.check(t, sessionModel)
		if t.Failed() {
			return
		}
	}
}

// codeModel has the recovery codes of one account. Its state is the valid code, or "". A request creates the next one.
var codeModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		live, in, out := state.(string), input.(codeCall), output.(codeReply)
		switch in.redeem {
		case "":
			return out.status == http.StatusOK, out.code
		case live:
			return out.status == http.StatusNoContent, ""
		default:
			return out.status == http.StatusBadRequest, live
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

type codeCall struct{ redeem string } // "": request a new one

type codeReply struct {
	status int
	code   string
}

func TestCodeIsLinearizable(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"HASHING_MAX_WAIT": "5s"})
	for round := range 15 {
		u := c.any(round).newUser()
		h := &history{zero: time.Now()}
		var mu sync.Mutex
		latest := ""
		together(5, func(client int) {
			n := c.any(client)
			for i := range 5 {
				mu.Lock()
				code := latest
				mu.Unlock()
				if code == "" || rand.IntN(3) == 0 {
					h.record(client, codeCall{}, func() any {
						r := n.post("/users/forgot-password", body{"email": u.email})
						mu.Lock()
						latest = r.Text("code")
						mu.Unlock()
						return codeReply{r.Status, r.Text("code")}
					})
					continue
				}
				password := fmt.Sprintf("the password of %d and %d, number %d", round, client, i)
				h.record(client, codeCall{code}, func() any {
					return codeReply{status: n.resetPassword(code, password).Status}
				})
			}
		})
		h.check(t, codeModel)
		if t.Failed() {
			return
		}
	}
}

package public

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// sequencePairs is how often a sequence is sent for each of two kinds: less often than single requests, because each is
// many requests. The power is checked as well.
const sequencePairs = 300

// call is one request of a sequence.
type call struct {
	path string
	ask  ask
}

// times returns n calls.
func (c call) times(n int) []call { return slices.Repeat([]call{c}, n) }

// Sequences of requests do not reveal whether an account exists either: the last request of each takes equally long,
// and all replies are the same.
func TestSequencesRevealNoAccount(t *testing.T) {
	g := start(t, map[string]string{"LIMIT_SIGNIN": "off", "LIMIT_SIGNUP": "off", "LIMIT_CODES": "off"})
	g.populate(pairs)
	signInFails, signInOfAddressFails := call{"/tokens/signin", signIn}, call{"/tokens/signin", signInByAddress}
	signInOwn := call{"/tokens/signin", func(kind string, i int) map[string]string {
		return map[string]string{"username": address(kind, i), "password": password + " of a stranger"}
	}}
	signUpOwn := call{"/users", func(kind string, i int) map[string]string {
		asked := signUp(kind, i)
		asked["password"] = password + " of a stranger"
		return asked
	}}
	newCode, forgot := call{"/users/verification-code", byAddress}, call{"/users/forgot-password", byAddress}
	for s, c := range []struct {
		about string
		calls []call
	}{
		{"twelve failures by username, then one by address", append(signInFails.times(12), signInOfAddressFails)},
		{"sign-up with an address, then sign-in", []call{signUpOwn, signInOwn}},
		{"three times a code, then a new password", append(newCode.times(3), forgot)},
		{"twelve failures by address, sign-up, sign-in", append(signInOfAddressFails.times(12), signUpOwn, signInOwn)},
		{"sign-up, a code, sign-up again", []call{signUpOwn, newCode, signUpOwn}},
	} {
		t.Run(c.about, func(t *testing.T) {
			g.t = t
			var measured comparison
			for i := range sequencePairs {
				order, took := []string{verified, nobody}, map[string]time.Duration{}
				if rand.IntN(2) == 0 {
					slices.Reverse(order)
				}
				seen := map[string]string{} // the last reply by kind; test/search compares all replies
				for _, kind := range order {
					for _, q := range c.calls {
						content := testenv.Must(json.Marshal(q.ask(kind, s*sequencePairs+i)))(t)
						began := time.Now()
						r := g.send(g.base+q.path, nil, content)
						took[kind] = time.Since(began)
						if r.status >= http.StatusInternalServerError {
							t.Fatalf("%s: %d %s", content, r.status, r.body)
						}
						seen[kind] = visible(r)
					}
				}
				if seen[verified] != seen[nobody] {
					t.Fatalf("the last request is answered with\n%s\nfor an account, and with\n%s\nwithout", seen[verified], seen[nobody])
				}
				measured.known, measured.unknown = append(measured.known, took[verified]), append(measured.unknown, took[nobody])
			}
			t.Log(measured)
			if measured.differs() {
				t.Errorf("the two kinds differ in time: %v", measured)
			}
			if p := measured.power(planted); p < 0.99 {
				t.Errorf("the test finds %v in only %.0f %% of cases", planted, 100*p)
			}
		})
	}
}

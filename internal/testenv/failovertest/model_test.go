package failovertest

import (
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The judge must find what a database that loses commits does.
func TestModelFindsLostWrites(t *testing.T) {
	t.Parallel()
	done, refused, unknown := "done", "refused", "unknown"
	step := func(at int64, in Call, what string, session int) porcupine.Operation {
		o := porcupine.Operation{Input: in, Output: Outcome{what, session}, Call: at, Return: at + 1}
		if what == unknown {
			o.Return, o.ClientId = math.MaxInt64, int(at)
		}
		return o
	}
	verify := step(1, Call{What: "verify"}, done, 1)
	change := Call{What: "change", Session: 1, New: 1}
	for about, tc := range map[string]struct {
		list []porcupine.Operation
		want porcupine.CheckResult
	}{
		"a sign-up is lost": {[]porcupine.Operation{verify, step(3, Call{What: "sign in"}, refused, 2)}, porcupine.Illegal},
		"a change is lost": {[]porcupine.Operation{verify, step(3, change, done, 0),
			step(5, Call{What: "sign in", Password: 1}, refused, 2)}, porcupine.Illegal},
		"the older password works": {[]porcupine.Operation{verify, step(3, change, done, 0), step(5, Call{What: "sign in"}, done, 2)}, porcupine.Illegal},
		"a change may have happened": {[]porcupine.Operation{verify, step(3, change, unknown, 0),
			step(5, Call{What: "sign in", Password: 1}, done, 2), step(7, Call{What: "sign in"}, refused, 3)}, porcupine.Ok},
		"a change did not happen": {[]porcupine.Operation{verify, step(3, change, unknown, 0), step(5, Call{What: "sign in"}, done, 2)}, porcupine.Ok},
		"a change is undone": {[]porcupine.Operation{verify, step(3, change, unknown, 0),
			step(5, Call{What: "sign in", Password: 1}, done, 2), step(7, Call{What: "sign in"}, done, 3)}, porcupine.Illegal},
		"an ended session is alive": {[]porcupine.Operation{verify, step(3, Call{What: "sign out", Session: 1}, done, 0),
			step(5, Call{What: "read", Session: 1}, done, 0)}, porcupine.Illegal},
		"a change ends other sessions": {[]porcupine.Operation{verify, step(3, Call{What: "sign in"}, done, 2), step(5, change, done, 0),
			step(7, Call{What: "read", Session: 2}, refused, 0), step(9, Call{What: "renew", Session: 1}, done, 0)}, porcupine.Ok},
		"a session is lost": {[]porcupine.Operation{verify, step(3, Call{What: "renew", Session: 1}, refused, 0)}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(model, tc.list, time.Minute); got != tc.want {
			t.Errorf("%s: %v; want %v", about, got, tc.want)
		}
	}
}

package public

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A client cannot find out which accounts wait for their passwords from another system, nor that other logins have no
// account. It sees what that system itself shows by its time, which the last comparison plants.
func TestEnumerationIsPreventedDuringAMigration(t *testing.T) {
	var slow atomic.Bool
	former := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if slow.Load() && bytes.Contains(body, []byte("a wrong password")) { // others are asked about with another one
			time.Sleep(planted)
		}
		_, _ = io.WriteString(w, `{"correct": false}`)
	}))
	t.Cleanup(former.Close)
	g := start(t, map[string]string{"LIMIT_SIGNIN": "off", "PASSWORD_MIGRATION_URL": former.URL,
		"PASSWORD_MIGRATION_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
	g.populate(pairs)
	g.exec(`UPDATE users SET password_hash = '$migrate$$', suspended_at = NULL WHERE suspended_at IS NOT NULL`)
	const marked = suspended
	g.post("/tokens/signin", nil, signIn(marked, 0)) // the gateway has met one, so it asks from now on
	for about, unmarked := range map[string]string{"and no account": nobody, "and an own hash": verified} {
		t.Run("marked "+about, func(t *testing.T) {
			measured := g.compare(t, g.base+"/tokens/signin", signIn, marked, unmarked, http.StatusUnauthorized)
			t.Log(measured)
			if measured.differs() {
				t.Errorf("the two kinds differ in time: %v", measured)
			}
			if p := measured.power(planted); p < 0.99 {
				t.Errorf("the test finds %v in only %.0f %% of cases", planted, 100*p)
			}
		})
	}
	t.Run("a planted difference of the other system is found", func(t *testing.T) {
		slow.Store(true)
		measured := g.compare(t, g.base+"/tokens/signin", signIn, marked, nobody, http.StatusUnauthorized)
		t.Log(measured)
		if !measured.differs() {
			t.Errorf("%v is not found: %v", planted, measured)
		}
	})
}

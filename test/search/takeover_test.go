package search

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
)

// No order of actions of strangers and of the owner of a mailbox lets a stranger into an account with the owner's
// address, or keeps the owner out of one.
func TestTakeoverAndLockoutAreImpossible(t *testing.T) {
	t.Parallel()
	for _, exposure := range []string{"public", "internal"} {
		t.Run(exposure, func(t *testing.T) {
			t.Parallel()
			g := start(t, exposure)
			explore(t, func(all trace) *finding { return takeover(g, all) })
			g.checkClock()
		})
	}
}

// takeover is a run with the owner and the strangers.
func takeover(g *gateway, all trace) *finding {
	w := newSimulation(g, nextNumber())
	w.forgetful = random(all.seed).IntN(2) == 0
	for _, seed := range all.steps {
		if broken := w.step(random(seed)); broken != "" {
			return &finding{broken, w.log}
		}
	}
	if broken := w.end(); broken != "" {
		return &finding{broken, w.log}
	}
	return nil
}

// step performs one action, and returns the rule that it breaks.
func (w *simulation) step(r *rand.Rand) (broken string) {
	switch n := r.IntN(110); {
	case n < 45:
		w.act(w.strangers, r)
	case n < 88:
		w.act(w.owner, r)
	case n >= 100:
		if broken := w.administer(r); broken != "" {
			return broken
		}
	case n < 94:
		w.wait(oneOf(r, time.Second, time.Minute, 16*time.Minute, 20*time.Minute, time.Hour, 25*time.Hour, 8*24*time.Hour))
	case n < 96:
		w.suspend()
	case n < 98:
		if broken := w.lift(); broken != "" {
			return broken
		}
	default:
		if broken := w.overtake(r); broken != "" {
			return broken
		}
	}
	if r.IntN(3) > 0 {
		w.readMail()
	}
	return w.takenOver()
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// wait advances the time. After a long time, the server cleans up.
func (w *simulation) wait(d time.Duration) {
	w.note("%v pass", d)
	w.g.passes(d)
	if d > 24*time.Hour {
		w.g.cleanUp()
	}
}

// ended records the sessions and codes that a suspension has ended permanently.
type ended struct {
	suspended bool
	sessions  []string
	codes     [][]byte
}

// suspend suspends the owner's account as docs/security.md describes.
func (w *simulation) suspend() {
	accounts := w.accounts()
	if len(accounts) == 0 || w.ended.suspended {
		return // a second suspension would not end what was requested since the first
	}
	w.ended.suspended = true
	w.note("the operator suspends the owner's account")
	w.g.exec(`UPDATE users SET suspended_at = now() WHERE canonical_email = ANY ($1) AND suspended_at IS NULL`, w.ownAddresses())
	for _, a := range accounts {
		w.ended.sessions = append(w.ended.sessions, a.sessions...)
		w.ended.codes = append(w.ended.codes, a.codes...)
	}
}

func (w *simulation) lift() (broken string) {
	if !w.ended.suspended {
		return ""
	}
	w.note("the operator lifts the suspension")
	w.ended.suspended = false
	w.g.exec(`UPDATE users SET suspended_at = NULL WHERE canonical_email = ANY ($1)`, w.ownAddresses())
	for _, a := range w.accounts() {
		for _, session := range a.sessions {
			if slices.Contains(w.ended.sessions, session) {
				return "a lifted suspension gives back a session"
			}
		}
		for _, code := range a.codes {
			if slices.ContainsFunc(w.ended.codes, func(c []byte) bool { return slices.Equal(c, code) }) {
				return "a lifted suspension gives back a code"
			}
		}
	}
	return ""
}

// account is an account with what gives access to it.
type account struct {
	hash     string
	sessions []string
	codes    [][]byte
}

// accounts returns the accounts with an address of the owner's: those that have verified it, and invitations.
func (w *simulation) accounts() (all []account) {
	rows, err := w.g.db.Query(context.Background(), `
		SELECT password_hash, ARRAY(SELECT id::text FROM sessions WHERE user_id = u.id), ARRAY(SELECT hash FROM codes WHERE user_id = u.id)
		FROM users u WHERE canonical_email = ANY ($1)`, w.ownAddresses())
	if err != nil {
		w.g.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a account
		if err := rows.Scan(&a.hash, &a.sessions, &a.codes); err != nil {
			w.g.t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

func (w *simulation) ownAddresses() (all []string) {
	for _, address := range w.owner.mailboxes {
		all = append(all, wire(address))
	}
	return all
}

// takenOver checks the first rule: strangers have no access to an account with the owner's address.
func (w *simulation) takenOver() (broken string) {
	for _, a := range w.accounts() {
		switch {
		case slices.ContainsFunc(a.sessions, func(id string) bool { return slices.Contains(w.strangers.sessions, id) }):
			return "strangers have a session of an account that has the owner's address"
		case slices.ContainsFunc(a.codes, w.strangers.knows):
			return "strangers have a code of an account that has the owner's address"
		case w.strangers.chose(a.hash):
			return "strangers chose the password of an account that has the owner's address"
		}
	}
	return ""
}

// chose reports whether a hash is of a password that the person chooses.
func (p *person) chose(hash string) bool {
	if theirs, known := p.hashedWithTheirs[hash]; known {
		return theirs
	}
	p.hashedWithTheirs[hash] = slices.ContainsFunc(p.passwords, func(password string) bool {
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	})
	return p.hashedWithTheirs[hash]
}

// end checks the second rule: the owner gets in. They try the passwords that they remember, a new password by mail, and
// a new sign-up, each with the codes of all their mails. Three rounds must suffice, twenty minutes apart, while the
// strangers repeat their requests.
func (w *simulation) end() (broken string) {
	if broken := w.lift(); broken != "" {
		return broken
	}
	w.note("now the owner wants to get in")
	if w.forgetful {
		w.note("and has forgotten every password")
		w.owner.passwords = []string{"the owner's third", "the owner's fourth"}
	}
	for round := range 3 {
		w.readMail()
		if w.getIn() {
			return w.takenOver()
		}
		if round == 0 {
			w.note("and so twice more, twenty minutes apart, while the strangers go on asking")
			defer func(log []string) { w.log = log }(w.log)
		}
		w.wait(20 * time.Minute)
		w.askAgain()
	}
	return "the owner is locked out"
}

func (w *simulation) getIn() bool {
	return w.signIn() || w.recover() || w.signUp()
}

func (w *simulation) signIn() bool {
	for _, address := range w.owner.asked {
		for _, password := range w.owner.passwords {
			q := request{method: "POST", path: "/tokens/signin", from: w.owner.networks[1],
				parameters: map[string]string{"username": address, "password": password}}
			a := w.call(w.owner, q)
			if a.status == 429 {
				w.wait(time.Minute + time.Second)
				a = w.call(w.owner, q)
			}
			if a.ok() && w.isIn(a) {
				return true
			}
		}
	}
	return false
}

func (w *simulation) recover() bool {
	addresses := slices.Clone(w.owner.asked)
	for _, l := range w.owner.letters { // an account may have been made for them
		if !slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(wire(a), l.to) }) {
			addresses = append(addresses, l.to)
		}
	}
	for _, address := range addresses {
		w.call(w.owner, request{method: "POST", path: "/users/forgot-password", parameters: map[string]string{"email": address}})
	}
	w.readMail()
	for _, code := range w.newestCodes() {
		for _, password := range []string{"the owner's third", "the owner's fourth"} { // one of them may be the old password
			q := request{method: "POST", path: "/users/change-password", parameters: map[string]string{"code": code, "password": password}}
			a := w.call(w.owner, q)
			if a.text("reason") == "username_taken" {
				q.parameters["username"] = w.owner.names[0] + ".2"
				a = w.call(w.owner, q)
			}
			if !a.ok() {
				continue
			}
			w.owner.passwords = []string{password}
			if w.signIn() {
				return true
			}
			break // another code may be for another account of the owner
		}
	}
	return false
}

func (w *simulation) signUp() bool {
	for _, address := range w.owner.mailboxes {
		q := request{method: "POST", path: "/users", parameters: map[string]string{
			"username": w.owner.names[0], "email": address, "first_name": "Olga", "last_name": "O", "password": w.owner.passwords[0]}}
		if a := w.call(w.owner, q); a.status == 409 {
			q.parameters["username"] += ".2"
			w.call(w.owner, q)
		}
		w.readMail()
		for _, code := range w.newestCodes() {
			q := request{method: "POST", path: "/users/verify-user", parameters: map[string]string{"code": code, "password": w.owner.passwords[0]}}
			a := w.call(w.owner, q)
			if a.text("reason") == "username_taken" {
				q.parameters["username"] = w.owner.names[0] + ".2"
				a = w.call(w.owner, q)
			}
			if a.ok() {
				return w.isIn(a)
			}
		}
	}
	return false
}

// newestCodes returns the codes of the owner's last mails, newest first.
func (w *simulation) newestCodes() (codes []string) {
	for _, l := range slices.Backward(w.owner.letters) {
		if len(codes) < 8 {
			codes = append(codes, l.code())
		}
	}
	return codes
}

// isIn reports whether tokens are of an account of the owner: with their address and a username that they chose. An
// account that strangers requested keeps the username that those chose until its owner changes it.
func (w *simulation) isIn(a reply) bool {
	me := w.call(w.owner, request{method: "GET", path: "/users", bearer: a.text("access_token")})
	theirs := func(list []string, value string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) || strings.EqualFold(s+".2", value) })
	}
	return me.ok() && theirs(slices.Concat(w.owner.mailboxes, w.ownAddresses()), me.text("email")) &&
		(theirs(w.owner.names, me.text("username")) || theirs(w.owner.adopted, wire(me.text("email"))))
}

// askAgain repeats the strangers' requests about the owner's addresses.
func (w *simulation) askAgain() {
	for _, path := range []string{"/users/verification-code", "/users/forgot-password"} {
		for _, address := range w.owner.mailboxes {
			w.call(w.strangers, request{method: "POST", path: path, parameters: map[string]string{"email": address}})
		}
	}
}

// overtake sends the right password of the owner, and wrong ones while the server is checking it, until the throttle
// refuses them. From then on it would refuse the right one too. So the right one must be refused as well, although it
// came first: otherwise guesses that are sent at the same time bypass the throttle.
func (w *simulation) overtake(r *rand.Rand) (broken string) {
	w.overtakes++
	login, right := oneOf(r, w.owner.logins...), oneOf(r, w.owner.passwords...)
	w.note("strangers guess the password of %s, and guess wrong meanwhile (%d)", login[:4], w.overtakes)
	guess := func(i int, password string) reply {
		return w.g.send(request{method: "POST", path: "/tokens/signin",
			from:       fmt.Sprintf("2001:db8:%x:%x::1", w.number, w.overtakes*64+i),
			parameters: map[string]string{"username": login, "password": password}})
	}
	// The first statement reads the failures. Before the second one the password has been checked.
	held, release := w.g.holdStatement(2)
	defer release()
	replied := make(chan reply, 1)
	go func() { replied <- guess(0, right) }()
	select {
	case <-replied: // the throttle has refused it already, or the password is not the present one
		return ""
	case <-held:
	}
	refused := false
	for i := 1; i < 20 && !refused; i++ {
		refused = guess(i, "a wrong guess").status == http.StatusTooManyRequests
	}
	release()
	a := <-replied
	if refused && (a.ok() || a.status == http.StatusForbidden) {
		return "guesses that are sent at the same time bypass the throttle"
	}
	if a.ok() {
		w.g.send(request{method: "DELETE", path: "/tokens", from: "2001:db8::1",
			parameters: map[string]string{"refresh_token": a.text("refresh_token")}})
	}
	return ""
}

// cleanUp removes expired rows, as the server does every minute.
func (g *gateway) cleanUp() {
	_, err := g.store.DeleteExpired(context.Background(), g.clock.Now(), postgres.Retention{
		Unverified: g.settings.UnverifiedAccountExpiry, Events: g.settings.AuditRetention, Tokens: g.settings.AccessTokenExpiry,
	}, 500)
	if err != nil {
		g.t.Fatal(err)
	}
}

package search

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// What strangers see does not depend on whether the owner has an account: the same requests in two simulations, one
// with the account and one without, get the same statuses, header fields and bytes, and cost the same statements and
// hashes.
func TestStrangersLearnOfNoAccount(t *testing.T) {
	t.Parallel()
	with, without := start(t, "public"), start(t, "public")
	explore(t, func(all trace) *finding { return telling(with, without, all) })
	with.checkClock()
}

// telling is a run of two simulations.
func telling(with, without *gateway, all trace) *finding {
	number := nextNumber()
	here, there := newSimulation(with, number), newSimulation(without, number)
	r := random(all.seed)
	mailbox := r.IntN(2) == 0
	here.note("strangers have a mailbox of their own: %v", mailbox)
	here.populate(r.IntN(8))
	for _, g := range []*gateway{with, without} {
		g.setClock(epoch.Add(time.Minute)) // the owner needed some time
	}
	seenHere, seenThere := here.observe(mailbox), there.observe(mailbox)
	hashes := with.hashes() - without.hashes()
	for _, seed := range all.steps {
		for _, w := range []*simulation{here, there} {
			w.strangersStep(random(seed))
		}
		if different := compare(*seenHere, *seenThere); different != "" {
			return &finding{different, slices.Concat(here.log, []string{"and without the owner's account:"}, there.log)}
		}
	}
	if with.hashes()-without.hashes() != hashes {
		return &finding{"other numbers of passwords are hashed", here.log}
	}
	return nil
}

// populate creates the owner's account in one of several states.
func (w *simulation) populate(state int) {
	first := len(w.log)
	r := random(1)
	if state == 6 {
		w.adminCreates(map[string]any{"state": "invited", "username": w.owner.names[0], "email": w.owner.mailboxes[0]})
		w.readMail()
		w.log = append(w.log[:first], "the owner has an invitation")
		return
	}
	if state == 0 {
		w.use(w.owner, routeOf("POST", "/users"), r)
		w.log = append(w.log[:first], "the owner has a sign-up that waits")
		return
	}
	w.settle(w.owner, r)
	if len(w.owner.access) == 0 {
		w.g.t.Fatalf("the owner has no account:\n%s", strings.Join(w.log, "\n"))
	}
	about := "a session"
	switch state {
	case 1:
		about = "an account that is suspended"
		w.suspend()
	case 2:
		about = "no session"
		w.call(w.owner, request{method: "DELETE", path: "/tokens", parameters: map[string]string{"refresh_token": w.owner.refresh[0]}})
	case 3:
		about = "a change of address that waits"
		w.call(w.owner, request{method: "POST", path: "/users/change-email-request", bearer: w.owner.access[0]})
		w.readMail()
		w.call(w.owner, request{method: "POST", path: "/users/change-email", bearer: w.owner.access[0],
			parameters: map[string]string{"code": w.newestCodes()[0], "email": w.owner.mailboxes[1]}})
	case 4:
		about = "a password of another cost"
		hash, err := bcrypt.GenerateFromPassword([]byte(w.owner.passwords[0]), 5)
		if err != nil {
			w.g.t.Fatal(err)
		}
		w.g.exec(`UPDATE users SET password_hash = $1 WHERE canonical_email = ANY ($2)`, string(hash), w.ownAddresses())
	case 7:
		about = "no password"
		w.adminEndsAll(w.owner.users[0], "/require-password-change")
	}
	w.log = append(w.log[:first], "the owner has "+about)
}

// observe records what strangers see and what it costs. Strangers with a mailbox may learn that a username is taken,
// like every signed-in user, so they do not enter the owner's.
func (w *simulation) observe(mailbox bool) *[]string {
	var seen []string
	w.strangers.blind = !mailbox
	if mailbox {
		w.strangers.names, w.strangers.logins = w.strangers.names[:2], slices.Concat(w.strangers.logins[:2], w.strangers.logins[3:])
		w.strangers.reads = func(l letter) { seen = append(seen, "mail\n"+anonymous(l.to+"\n"+l.subject+"\n"+l.text)) }
	}
	w.watch = func(q request, a reply) {
		header := a.header.Clone()
		for _, field := range []string{"Date", "X-Request-Id"} {
			header.Del(field)
		}
		text := fmt.Sprintf("%s %s\n%d\n", q.method, q.path, a.status)
		for _, field := range slices.Sorted(maps.Keys(header)) {
			text += fmt.Sprintln(field, header[field])
		}
		text += inAnyOrder(q, string(a.body)) + "\n" + strings.Join(w.g.takeStatements(), "\n;\n")
		seen = append(seen, anonymous(text))
	}
	w.g.takeStatements()
	return &seen
}

var (
	aUUID     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	aRawCode  = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)
	aNumber   = regexp.MustCompile(`\.\d{5}\b`)
	shownCode = regexp.MustCompile(`(?m)^[ \t]*[A-Z2-7]{2,}([ -][A-Z2-7]+)+[ \t]*\r?$`)
)

// anonymous returns a text without random parts.
func anonymous(text string) string {
	for name, pattern := range map[string]*regexp.Regexp{"UUID": aUUID, "CODE": aRawCode, "CODES": shownCode, "TOKEN": aToken, "": aNumber} {
		text = pattern.ReplaceAllString(text, name)
	}
	return text
}

// inAnyOrder returns a body without a random order: that of sessions that were opened in the same second.
func inAnyOrder(q request, body string) string {
	if q.path == "/users/sessions" {
		sessions := strings.Split(anonymous(strings.TrimSuffix(strings.TrimPrefix(body, `{"sessions":[{`), "}]}")), "},{")
		slices.Sort(sessions)
		return strings.Join(sessions, "},{")
	}
	if q.path == "/users/data" {
		objects := strings.FieldsFunc(anonymous(body), func(r rune) bool { return strings.ContainsRune("{}[]", r) })
		slices.Sort(objects)
		return strings.Join(objects, " ")
	}
	return body
}

// compare returns a difference as a broken rule.
func compare(here, there []string) string {
	for i := range max(len(here), len(there)) {
		switch {
		case i >= len(here) || i >= len(there):
			return "another number of replies or mails"
		case here[i] != there[i]:
			a, b := strings.Split(here[i], "\n"), strings.Split(there[i], "\n")
			for j := range min(len(a), len(b)) {
				if a[j] != b[j] {
					return fmt.Sprintf("%s: %.120q with the owner's account, %.120q without", a[0], a[j], b[j])
				}
			}
			return a[0] + ": one has more lines"
		}
	}
	return ""
}

// strangersStep is a step that involves only strangers.
func (w *simulation) strangersStep(r *rand.Rand) {
	if n := r.IntN(100); n < 90 {
		w.act(w.strangers, r)
	} else {
		w.wait(oneOf(r, time.Second, time.Minute, 16*time.Minute, 20*time.Minute, time.Hour, 25*time.Hour, 8*24*time.Hour))
	}
	if r.IntN(3) > 0 {
		w.readMail()
	}
}

var doneHashes = regexp.MustCompile(`hashing_jobs_total\{outcome="done"\} (\d+)`)

// hashes returns the number of passwords that the server has hashed.
func (g *gateway) hashes() (n int) {
	found := doneHashes.FindStringSubmatch(g.metrics())
	if found == nil {
		g.t.Fatal("the metrics do not show how many passwords were hashed")
	}
	_, _ = fmt.Sscan(found[1], &n)
	return n
}

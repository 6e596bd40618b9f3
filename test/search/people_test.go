package search

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// person is the owner of a mailbox, or the strangers, who share everything they know.
type person struct {
	who       string
	careful   bool     // true for the owner
	asked     []string // the addresses that the owner gave for an account of theirs
	adopted   []string // the addresses whose account strangers requested, and the owner took with a code that came by mail
	blind     bool     // true for strangers without a mailbox
	reads     func(letter)
	networks  []string // client addresses
	names     []string // usernames that they enter
	targets   []string // addresses that they enter
	logins    []string
	passwords []string // that they choose
	mailboxes []string // addresses whose mail they read

	letters          []letter // mails with a code, the newest last
	access, refresh  []string
	sessions, users  []string             // ids
	waiting          map[string]time.Time // for the owner: when they requested the proof of each address
	previous         *request
	hashedWithTheirs map[string]bool // by hash: whether the password is theirs
}

// simulation is one run.
type simulation struct {
	g                *gateway
	number           int
	owner, strangers *person
	ended            ended
	forgetful        bool // whether the owner has forgotten every password at the end
	log              []string
	repeated         int // repetitions of the last line of the log
	overtakes        int
	watch            func(request, reply) // called with every reply to the strangers
}

// newSimulation creates people with names that no other run uses, and discards the mails of earlier runs.
func newSimulation(g *gateway, number int) *simulation {
	g.setClock(epoch)
	g.exec(`DELETE FROM mails`)
	g.mail.deliver()
	name := func(s string) string { return fmt.Sprintf("%s.%05d", s, number) }
	network := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", number>>8&255, number&255, i) }
	home, second := name("olga")+"@kissbox.example", name("olga")+"@kißbox.example"
	owner := &person{
		who: "owner", careful: true, networks: []string{network(1), network(2)},
		names: []string{name("olga"), name("olga.o")}, targets: []string{home, home, home, second}, logins: []string{name("olga"), home, second},
		passwords: []string{"the owner's first", "the owner's second"}, mailboxes: []string{home, second},
		waiting: map[string]time.Time{}, hashedWithTheirs: map[string]bool{},
	}
	strangers := &person{
		who: "strangers", networks: []string{network(11), network(12), network(13), network(14)},
		names: []string{name("mallory"), name("trudy"), name("olga"), name("OLGA.o")},
		targets: slices.Concat([]string{name("mallory") + "@evil.example", name("trudy") + "@evil.example"},
			spellings(home), spellings(second)),
		logins:    []string{name("mallory"), name("mallory") + "@evil.example", name("olga"), home},
		passwords: []string{"the strangers' first", "the strangers' second"}, hashedWithTheirs: map[string]bool{},
	}
	return &simulation{g: g, number: number, owner: owner, strangers: strangers}
}

// spellings are ways to write an address, and other addresses that some Unicode folding equates with it. The first few
// are the address itself.
func spellings(address string) []string {
	at := strings.LastIndex(address, "@")
	local, domain := address[:at+1], address[at+1:]
	all := []string{address, address, address, strings.ToUpper(local) + domain}
	for _, change := range [][2]string{{"i", "\u0130"}, {"ss", "\u1e9e"}, {"ß", "\u1e9e"}, {"ß", "ss"}, {"ss", "ß"},
		{"k", "\u212a"}, {"s", "\u017f"}} {
		if other := strings.Replace(domain, change[0], change[1], 1); other != domain {
			all = append(all, local+other)
		}
	}
	return all
}

// readMail hands mails to their readers: the owner has the mailboxes of their own addresses, strangers those of all
// other domains.
func (w *simulation) readMail() {
	for _, l := range w.g.mail.deliver() {
		reader := w.strangers
		for _, mailbox := range w.owner.mailboxes {
			if strings.EqualFold(l.to, wire(mailbox)) {
				reader = w.owner
			}
		}
		w.note("    mail to %s: %s", reader.who, l.subject)
		if reader.reads != nil {
			reader.reads(l)
		}
		if l.code() != "" && !reader.blind {
			reader.letters = append(reader.letters, l)
		}
	}
}

// wire returns an address as mail is sent to it.
func wire(address string) string {
	at := strings.LastIndex(address, "@")
	domain, err := idna.Lookup.ToASCII(address[at+1:])
	if err != nil {
		panic(err)
	}
	return address[:at+1] + domain
}

// act performs one action of a person.
func (w *simulation) act(p *person, r *rand.Rand) {
	switch n := r.IntN(100); {
	case n < 8 || n < 35 && !p.careful && len(p.access) == 0: // most of what strangers can do needs an account
		w.settle(p, r)
	case n < 12:
		w.move(p, r)
	case n < 16 && p.previous != nil:
		w.note("%s, the same again:", p.who)
		w.call(p, *p.previous)
	case n < 20 && !p.careful:
		w.guess(p, r)
	default:
		w.use(p, pickRoute(p, r), r)
	}
}

func pickRoute(p *person, r *rand.Rand) route {
	weight := func(rt route) int {
		if p.careful {
			return rt.owner
		}
		return rt.stranger
	}
	total := 0
	for _, rt := range routes {
		total += weight(rt)
	}
	n := r.IntN(total)
	for _, rt := range routes {
		if n -= weight(rt); n < 0 {
			return rt
		}
	}
	panic("no weight")
}

func routeOf(method, path string) route {
	return routes[slices.IndexFunc(routes, func(r route) bool { return r.method == method && r.path == path })]
}

// settle performs the first steps of an honest user.
func (w *simulation) settle(p *person, r *rand.Rand) {
	w.call(p, request{method: "POST", path: "/users", parameters: map[string]string{
		"username": p.names[0], "email": p.targets[0], "password": p.passwords[0], "first_name": "A", "last_name": "B",
	}})
	w.readMail()
	if len(p.letters) > 0 {
		q := request{method: "POST", path: "/users/verify-user", parameters: map[string]string{"code": plain(p.letters[len(p.letters)-1].code())}}
		if !p.careful || w.waits(p, p.letters[len(p.letters)-1].to) {
			w.answer(p, q, w.call(p, q), r)
		}
	}
}

// move changes an address with a code that is valid for one address or for any, and may present the code for another
// address.
func (w *simulation) move(p *person, r *rand.Rand) {
	w.use(p, routeOf("POST", "/users/change-email-request"), r)
	w.readMail()
	w.use(p, routeOf("POST", "/users/change-email"), r)
}

// guess tries a dozen wrong passwords in a row.
func (w *simulation) guess(p *person, r *rand.Rand) {
	login := oneOf(r, p.logins...)
	for range 12 {
		w.call(p, request{method: "POST", path: "/tokens/signin", parameters: map[string]string{"username": login, "password": "a wrong guess"}})
	}
}

// use fills in the parameters of a route, and completes a request whose reply asks for more.
func (w *simulation) use(p *person, rt route, r *rand.Rand) {
	q := request{method: rt.method, path: rt.path, parameters: map[string]string{}}
	for field := range strings.FieldsSeq(rt.parameters) {
		name, optional := strings.CutSuffix(field, "?")
		if optional && r.IntN(2) == 0 {
			continue
		}
		name, like, found := strings.Cut(name, "=")
		if !found {
			like = name
		}
		value := w.choose(p, rt, like, r)
		switch {
		case value == "":
			return // the person has no value for it
		case name == "access_token" && r.IntN(2) == 0:
			q.bearer = value
		default:
			q.parameters[name] = value
		}
	}
	if before, after, ok := strings.Cut(q.path, "{id}"); ok {
		q.path = before + latest(r, p.sessions, "00000000-0000-4000-8000-000000000000") + after
	}
	w.answer(p, q, w.call(p, q), r)
}

// answer repeats a request with what its reply asks for.
func (w *simulation) answer(p *person, q request, a reply, r *rand.Rand) {
	for range 2 {
		switch a.text("reason") {
		case "password_required":
			q.parameters["password"] = oneOf(r, p.passwords...)
		case "username_taken":
			q.parameters["username"] = oneOf(r, p.names...)
		default:
			return
		}
		a = w.call(p, q)
	}
}

// choose returns a value for a parameter that the person has, or "".
func (w *simulation) choose(p *person, rt route, parameter string, r *rand.Rand) string {
	switch parameter {
	case "username":
		return oneOf(r, p.names...)
	case "login":
		return oneOf(r, p.logins...)
	case "email":
		return oneOf(r, p.targets...)
	case "first_name", "last_name":
		return oneOf(r, "Olga", "Mallory", "\u202eevil")
	case "password":
		return oneOf(r, p.passwords...)
	case "scope":
		return "profile email"
	case "grant_type":
		return "refresh_token"
	case "id":
		return latest(r, p.users, "00000000-0000-4000-8000-000000000000")
	case "access_token":
		return latest(r, p.access, "not.a.token")
	case "refresh_token":
		return latest(r, p.refresh, "not.a.token")
	case "token":
		return latest(r, slices.Concat(p.refresh, p.access), "not.a.token")
	case "code":
		return w.chooseCode(p, rt, r)
	}
	panic("no rule fills in the parameter " + parameter)
}

// chooseCode picks a code from the mails. The owner proves an address only if their own sign-up or change of address
// waits for it. They ignore a mail about any other address, as it says.
func (w *simulation) chooseCode(p *person, rt route, r *rand.Rand) string {
	letters := p.letters
	if p.careful && rt.path == "/users/verify-user" {
		letters = slices.DeleteFunc(slices.Clone(letters), func(l letter) bool { return !w.waits(p, l.to) })
	}
	if len(letters) == 0 {
		return ""
	}
	l := letters[len(letters)-1]
	if r.IntN(3) == 0 {
		l = letters[r.IntN(len(letters))]
	}
	return spell(r, l.code())
}

// waits reports whether a sign-up or change of address of the person waits for the proof of an address.
func (w *simulation) waits(p *person, address string) bool {
	since, asked := p.waiting[strings.ToLower(address)]
	return asked && w.g.clock.Now().Sub(since) < w.g.settings.UnverifiedAccountExpiry-time.Hour
}

// spell writes a code as users type it.
func spell(r *rand.Rand, code string) string {
	switch r.IntN(6) {
	case 0:
		return strings.ToLower(code)
	case 1:
		return " " + code + " "
	case 2:
		return plain(code)
	default:
		return code
	}
}

// call sends a request, and updates what the person knows from the reply.
func (w *simulation) call(p *person, q request) reply {
	if q.from == "" {
		q.from = p.networks[0]
	}
	p.previous = &q
	w.g.passes(time.Millisecond) // so no two events have the same time
	a := w.g.send(q)
	w.note("%s", show(w, p, q, a))
	w.learn(p, q, &a)
	if w.watch != nil && p == w.strangers {
		w.watch(q, a)
	}
	return a
}

func (w *simulation) learn(p *person, q request, a *reply) {
	if token := a.text("access_token"); token != "" {
		p.access, p.refresh = append(p.access, token), append(p.refresh, a.text("refresh_token"))
		session, user := idsOf(token)
		p.sessions, p.users = append(p.sessions, session), append(p.users, user)
	}
	if code := a.text("code"); code != "" {
		w.g.mail.post(w.recipient(q), code) // the backend mails it, and does not show it
	}
	if !a.ok() || !p.careful {
		return
	}
	switch q.method + " " + q.path {
	case "POST /users":
		p.ask(q.parameters["email"], w.g.clock.Now())
	case "POST /users/change-email":
		if a.text("is_verified") == "false" || !strings.EqualFold(a.text("email"), q.parameters["email"]) {
			p.ask(q.parameters["email"], w.g.clock.Now())
		} else if !slices.Contains(p.asked, q.parameters["email"]) {
			p.asked = append(p.asked, q.parameters["email"])
		}
	case "POST /users/verify-user", "POST /users/change-password":
		if q.parameters["code"] != "" {
			clear(p.waiting)
			p.adopt(q.parameters["code"])
		}
	}
}

// adopt records that a code of a mail gave the owner an account with the address of that mail.
func (p *person) adopt(code string) {
	for _, l := range p.letters {
		if plain(l.code()) == plain(code) && !slices.ContainsFunc(p.asked, func(a string) bool { return strings.EqualFold(wire(a), l.to) }) {
			p.asked, p.adopted = append(p.asked, l.to), append(p.adopted, l.to)
		}
	}
}

// ask records that the person requested to prove an address.
func (p *person) ask(address string, now time.Time) {
	p.waiting[strings.ToLower(wire(address))] = now
	if !slices.Contains(p.asked, address) {
		p.asked = append(p.asked, address)
	}
}

// recipient returns the address to which a backend mails a code.
func (w *simulation) recipient(q request) string {
	if email := q.parameters["email"]; email != "" {
		return email
	}
	token := q.bearer
	if token == "" {
		token = q.parameters["access_token"]
	}
	return w.g.send(request{method: "GET", path: "/users", from: q.from, bearer: token}).text("email")
}

// idsOf returns the session and user ids of an access token.
func idsOf(token string) (session, user string) {
	var claims struct{ Sid, Sub string }
	if err := json.Unmarshal(claimsOf(token), &claims); err != nil {
		panic(err)
	}
	return claims.Sid, claims.Sub
}

// knows reports whether a person has a code with this hash.
func (p *person) knows(hash []byte) bool {
	return slices.ContainsFunc(p.letters, func(l letter) bool {
		sum := sha256.Sum256([]byte(plain(l.code())))
		return slices.Equal(sum[:], hash)
	})
}

// latest mostly returns the newest item, and rarely another one or something else.
func latest(r *rand.Rand, of []string, otherwise string) string {
	switch n := r.IntN(10); {
	case len(of) == 0:
		return ""
	case n == 0:
		return otherwise
	case n < 4:
		return oneOf(r, of...)
	default:
		return of[len(of)-1]
	}
}

// note adds a line to the log, or increments the count of its last line.
func (w *simulation) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if last := len(w.log) - 1; last >= 0 && strings.HasPrefix(w.log[last]+" (", line+" (") {
		w.repeated++
		w.log[last] = fmt.Sprintf("%s (%d times)", line, w.repeated)
		return
	}
	w.repeated = 1
	w.log = append(w.log, line)
}

var aToken = regexp.MustCompile(`eyJ[\w.-]{20,}`)

// show returns a request and its reply in one line, without the number of the run.
func show(w *simulation, p *person, q request, a reply) string {
	parameters, _ := json.Marshal(q.parameters)
	if q.parameters == nil {
		parameters = nil
	}
	if q.bearer != "" {
		parameters = fmt.Appendf(parameters, " with a token of %s", usernameOf(q.bearer))
	}
	text := fmt.Sprintf("%s: %s %s %s → %d %.120s", p.who, q.method, q.path, parameters, a.status, strings.TrimSpace(string(a.body)))
	text = aToken.ReplaceAllStringFunc(text, func(string) string { return "a token" })
	return strings.ReplaceAll(text, fmt.Sprintf(".%05d", w.number), "")
}

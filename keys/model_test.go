package keys

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

// The model check. A world runs for some simulated years: two actors step one
// ring in a compare-and-swap store, and everything that can go wrong does. The
// world knows the real time and, for each key, what has been signed with it; so
// it can judge each write at the moment of the write, for every consumer at
// once, without simulating consumers:
//
//   - a consumer that lags by the lead knows a key whose publication is at least
//     the lead old: so a key must be that old when it begins to sign;
//   - a consumer that does not lag forgets a key at once: so the last token must
//     be dead when its key goes. A signer may use a key for a lead after it was
//     replaced, and until then with whatever lifetime is configured.

// violation ends a run.
type violation struct{ text string }

const consumerLag = 10 * time.Minute

type world struct {
	rules []rule
	r     *rand.Rand
	log   []string

	now    time.Time     // real
	offset time.Duration // of every clock
	jumped time.Time     // when the clock last jumped ahead

	policy      Policy
	passphrases Passphrases
	lost        map[Kind]bool // whose passphrases nobody has at present
	count       int           // makes passphrases and requests differ

	askable  bool // replicas can be asked what they have seen
	gateLag  time.Duration
	gateShut time.Time

	store   Ring
	history []Ring
	when    time.Time // when actors want to look again, going by the clock
	lives   map[string]*life
	opened  map[string]Seal
	longest map[Kind]time.Duration // that signers use
}

// life is what really happened to a key.
type life struct {
	kind      Kind
	published time.Time
	replaced  time.Time // when another began to sign
	signed    bool
	revoked   bool
	expiry    time.Time // of the last token that it can have signed
}

var modelWorkshop = workshop{generate: generate, rounds: 1}

func newWorld(t *testing.T, seed uint64, rules []rule) *world {
	cryptotest.SetGlobalRandom(t, seed) // keys, too, are the same again
	w := &world{
		rules:       rules,
		r:           rand.New(rand.NewPCG(seed, 42)),
		now:         time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		askable:     seed%2 == 0,
		lost:        map[Kind]bool{},
		lives:       map[string]*life{},
		opened:      map[string]Seal{},
		longest:     map[Kind]time.Duration{},
		passphrases: Passphrases{Access: []string{"access 0"}, Refresh: []string{"refresh 0"}},
		policy: Policy{
			Algorithm: ES256, RotationInterval: 30 * 24 * time.Hour, PublishLead: consumerLag, ClockSkew: 30 * time.Second,
			Lifetimes: map[Kind]time.Duration{Access: 15 * time.Minute, Refresh: 7 * 24 * time.Hour},
		},
	}
	w.history = []Ring{{}}
	return w
}

func (w *world) fail(format string, args ...any) {
	tail := w.log[max(0, len(w.log)-40):]
	panic(violation{fmt.Sprintf(format, args...) + "\n" + strings.Join(tail, "\n")})
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, w.now.Format("2006-01-02 15:04:05 ")+fmt.Sprintf(format, args...))
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

// between is a random duration.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.r.Int64N(int64(b-a)))
}

func pick[T any](w *world, of ...T) T { return of[w.r.IntN(len(of))] }

// run simulates, and returns what was violated or "".
func (w *world) run(ticks int) (found string) {
	defer func() {
		if v, ok := recover().(violation); ok {
			found = v.text
		}
	}()
	for range ticks {
		w.pass()
		if w.chance(25) {
			w.disturb()
		}
		if w.chance(90) {
			w.turn()
		}
	}
	w.settle()
	return ""
}

// pass lets time go by, and signers sign in it.
func (w *world) pass() {
	before := w.now
	switch n := w.r.IntN(100); {
	case n < 40 && !w.when.IsZero():
		w.now = w.now.Add(max(0, w.when.Sub(w.clock())) + w.between(0, 5*time.Second))
	case n < 60:
		w.now = w.now.Add(w.between(0, 30*time.Minute))
	case n < 80:
		w.now = w.now.Add(w.between(0, 24*time.Hour))
	default:
		w.now = w.now.Add(w.between(0, 10*24*time.Hour))
	}
	w.sign(before)
}

func (w *world) sign(before time.Time) {
	for _, l := range w.lives {
		if !l.signed {
			continue
		}
		last := w.now
		if !l.replaced.IsZero() && l.replaced.Add(consumerLag).Before(last) {
			last = l.replaced.Add(consumerLag)
		}
		if last.Before(before) {
			continue
		}
		// A shorter lifetime is used at once, a longer one when Next has nothing
		// to extend any more (see doc.go).
		expiry := last.Add(min(w.policy.Lifetimes[l.kind], w.longest[l.kind]))
		if expiry.After(l.expiry) {
			l.expiry = expiry
		}
	}
}

func (w *world) clock() time.Time { return w.now.Add(w.offset) }

// disturb is the world outside.
func (w *world) disturb() {
	switch w.r.IntN(10) {
	case 0: // at most one jump ahead in the longest wait
		if w.now.Sub(w.jumped) > 35*24*time.Hour {
			d := pick(w, time.Minute, 12*time.Minute, time.Hour, 26*time.Hour, 8*24*time.Hour, 400*24*time.Hour, 3650*24*time.Hour)
			w.offset, w.jumped = w.offset+d, w.now
			w.note("clock jumps ahead by %v", d)
		}
	case 1:
		d := pick(w, time.Second, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour, 700*24*time.Hour)
		w.offset -= d
		w.note("clock jumps back by %v", d)
	case 2, 3:
		w.policy.Lifetimes = map[Kind]time.Duration{
			Access:  pick(w, 5*time.Minute, 15*time.Minute, time.Hour),
			Refresh: pick(w, time.Hour, 24*time.Hour, 7*24*time.Hour, 14*24*time.Hour),
		}
		w.note("lifetimes %v", w.policy.Lifetimes)
	case 4:
		w.policy.RotationInterval = pick(w, 0, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour, 30*24*time.Hour)
		w.note("rotation interval %v", w.policy.RotationInterval)
	case 5:
		w.policy.Algorithm = pick(w, ES256, EdDSA)
		w.note("algorithm %v", w.policy.Algorithm)
	case 6:
		w.changePassphrase()
	case 7:
		if len(w.store.Keys) > 0 && w.chance(30) {
			id := pick(w, w.store.Keys...).ID
			w.policy.Revoked = append(slices.Clone(w.policy.Revoked), id)
			w.note("a person revokes %s", id)
		} else if w.chance(20) {
			w.policy.Revoked = nil
		}
	case 8:
		w.count++
		w.policy.Rotate = fmt.Sprintf("request %d", w.count)
		w.note("a person asks to rotate: %s", w.policy.Rotate)
	case 9:
		w.gateLag = w.between(0, consumerLag)
		if w.chance(10) {
			w.gateShut = w.now.Add(w.between(0, 20*24*time.Hour))
			w.note("a replica hangs until %v", w.gateShut)
		}
		kind := pick(w, Kinds()...)
		w.lost[kind] = w.chance(15)
		w.note("%s passphrases lost: %v", kind, w.lost[kind])
	}
}

// changePassphrase does what an operator must: it forgets a former passphrase
// only when nothing is sealed with it any more.
func (w *world) changePassphrase() {
	for _, seal := range w.seals(w.store, w.passphrases) {
		if seal != SealCurrent {
			return
		}
	}
	w.count++
	w.passphrases = Passphrases{
		Access:  []string{fmt.Sprint("access ", w.count), w.passphrases.Access[0]},
		Refresh: []string{fmt.Sprint("refresh ", w.count), w.passphrases.Refresh[0]},
	}
	w.note("passphrases changed to number %d", w.count)
}

// known is what actors have of the passphrases.
func (w *world) known() Passphrases {
	p := w.passphrases
	if w.lost[Access] {
		p.Access = []string{"a wrong one"}
	}
	if w.lost[Refresh] {
		p.Refresh = []string{"a wrong one"}
	}
	return p
}

// seals is Inspect, remembered for each private half.
func (w *world) seals(ring Ring, p Passphrases) map[string]Seal {
	seals := map[string]Seal{}
	for _, k := range ring.Keys {
		if !k.needsPrivate() {
			continue
		}
		all := p.Access
		if k.Kind == Refresh {
			all = p.Refresh
		}
		key := strings.Join(all, "|") + string(k.Sealed)
		if _, ok := w.opened[key]; !ok {
			w.opened[key] = Inspect(Ring{Keys: []Key{k}}, p)[k.ID]
		}
		seals[k.ID] = w.opened[key]
	}
	return seals
}

func (w *world) observe(ring Ring) Observed {
	o := Observed{Seals: w.seals(ring, w.known()), Seen: SeenEverywhere}
	if w.askable {
		o.Seen = func(id string) bool {
			l := w.lives[id]
			return l != nil && w.now.After(w.gateShut) && !w.now.Before(l.published.Add(w.gateLag))
		}
	}
	return o
}

// turn is one actor, or two at once, at work until nothing is left to do, or
// until it crashes.
func (w *world) turn() {
	for range 30 {
		ring := w.store
		if w.chance(10) { // a stale read
			ring = w.history[max(0, len(w.history)-1-w.r.IntN(4))]
		}
		steps := []Step{w.next(ring)}
		if w.chance(20) { // the other one read the same
			steps = append(steps, w.next(ring))
		}
		for _, step := range steps {
			if step.Action == None {
				w.when = step.When
				if ring.Generation == w.store.Generation {
					w.extended()
					return
				}
				continue
			}
			out, err := apply(modelWorkshop, ring, step, w.known())
			if err != nil {
				w.fail("%v fails: %v", step, err)
			}
			if w.chance(5) {
				return // a crash before the write
			}
			w.write(ring, out, step)
			if w.chance(10) {
				return // a crash after it
			}
		}
	}
	w.fail("no end of steps")
}

// extended: nothing is left to do, so signers may use what is configured, but
// for keys that nobody could step.
func (w *world) extended() {
	seals := w.seals(w.store, w.known())
	for _, kind := range Kinds() {
		if k, ok := w.store.Signing(kind); ok && !slices.Contains(slices.Collect(maps.Values(seals)), SealUnknown) {
			w.longest[k.Kind] = w.policy.Lifetimes[k.Kind]
		}
	}
}

func (w *world) next(ring Ring) Step {
	observed := w.observe(ring)
	clock := w.clock().Add(w.between(-10*time.Second, 10*time.Second))
	step := next(w.rules, ring, w.policy, observed, clock)
	if step.Action == None {
		if !step.When.IsZero() && !step.When.After(clock) {
			w.fail("look again at %v, which has passed at %v: %v", step.When, clock, step)
		}
		return step
	}
	// A kind that nobody can open is left alone but for a person's word.
	for _, k := range ring.Keys {
		if k.Kind == step.Kind && k.needsPrivate() && observed.Seals[k.ID] == SealUnknown &&
			step.Action != Revoke && (w.policy.Rotate == "" || ring.Rotated[k.Kind] == w.policy.Rotate) {
			w.fail("a ring that cannot be opened is not left alone: %v", step)
		}
	}
	return step
}

// write is the compare-and-swap, and the judge.
func (w *world) write(from, to Ring, step Step) {
	if from.Generation != w.store.Generation {
		w.note("lost the swap: %v", step)
		return
	}
	w.note("generation %d: %v", to.Generation, step)
	back := to
	if to.Generation%4 == 0 { // not each time, for that would take half of the test
		var err error
		if back, err = FromFiles(to.Files()); err != nil {
			w.fail("what was written cannot be read: %v", err)
		}
	}
	old := w.store
	w.store = back
	w.history = append(w.history, back)

	for _, k := range back.Keys {
		l := w.lives[k.ID]
		if l == nil {
			l = &life{kind: k.Kind, published: w.now}
			w.lives[k.ID] = l
		}
		before, was := old.Key(k.ID)
		if k.Phase == Signing && (!was || before.Phase != Signing) {
			_, replaces := old.Signing(k.Kind)
			if atOnce := !replaces || step.Action == Revoke; !atOnce && w.now.Sub(l.published) < consumerLag {
				w.fail("%s signs %v after it was published: a consumer that lags does not have it", k.ID, w.now.Sub(l.published))
			}
			l.signed = true
		}
		if was && before.Phase == Signing && k.Phase != Signing {
			l.replaced = w.now
		}
		if k.Phase == Revoked {
			l.revoked = true
		}
	}
	for _, k := range old.Keys {
		l := w.lives[k.ID]
		if _, still := back.Key(k.ID); still || l.revoked {
			continue
		}
		if k.Phase == Signing {
			w.fail("the signing key %s was forgotten", k.ID)
		}
		if l.signed && w.now.Before(l.replaced.Add(consumerLag)) {
			w.fail("%s was forgotten when signers that lag still used it", k.ID)
		}
		if w.now.Before(l.expiry) {
			w.fail("%s was forgotten %v before its last token expires", k.ID, l.expiry.Sub(w.now))
		}
	}
	seals := w.seals(back, w.passphrases)
	for _, kind := range Kinds() {
		signing := 0
		for _, k := range back.Keys {
			if k.Kind != kind || k.Phase != Signing {
				continue
			}
			if signing++; seals[k.ID] == SealUnknown && !w.lost[kind] && !w.sealedWrong(k) {
				w.fail("a pod that starts now cannot open the signing key %s", k.ID)
			}
		}
		if _, began := old.Signing(kind); signing != 1 && (signing > 1 || began) {
			w.fail("%d %s keys sign", signing, kind)
		}
	}
}

// sealedWrong: a person who rotates or revokes while the actors have a wrong
// passphrase gets keys that are sealed with it.
func (w *world) sealedWrong(k Key) bool {
	wrong := Passphrases{Access: []string{"a wrong one"}, Refresh: []string{"a wrong one"}}
	return w.seals(w.store, wrong)[k.ID] == SealCurrent
}

// settle lets everything be well for a while, and then looks whether what
// people want has come about.
func (w *world) settle() {
	w.lost = map[Kind]bool{}
	w.gateShut = time.Time{}
	if slices.Contains(slices.Collect(maps.Values(w.seals(w.store, w.passphrases))), SealUnknown) {
		w.count++
		w.policy.Rotate = fmt.Sprintf("request %d", w.count) // a person gives up what was sealed wrong
	}
	w.policy.RotationInterval = 30 * 24 * time.Hour
	for begin := w.now; w.now.Sub(begin) < 100*24*time.Hour; {
		w.turn()
		for id, seal := range w.seals(w.store, w.passphrases) {
			if seal != SealCurrent && w.now.Sub(begin) > 3*24*time.Hour {
				w.fail("%s is not sealed with the current passphrase after days", id)
			}
		}
		before := w.now
		w.now = w.now.Add(w.between(0, 6*time.Hour))
		w.sign(before)
	}
	for _, id := range w.policy.Revoked {
		if k, ok := w.store.Key(id); ok && k.Phase != Revoked {
			w.fail("%s is revoked, and still %s", id, k.Phase)
		}
	}
	if w.policy.Rotate != "" && !w.store.Honoured(w.policy.Rotate) {
		w.fail("the request to rotate was not honoured: %v", w.store.Rotated)
	}
	for _, kind := range Kinds() {
		k, _ := w.store.Signing(kind)
		if k.Longest < w.policy.Lifetimes[kind] {
			w.fail("the ring does not know that %s tokens live for %v", kind, w.policy.Lifetimes[kind])
		}
		if k.Algorithm != w.policy.Algorithm || k.Resealed {
			w.fail("the %s key is %s, resealed %v", kind, k.Algorithm, k.Resealed)
		}
		if age := w.clock().Sub(k.Since); age > 31*24*time.Hour || age < -time.Minute {
			w.fail("the signing %s key is %v old", kind, age)
		}
	}
}

const (
	modelRuns  = 30
	modelTicks = 600
)

func TestEveryTokenVerifiesWhateverHappens(t *testing.T) {
	writes, years := int64(0), 0.0
	runs := uint64(modelRuns)
	if testing.Short() {
		runs /= 4
	}
	for seed := range runs {
		w := newWorld(t, seed, rules)
		begin := w.now
		if found := w.run(modelTicks); found != "" {
			t.Fatalf("seed %d: %s", seed, found)
		}
		writes += w.store.Generation
		years += w.now.Sub(begin).Hours() / 24 / 365
	}
	t.Logf("%d worlds, %.0f years, %d writes", runs, years, writes)
}

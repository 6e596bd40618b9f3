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

// The model check of next and apply. A simulation runs for some simulated years: two actors step one ring in a
// compare-and-swap store, and everything that can go wrong does. The simulation knows the real time and, for each key,
// the tokens that were signed with it. It can therefore judge each write at the moment of the write, for every consumer
// at once, without simulating consumers:
//
//   - A consumer that lags by the lead knows a key that was published at least one lead
//     ago. A key must therefore have been published for that long when it begins to sign.
//   - A consumer that does not lag forgets a dropped key at once. The last token of a key
//     must therefore have expired when the key is dropped. A signer may use a key for one
//     lead after it was replaced, with any lifetime that is configured until then.

// violation ends a run.
type violation struct{ text string }

const consumerLag = 10 * time.Minute

// A world is what both models have: a seeded course of events, the time, and people.
type world struct {
	r   *rand.Rand
	log []string

	now    time.Time     // the real time
	offset time.Duration // of every clock, from the real time
	jumped time.Time     // when the clock last jumped forward
	count  int           // makes passphrases and requests unique
}

func newWorld(seed, stream uint64) world {
	return world{r: rand.New(rand.NewPCG(seed, stream)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (w *world) fail(format string, args ...any) {
	tail := w.log[max(0, len(w.log)-60):]
	panic(violation{fmt.Sprintf(format, args...) + "\n" + strings.Join(tail, "\n")})
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, w.now.Format("2006-01-02 15:04:05.000 ")+fmt.Sprintf(format, args...))
	if len(w.log) > 400 {
		w.log = slices.Delete(w.log, 0, 200)
	}
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

func (w *world) clock() time.Time { return w.now.Add(w.offset) }

// rand makes every model a parameter of choose.
func (w *world) rand() *rand.Rand { return w.r }

func choose[T any](w interface{ rand() *rand.Rand }, of ...T) T { return of[w.rand().IntN(len(of))] }

// caught returns the violation that ended a run, or "". It is deferred.
func caught(found *string) {
	switch v := recover().(type) {
	case nil:
	case violation:
		*found = v.text
	default:
		panic(v)
	}
}

// jumpForward happens at most once during the longest wait.
func (w *world) jumpForward(by time.Duration) {
	w.offset, w.jumped = w.offset+by, w.now
	w.note("the clock jumps forward by %v", by)
}

func (w *world) mayJump() bool { return w.now.Sub(w.jumped) > 35*24*time.Hour }

func (w *world) jumpBack(by time.Duration) {
	w.offset -= by
	w.note("the clock jumps back by %v", by)
}

// decide is what a person does to a policy.
func (w *world) decide(what int, policy *Policy, ring Ring) {
	switch what {
	case 2, 3:
		policy.Lifetimes = map[Use]time.Duration{
			Access:  choose(w, 5*time.Minute, 15*time.Minute, time.Hour),
			Refresh: choose(w, time.Hour, 24*time.Hour, 7*24*time.Hour, 14*24*time.Hour),
		}
		w.note("lifetimes %v", policy.Lifetimes)
	case 4:
		policy.RotationInterval = choose(w, 0, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour, 30*24*time.Hour)
		w.note("rotation interval %v", policy.RotationInterval)
	case 5:
		policy.Algorithm = choose(w, ES256, EdDSA)
		w.note("algorithm %v", policy.Algorithm)
	case 7:
		if len(ring.Keys) > 0 && w.chance(30) {
			id := choose(w, ring.Keys...).ID
			policy.Revoked = append(slices.Clone(policy.Revoked), id)
			w.note("a person revokes %s", id)
		} else if w.chance(20) {
			policy.Revoked = nil
		}
	case 8:
		w.request(policy)
	}
}

// request is a person's request to rotate.
func (w *world) request(policy *Policy) {
	w.count++
	policy.Rotate = fmt.Sprintf("request %d", w.count)
	w.note("a person asks to rotate: %s", policy.Rotate)
}

// judgeRevoked fails if a key that must be revoked is not.
func (w *world) judgeRevoked(policy Policy, ring Ring) {
	for _, id := range policy.Revoked {
		if k, ok := ring.Key(id); ok && k.Phase != Revoked {
			w.fail("I5: %s must be revoked and is %s", id, k.Phase)
		}
	}
}

// judgeSettled fails if a request of a person was not carried out although there was time.
func (w *world) judgeSettled(policy Policy, ring Ring) {
	if policy.Rotate != "" && !ring.Honoured(policy.Rotate) {
		w.fail("I5: the request to rotate was not honoured: %v", ring.Rotated)
	}
	for _, use := range Uses() {
		k, _ := ring.Signing(use)
		if k.Algorithm != policy.Algorithm || k.Reencrypted {
			w.fail("I5: the %s key is %s, reencrypted %v", use, k.Algorithm, k.Reencrypted)
		}
		if k.MaxTokenLifetime < policy.Lifetimes[use] {
			w.fail("I5: the ring does not record that %s tokens live for %v", use, policy.Lifetimes[use])
		}
		if age := w.clock().Sub(k.PhaseSince); age > 31*24*time.Hour || age < -time.Minute {
			w.fail("I5: the signing %s key is %v old", use, age)
		}
	}
}

// count returns how many keys of a ring are of a kind.
func count(ring Ring, is func(Key) bool) (n int) {
	for _, k := range ring.Keys {
		if is(k) {
			n++
		}
	}
	return n
}

// signs returns whether a key signs the tokens of a use.
func signs(use Use) func(Key) bool {
	return func(k Key) bool { return k.Use == use && k.Phase == Signing }
}

type simulation struct {
	world

	rules       []rule
	policy      Policy
	passphrases Passphrases
	lost        map[Use]bool // the uses whose passphrases are lost now

	askable  bool // actors can ask replicas what they have loaded
	gateLag  time.Duration
	gateShut time.Time

	store            Ring
	history          []Ring
	when             time.Time // when actors look again, by the clock
	lives            map[string]*life
	opened           map[string]Encryption
	maxTokenLifetime map[Use]time.Duration // the lifetimes that signers use
}

// life records what really happened to a key.
type life struct {
	use       Use
	published time.Time
	replaced  time.Time // when another key began to sign
	signed    bool
	revoked   bool
	expiry    time.Time // of the last token that this key can have signed
}

var modelFactory = keyFactory{generate: generate, rounds: 1}

func newSimulation(t *testing.T, seed uint64, rules []rule) *simulation {
	cryptotest.SetGlobalRandom(t, seed) // generates the same keys for the same seed
	s := &simulation{
		world:            newWorld(seed, 42),
		rules:            rules,
		askable:          seed%2 == 0,
		lost:             map[Use]bool{},
		lives:            map[string]*life{},
		opened:           map[string]Encryption{},
		maxTokenLifetime: map[Use]time.Duration{},
		passphrases:      Passphrases{Access: []string{"access 0"}, Refresh: []string{"refresh 0"}},
		policy:           testPolicy(),
		history:          []Ring{{}},
	}
	return s
}

// between returns a random duration.
func (s *simulation) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.r.Int64N(int64(b-a)))
}

// run runs the simulation. It returns the violation that it found, or "".
func (s *simulation) run(ticks int) (found string) {
	defer caught(&found)
	for range ticks {
		s.pass()
		if s.chance(25) {
			s.disturb()
		}
		if s.chance(90) {
			s.turn()
		}
	}
	s.settle()
	return ""
}

// pass advances the time while signers sign.
func (s *simulation) pass() {
	before := s.now
	switch n := s.r.IntN(100); {
	case n < 40 && !s.when.IsZero():
		s.now = s.now.Add(max(0, s.when.Sub(s.clock())) + s.between(0, 5*time.Second))
	case n < 60:
		s.now = s.now.Add(s.between(0, 30*time.Minute))
	case n < 80:
		s.now = s.now.Add(s.between(0, 24*time.Hour))
	default:
		s.now = s.now.Add(s.between(0, 10*24*time.Hour))
	}
	s.sign(before)
}

func (s *simulation) sign(before time.Time) {
	for _, l := range s.lives {
		if !l.signed {
			continue
		}
		last := s.now
		if !l.replaced.IsZero() && l.replaced.Add(consumerLag).Before(last) {
			last = l.replaced.Add(consumerLag)
		}
		if last.Before(before) {
			continue
		}
		// A shorter lifetime is used at once, a longer one when next has no Extend step left (see doc.go).
		expiry := last.Add(min(s.policy.Lifetimes[l.use], s.maxTokenLifetime[l.use]))
		if expiry.After(l.expiry) {
			l.expiry = expiry
		}
	}
}

// disturb changes the clock, the policy, the passphrases or a replica.
func (s *simulation) disturb() {
	switch what := s.r.IntN(10); what {
	case 0:
		if s.mayJump() {
			s.jumpForward(choose(s, time.Minute, 12*time.Minute, time.Hour, 26*time.Hour, 8*24*time.Hour, 400*24*time.Hour,
				3650*24*time.Hour))
		}
	case 1:
		s.jumpBack(choose(s, time.Second, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour, 700*24*time.Hour))
	case 6:
		s.changePassphrase()
	case 9:
		s.gateLag = s.between(0, consumerLag)
		if s.chance(10) {
			s.gateShut = s.now.Add(s.between(0, 20*24*time.Hour))
			s.note("a replica hangs until %v", s.gateShut)
		}
		use := choose(s, Uses()...)
		s.lost[use] = s.chance(15)
		s.note("%s passphrases lost: %v", use, s.lost[use])
	default:
		s.decide(what, &s.policy, s.store)
	}
}

// changePassphrase follows the rule for operators: it drops a former passphrase only when no key is encrypted with it.
func (s *simulation) changePassphrase() {
	for _, encryption := range s.encryption(s.store, s.passphrases) {
		if encryption != EncryptedCurrent {
			return
		}
	}
	s.count++
	s.passphrases = Passphrases{
		Access:  []string{fmt.Sprint("access ", s.count), s.passphrases.Access[0]},
		Refresh: []string{fmt.Sprint("refresh ", s.count), s.passphrases.Refresh[0]},
	}
	s.note("passphrases changed to number %d", s.count)
}

// known returns the passphrases that the actors have.
func (s *simulation) known() Passphrases {
	p := s.passphrases
	if s.lost[Access] {
		p.Access = []string{"a wrong one"}
	}
	if s.lost[Refresh] {
		p.Refresh = []string{"a wrong one"}
	}
	return p
}

// encryption returns what inspect returns. It caches the result for each private half.
func (s *simulation) encryption(ring Ring, p Passphrases) map[string]Encryption {
	encryption := map[string]Encryption{}
	for _, k := range ring.Keys {
		if !k.needsPrivate() {
			continue
		}
		all := p.Access
		if k.Use == Refresh {
			all = p.Refresh
		}
		key := strings.Join(all, "|") + string(k.Encrypted)
		if _, ok := s.opened[key]; !ok {
			s.opened[key] = inspect(Ring{Keys: []Key{k}}, p)[k.ID]
		}
		encryption[k.ID] = s.opened[key]
	}
	return encryption
}

func (s *simulation) observe(ring Ring) Observed {
	o := Observed{encryption: s.encryption(ring, s.known()), AssumeSeen: !s.askable, Seen: map[string]bool{}}
	for id, l := range s.lives {
		o.Seen[id] = s.now.After(s.gateShut) && !s.now.Before(l.published.Add(s.gateLag))
	}
	return o
}

// turn runs one actor, or two at once, until no step is left or it crashes.
func (s *simulation) turn() {
	for range 30 {
		ring := s.store
		if s.chance(10) { // the actor reads stale data
			ring = s.history[max(0, len(s.history)-1-s.r.IntN(4))]
		}
		steps := []Step{s.next(ring)}
		if s.chance(20) { // another actor reads the same ring
			steps = append(steps, s.next(ring))
		}
		for _, step := range steps {
			if step.Action == None {
				s.when = step.When
				if ring.Generation == s.store.Generation {
					s.extended()
					return
				}
				continue
			}
			out, err := apply(modelFactory, ring, step, s.known())
			if err != nil {
				s.fail("%v fails: %v", step, err)
			}
			if s.chance(5) {
				return // it crashes before the write
			}
			s.write(ring, out, step)
			if s.chance(10) {
				return // it crashes after the write
			}
		}
	}
	s.fail("the steps do not end")
}

// extended lets signers use the configured lifetimes, because no step is left, except
// for keys that no known passphrase decrypts.
func (s *simulation) extended() {
	encryption := s.encryption(s.store, s.known())
	for _, use := range Uses() {
		if k, ok := s.store.Signing(use); ok && !slices.Contains(slices.Collect(maps.Values(encryption)), EncryptedUnknown) {
			s.maxTokenLifetime[k.Use] = s.policy.Lifetimes[k.Use]
		}
	}
}

func (s *simulation) next(ring Ring) Step {
	observed := s.observe(ring)
	clock := s.clock().Add(s.between(-10*time.Second, 10*time.Second))
	step := next(s.rules, ring, s.policy, observed, clock)
	if step.Action == None {
		if !step.When.IsZero() && !step.When.After(clock) {
			s.fail("look again at %v, which has passed at %v: %v", step.When, clock, step)
		}
		return step
	}
	// A use that no known passphrase decrypts is left alone unless a person requests a change.
	for _, k := range ring.Keys {
		if k.Use == step.Use && k.needsPrivate() && observed.encryption[k.ID] == EncryptedUnknown &&
			step.Action != Revoke && (s.policy.Rotate == "" || ring.Rotated[k.Use] == s.policy.Rotate) {
			s.fail("a ring that cannot be decrypted is not left alone: %v", step)
		}
	}
	return step
}

// write swaps the ring and judges the write.
func (s *simulation) write(from, to Ring, step Step) {
	if from.Generation != s.store.Generation {
		s.note("the swap is lost: %v", step)
		return
	}
	s.note("generation %d: %v", to.Generation, step)
	back := to
	if to.Generation%4 == 0 { // every time would double the duration of the test
		var err error
		if back, err = FromFiles(to.Files()); err != nil {
			s.fail("the written ring cannot be read: %v", err)
		}
	}
	old := s.store
	s.store = back
	s.history = append(s.history, back)

	for _, k := range back.Keys {
		l := s.lives[k.ID]
		if l == nil {
			l = &life{use: k.Use, published: s.now}
			s.lives[k.ID] = l
		}
		before, was := old.Key(k.ID)
		if k.Phase == Signing && (!was || before.Phase != Signing) {
			_, replaces := old.Signing(k.Use)
			if atOnce := !replaces || step.Action == Revoke; !atOnce && s.now.Sub(l.published) < consumerLag {
				s.fail("%s signs %v after it was published: a consumer that lags does not have the key", k.ID, s.now.Sub(l.published))
			}
			l.signed = true
		}
		if was && before.Phase == Signing && k.Phase != Signing {
			l.replaced = s.now
		}
		if k.Phase == Revoked {
			l.revoked = true
		}
	}
	for _, k := range old.Keys {
		l := s.lives[k.ID]
		if _, still := back.Key(k.ID); still || l.revoked {
			continue
		}
		if k.Phase == Signing {
			s.fail("the signing key %s was dropped", k.ID)
		}
		if l.signed && s.now.Before(l.replaced.Add(consumerLag)) {
			s.fail("%s was dropped while signers that lag still used it", k.ID)
		}
		if s.now.Before(l.expiry) {
			s.fail("%s was dropped %v before its last token expires", k.ID, l.expiry.Sub(s.now))
		}
	}
	encryption := s.encryption(back, s.passphrases)
	for _, use := range Uses() {
		for _, k := range back.Keys {
			if signs(use)(k) && encryption[k.ID] == EncryptedUnknown && !s.lost[use] && !s.encryptedWrong(k) {
				s.fail("a pod that starts now cannot decrypt the signing key %s", k.ID)
			}
		}
		signing := count(back, signs(use))
		if _, began := old.Signing(use); signing != 1 && (signing > 1 || began) {
			s.fail("%d %s keys sign", signing, use)
		}
	}
}

// encryptedWrong reports whether a key is encrypted with the wrong passphrase: a person
// rotated or revoked while the actors had only that one.
func (s *simulation) encryptedWrong(k Key) bool {
	wrong := Passphrases{Access: []string{"a wrong one"}, Refresh: []string{"a wrong one"}}
	return s.encryption(s.store, wrong)[k.ID] == EncryptedCurrent
}

// settle ends all disturbances for a while and then checks that every request of a person was carried out.
func (s *simulation) settle() {
	s.lost = map[Use]bool{}
	s.gateShut = time.Time{}
	if slices.Contains(slices.Collect(maps.Values(s.encryption(s.store, s.passphrases))), EncryptedUnknown) {
		s.request(&s.policy) // a person gives up the keys that are encrypted with the wrong passphrase
	}
	s.policy.RotationInterval = 30 * 24 * time.Hour
	for begin := s.now; s.now.Sub(begin) < 100*24*time.Hour; {
		s.turn()
		for id, encryption := range s.encryption(s.store, s.passphrases) {
			if encryption != EncryptedCurrent && s.now.Sub(begin) > 3*24*time.Hour {
				s.fail("%s is not encrypted with the current passphrase after three days", id)
			}
		}
		before := s.now
		s.now = s.now.Add(s.between(0, 6*time.Hour))
		s.sign(before)
	}
	s.judgeRevoked(s.policy, s.store)
	s.judgeSettled(s.policy, s.store)
}

const (
	modelRuns  = 30
	modelTicks = 600
)

func TestModelEveryTokenVerifiesWhateverHappens(t *testing.T) {
	writes, years := int64(0), 0.0
	runs := uint64(modelRuns)
	if testing.Short() {
		runs /= 4
	}
	for seed := range runs {
		s := newSimulation(t, seed, rules)
		begin := s.now
		if found := s.run(modelTicks); found != "" {
			t.Fatalf("seed %d: %s", seed, found)
		}
		writes += s.store.Generation
		years += s.now.Sub(begin).Hours() / 24 / 365
	}
	t.Logf("%d simulations, %.0f years, %d writes", runs, years, writes)
}

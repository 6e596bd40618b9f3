package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// The model check of Reconcile and of the protocol around it. A cluster runs for some simulated years. It has the
// objects with the ring (K), the passphrases (P), the public keys (C) and the Deployment (D), each with a version; a
// controller for the Deployment; pods, whose mounts lag independently; and two operators. An operator does one read or
// write at a time. It may be delayed for minutes or days before the next one, or crash after it. Anything else can
// happen in between: a person restores old copies or deletes objects, the API server revokes a permission, pods do not
// answer or lie, and one operator may have a version that does not detect a restored ring.
//
// The cluster knows the real time, and the real content of every mount and process. It checks at each moment:
//
//	I1  a token that a pod signs now verifies now at every pod in service; its key has
//	    been known for the lead, in C and at every pod in service, so a consumer that
//	    lags behind either knows it; and no key is dropped before the last token expires
//	    that was really signed with it
//	I2  one key of each use signs
//	I3  a pod that restarts now decrypts the keys with the content of its mounts; a
//	    running pod decrypts a ring that arrives; a new pod decrypts the stored ring
//	I4  nothing loops, and once everything is settled no reconcile writes
//	I5  every request of a person is carried out
//	I6  a passphrase in P decrypts each private half in K
//	I7  no passphrase of one use decrypts a key of the other
//	I8  a revoked key never signs and is never published again, whatever is restored, if
//	    any trace of the revocation is left
//	I9  an operator that leaves something undone reports the reason

// The lags of a cluster.
const (
	mountLag  = 2 * time.Minute // at most, of a mounted Secret
	pollLag   = 2 * time.Second // at most, of a server behind its mount
	graceLag  = 40 * time.Second
	cacheLag  = consumerLag     // at most, of a JWKS that a consumer fetched from a pod
	cachesLag = 2 * time.Second // at most, of the status in an operator's cache
	resyncLag = 10 * time.Hour
)

type cluster struct {
	world

	broken string     // the guard that this run removes
	rk     *rand.Rand // of keys
	theme  theme
	calm   bool
	spec   clusterSpec
	every  []string // every passphrase so far, the latest first

	k       ringHome
	p       passphraseHome
	s, sWas statusHome // sWas: the status before sAt, as a cache may still have it
	sAt     time.Time
	c, cWas publicHome // cWas: C before cAt, as a cache may still have it
	cAt     time.Time
	d, dWas deployment

	pods      []*modelPod
	operators [2]*modelOperator
	rollAt    time.Time // when the Deployment's controller acts next
	disturbAt time.Time

	lives   map[string]*tokens
	openers map[string]string

	backups   []ringHome   // copies of K that people keep
	public    []publicHome // copies of C
	revoked   map[string]bool
	accepted  string   // the generations that a person has accepted, as acceptance returns them
	newRing   int64    // a person has given up the lost ring of this generation
	latest    ringHome // the latest ring that an operator wrote
	highest   int64
	gaveUp    int64 // a person has given up the rings before this generation
	restoredK bool  // a person restored or deleted K, and no person has decided yet

	frozen   map[string]bool // the objects that are immutable
	start0   time.Time
	denied   map[string]bool // what the API server denies to operators, such as "read K"
	troubled time.Time       // when a person notices what the operators report
	excused  map[Use]bool    // the uses whose passphrases a person has lost
	writes   int
	passes   int
	recent   []time.Time // the writes since the last disturbance
	quiet    bool        // no write is allowed
}

type clusterSpec struct {
	policy   Policy
	desired  map[Use]string // nil: the operator generates them
	replicas int
}

type ringHome struct {
	version int // 0: the object does not exist
	ring    Ring
}

type passphraseHome struct {
	version int
	state   PassphraseState
	era     int // changes whenever a current passphrase changes
}

type publicHome struct {
	version  int
	ring     Ring
	revoked  []string
	document PublicDocument
	byHand   bool // a person wrote it
}

func published(version int, ring Ring, revoked []string) publicHome {
	document := publicDocument(ring, "", revoked)
	return publicHome{version: version, ring: ring, revoked: document.Revoked, document: document}
}

// statusHome contains what the status of the gateway records about the ring.
type statusHome struct {
	generation int64
	revoked    []string
	named      string // what cannot be done, and why; empty: there is no problem
}

type deployment struct {
	version  int
	template podTemplate
	replicas int
	rolled   bool // no pod had another template when the controller last looked
}

// podTemplate is the Deployment's template of a pod. Templates are compared as a whole.
type podTemplate struct {
	passphrases     string // their digest
	access, refresh time.Duration
}

func (t podTemplate) lifetime(use Use) time.Duration {
	if use == Access {
		return t.access
	}
	return t.refresh
}

type modelPod struct {
	name     int
	template podTemplate

	// The mounts.
	keys             Ring
	passphraseState  PassphraseState
	public           publicHome
	hasKeys, hasPass time.Time // when the first copy arrives; zero: it has arrived
	keysAt, passAt   time.Time // when a change arrives; zero: no change is pending
	publicAt         time.Time
	mounted          bool

	// The container.
	running                  bool
	passphrases              Passphrases
	loaded                   Ring
	verifies                 map[string]bool
	stuck                    bool
	startAt, readyAt, pollAt time.Time

	silent, lies bool // how it answers operators
	astray       bool // it has loaded a restored ring and could not detect that

	ready     bool
	readyFrom time.Time
	hungUntil time.Time
	coldUntil time.Time // its mounts do not change until then
	endAt     time.Time // when it ends; zero: it was not terminated
}

// tokens records the tokens that were really signed with a key.
type tokens struct {
	use       Use
	atOnce    bool // the key signs without having been published before
	published time.Time
	held      time.Time // when it was added to C; zero: C does not have it
	missing   time.Time // when a pod in service last lacked it
	revoked   bool
	expiry    time.Time // of the last token
	tampered  bool      // a person removed it from C or restored it there while it signed
}

// modelOperator is one process. It reconciles in moments: one read or write each.
type modelOperator struct {
	name    int
	at      time.Time
	down    bool
	moment  int
	backoff time.Duration
	skew    time.Duration

	old bool // of a version that does not detect a restored ring

	// When this process first saw each version of K, and each pod ready.
	sinceRing  map[int]time.Time
	sinceReady map[string]time.Time

	spec  clusterSpec
	s     statusHome
	c     publicHome
	d     deployment
	p     passphraseHome
	k     ringHome
	pods  []modelPod
	blind map[string]bool // what could not be read
	trace Trace
	named string
	out   Result
	era   int
	wrote bool
	lost  bool      // another operator wrote first
	told  bool      // the status may show the ring
	next  time.Time // by the clock; zero: never
}

func newCluster(seed uint64, of theme, broken string) *cluster {
	c := &cluster{
		world: newWorld(seed, 7), rk: rand.New(rand.NewPCG(seed, 8)), broken: broken, theme: of,
		lives:   map[string]*tokens{},
		openers: map[string]string{},
		excused: map[Use]bool{},
		revoked: map[string]bool{}, frozen: map[string]bool{}, denied: map[string]bool{},
		spec: clusterSpec{replicas: 2, policy: testPolicy()},
	}
	if seed%3 > 0 {
		c.spec.desired = map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}
	}
	for i := range c.operators {
		c.operators[i] = &modelOperator{name: i, at: c.now.Add(c.upTo(time.Minute)), old: of == ofVersions && i == 1}
		c.operators[i].forget()
	}
	c.start0, c.rollAt, c.disturbAt = c.now, c.now, c.now.Add(c.upTo(time.Hour))
	return c
}

func (c *cluster) upTo(d time.Duration) time.Duration { return time.Duration(c.r.Int64N(int64(d))) + 1 }

func (c *cluster) in(d time.Duration) time.Time { return c.now.Add(c.upTo(d)) }

func (c *cluster) passphrase(use Use) string {
	c.count++
	c.every = append([]string{fmt.Sprintf("%s %d", use, c.count)}, c.every...)
	return c.every[0]
}

// factory returns a keyFactory that creates the same keys for the same seed.
func (c *cluster) factory() keyFactory {
	return keyFactory{rounds: 1, generate: func(a Algorithm) (crypto.Signer, error) {
		seed := make([]byte, 32)
		for i := range seed {
			seed[i] = byte(c.rk.Uint32())
		}
		seed[0] &= 0x7f // less than the order of P-256
		if a == EdDSA {
			return ed25519.NewKeyFromSeed(seed), nil
		}
		return ecdsa.ParseRawPrivateKey(elliptic.P256(), seed)
	}}
}

// opener returns the passphrase that really decrypts a private half.
func (c *cluster) opener(k Key) string {
	passphrase, known := c.openers[string(k.Encrypted)]
	if !known {
		encrypted, err := pbes2.Parse(k.Encrypted)
		if err != nil {
			c.fail("%v", err)
		}
		i := slices.IndexFunc(c.every, func(p string) bool { _, err := encrypted.Decrypt(p); return err == nil })
		passphrase = c.every[i]
		c.openers[string(k.Encrypted)] = passphrase
	}
	return passphrase
}

// inspect returns what Inspect returns, without the cost of key derivation.
func (c *cluster) inspect(ring Ring, p Passphrases) OpenedBy {
	opened := OpenedBy{}
	for _, k := range ring.Keys {
		if !k.needsPrivate() {
			continue
		}
		if _, all, _ := p.of(k.Use); slices.Contains(all, c.opener(k)) {
			opened[k.ID] = c.opener(k)
		}
	}
	return opened
}

func (c *cluster) encryption(ring Ring, p Passphrases) map[string]Encryption {
	return c.inspect(ring, p).Encryption(ring, p)
}

// locked returns the uses whose signing key a server cannot decrypt.
func (c *cluster) locked(ring Ring, p Passphrases) (uses []Use) {
	encryption := c.encryption(ring, p)
	for _, use := range Uses() {
		if k, ok := ring.Signing(use); !ok || encryption[k.ID] == EncryptedUnknown {
			uses = append(uses, use)
		}
	}
	return uses
}

// blame returns the uses whose passphrases no person has lost.
func (c *cluster) blame(uses []Use) []Use {
	return slices.DeleteFunc(uses, func(k Use) bool { return c.excused[k] })
}

// run simulates random disturbances. It returns the violation that it found, or "".
func (c *cluster) run(disturbances int) (found string) {
	return c.play(func(c *cluster) {
		for n := 0; n < disturbances; {
			if c.event(time.Time{}) {
				n++
			}
		}
	})
}

// play runs a scene and then settles the cluster. It returns the violation that it found, or "".
func (c *cluster) play(scene func(*cluster)) (found string) {
	defer caught(&found)
	scene(c)
	c.settle()
	return ""
}

// event advances the time to the next event, or to the given end.
func (c *cluster) event(end time.Time) (disturbance bool) {
	var do func()
	var at time.Time
	consider := func(t time.Time, what func()) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at, do = t, what
		}
	}
	consider(c.disturbAt, func() { c.disturb(); disturbance = true })
	consider(c.rollAt, c.roll)
	consider(c.troubled, c.help)
	for _, o := range c.operators {
		consider(o.at, func() { c.operate(o) })
	}
	for _, p := range c.pods {
		consider(p.hasKeys, func() { c.mount(p) })
		consider(p.hasPass, func() { c.mount(p) })
		consider(p.keysAt, func() { c.arrive(p) })
		consider(p.passAt, func() { c.arrive(p) })
		consider(p.publicAt, func() { c.arrive(p) })
		consider(p.startAt, func() { c.start(p) })
		consider(p.readyAt, func() { c.becomeReady(p) })
		consider(p.pollAt, func() { c.poll(p) })
		consider(p.endAt, func() { c.end(p) })
	}
	if !end.IsZero() && at.After(end) {
		at, do = end, func() {}
	}
	if at.After(c.now) {
		c.now = at
		c.judge()
	}
	do()
	return disturbance
}

// judge lets every pod sign at this moment and checks the invariants.
func (c *cluster) judge() {
	if c.excused[Access] || c.excused[Refresh] {
		c.excuse()
	}
	for _, k := range c.k.ring.Keys {
		if !k.verifies() {
			continue
		}
		for _, p := range c.pods {
			if l := c.lives[k.ID]; l != nil && p.ready && p.endAt.IsZero() && !p.verifies[k.ID] && !c.waived(p, k.Use) {
				l.missing = c.now
			}
		}
	}
	for _, p := range c.pods {
		if p.running {
			c.sign(p)
		}
	}
	for id, l := range c.lives {
		if !l.expiry.After(c.now) || l.revoked {
			continue
		}
		// For a key that signs at once, the pods only have to load the ring in time.
		grace := l.atOnce && c.now.Sub(l.published) < mountLag+pollLag+time.Second
		for _, p := range c.pods {
			if p.ready && p.endAt.IsZero() && !p.verifies[id] && !grace && !(l.atOnce && c.cut(p)) && !c.waived(p, l.use) {
				c.fail("I1: pod %d does not verify the tokens of %s, of which one expires at %v", p.name, id, l.expiry)
			}
		}
	}
}

// waived reports whether a pod is exempt from the checks of a use: it reports false
// content, has loaded a restored ring, or lacks passphrases that a person has lost.
func (c *cluster) waived(p *modelPod, use Use) bool {
	return p.lies || p.astray || c.excused[use] && (p.stuck || c.cut(p))
}

func (c *cluster) sign(p *modelPod) {
	for _, use := range Uses() {
		if c.waived(p, use) {
			continue
		}
		k, _ := p.loaded.Signing(use)
		if now, _ := c.latest.ring.Signing(use); c.cut(p) && now.ID != k.ID {
			continue
		}
		if k.ID == "" {
			continue
		}
		l := c.lives[k.ID]
		if l == nil {
			c.fail("I1: pod %d signs with %s, which the model no longer knows", p.name, k.ID)
		}
		if expiry := c.now.Add(p.template.lifetime(use)); expiry.After(l.expiry) {
			l.expiry = expiry
		}
		if l.atOnce || l.revoked || l.tampered {
			continue
		}
		if l.held.IsZero() || c.now.Sub(l.held) < consumerLag {
			c.fail("I1: pod %d signs with %s, which C has only since %v", p.name, k.ID, l.held)
		}
		if !l.missing.IsZero() && c.now.Sub(l.missing) < cacheLag {
			c.fail("I1: pod %d signs with %s, which a pod in service lacked until %v", p.name, k.ID, l.missing)
		}
	}
}

// excuse ends the exemption of a use when every pod can decrypt its keys again.
func (c *cluster) excuse() {
	for _, use := range Uses() {
		well := c.p.version > 0 && !hasKey(c.k.ring, use, c.encryption(c.k.ring, c.p.state.Passphrases()), EncryptedUnknown)
		for _, p := range c.pods {
			well = well && p.endAt.IsZero() && !p.stuck && p.keysAt.IsZero() && p.passAt.IsZero() &&
				(!p.mounted || !slices.Contains(c.locked(p.keys, p.passphraseState.Passphrases()), use)) &&
				(!p.mounted || !slices.Contains(c.locked(c.k.ring, p.passphraseState.Passphrases()), use)) &&
				(!p.running || !slices.Contains(c.locked(c.k.ring, p.passphrases), use))
		}
		if c.excused[use] && well {
			c.note("the %s keys are no longer lost", use)
			delete(c.excused, use)
		}
	}
}

// ---- the objects

func (c *cluster) wrote() {
	c.writes++
	if c.quiet {
		c.fail("I4: an operator wrote although nothing is due")
	}
	if c.recent = append(c.recent, c.now); len(c.recent) > 600 {
		if c.recent = c.recent[1:]; c.now.Sub(c.recent[0]) < 12*time.Hour {
			c.fail("I4: 600 writes since %v", c.recent[0])
		}
	}
}

func (c *cluster) writePassphrases(o *modelOperator) bool {
	if o.p.version != c.p.version && c.broken != withoutPassphrasesSwap {
		c.note("operator %d loses the swap of P", o.name)
		return o.loses()
	}
	c.p = passphraseHome{c.p.version + 1 + c.writes, o.out.Passphrases, o.era}
	c.wrote()
	o.p = c.p
	c.note("operator %d: P = %s", o.name, show(c.p))
	c.judgeHomes()
	c.deliver(func(p *modelPod) *time.Time { return &p.passAt })
	c.poke()
	return true
}

// deliver lets a change arrive in the mounts of every pod, unless one is on its way.
func (c *cluster) deliver(mount func(*modelPod) *time.Time) {
	for _, p := range c.pods {
		if at := mount(p); p.mounted && at.IsZero() && p.endAt.IsZero() {
			*at = c.arrival(p)
		}
	}
}

func show(p passphraseHome) string {
	text := ""
	for _, use := range Uses() {
		text += fmt.Sprintf("[%s, before %q, distributed %v]",
			p.state.Current[use], p.state.Former[use], p.state.Distributed[use])
	}
	return fmt.Sprintf("%s era %d", text, p.era)
}

// arrival returns when a change reaches the mounts of a pod: within two minutes, often
// within seconds, and only after its node can be reached again.
func (c *cluster) arrival(p *modelPod) time.Time {
	at := c.now
	if p.coldUntil.After(at) {
		at = p.coldUntil
	}
	if c.chance(50) {
		return at.Add(c.upTo(5 * time.Second))
	}
	return at.Add(c.upTo(mountLag))
}

// cut reports whether a pod is exempt from recent changes, because its node cannot be reached.
func (c *cluster) cut(p *modelPod) bool { return c.now.Before(p.coldUntil.Add(mountLag + pollLag)) }

func (c *cluster) writeRing(o *modelOperator) bool {
	if o.k.version != c.k.version && c.broken != withoutRingSwap {
		c.note("operator %d loses the swap of K", o.name)
		return o.loses()
	}
	old, ring := c.k.ring, o.out.Ring
	if c.restoredK && !o.old { // a person has decided, so what existed before is given up
		c.giveUp(ring)
	}
	c.restoredK = false
	if c.writes%8 == 0 {
		back, err := FromFiles(ring.Files())
		if err != nil {
			c.fail("the written ring cannot be read: %v", err)
		}
		ring = back
	}
	c.k = ringHome{c.k.version + 1 + c.writes, ring}
	o.k.version = c.k.version
	c.wrote()
	before := old
	for _, step := range o.out.Steps {
		c.note("operator %d: K generation %d: %v", o.name, ring.Generation, step)
		_, was := before.Key(step.Key)
		if _, is := step.Ring.Key(step.Key); step.Action != Accept && (was == (step.Action == Generate) || is == (step.Action == Drop)) {
			c.fail("operator %d: the step %v names the key %q", o.name, step, step.Key)
		}
		before = step.Ring
	}
	for _, k := range ring.Keys {
		l := c.lives[k.ID]
		if l == nil {
			l = &tokens{use: k.Use, published: c.now}
			c.lives[k.ID] = l
		}
		if before, was := old.Key(k.ID); k.Phase == Signing && (!was || before.Phase != Signing) {
			signed, any := old.Signing(k.Use)
			signed, _ = ring.Key(signed.ID)
			l.atOnce = !any || signed.Phase == Revoked
			if l.atOnce {
				l.published = c.now
			}
		}
		l.revoked = l.revoked || k.Phase == Revoked
		if c.revoked[k.ID] && k.verifies() {
			c.fail("I8: %s was revoked, and operator %d writes it as %s", k.ID, o.name, k.Phase)
		}
	}
	c.highest = max(c.highest, ring.Generation)
	c.latest = c.k
	if c.chance(10) {
		c.backups = append(c.backups[max(0, len(c.backups)-4):], c.k)
	}
	for id, l := range c.lives {
		if _, there := ring.Key(id); !there && l.held.IsZero() && l.expiry.Add(time.Hour).Before(c.now) {
			delete(c.lives, id)
		}
	}
	c.judgeHomes()
	for _, use := range Uses() {
		if signing := count(ring, signs(use)); signing != 1 {
			c.fail("I2: %d %s keys sign", signing, use)
		}
	}
	c.deliver(func(p *modelPod) *time.Time { return &p.keysAt })
	c.poke()
	return true
}

// judgeHomes checks P and K together, as a new pod reads them.
func (c *cluster) judgeHomes() {
	if c.p.version == 0 || c.k.version == 0 {
		return
	}
	encryption := c.encryption(c.k.ring, c.p.state.Passphrases())
	for _, k := range c.k.ring.Keys {
		if !k.needsPrivate() {
			continue
		}
		if encryption[k.ID] == EncryptedUnknown && !c.excused[k.Use] {
			c.fail("I6: the %s %s key %s is encrypted with %q, which P does not contain", k.Phase, k.Use, k.ID, c.opener(k))
		}
		other := k.Use.other()
		if c.p.state.holds(other, c.opener(k)) && !c.excused[k.Use] {
			c.fail("I7: the %s key %s is encrypted with %q, which is for %s keys", k.Use, k.ID, c.opener(k), other)
		}
	}
}

func (c *cluster) writePublic(o *modelOperator) bool {
	// A missing object has no version to compare, so the operator reads the ring again.
	// The short time after that read is not simulated.
	absent := o.c.version == 0 && c.c.version == 0 && o.k.version != c.k.version
	if (o.c.version != c.c.version || absent) && c.broken != withoutPublicSwap {
		c.note("operator %d loses the swap of C", o.name)
		return o.loses()
	}
	c.cWas, c.cAt = c.c, c.now
	c.c = published(c.c.version+1+c.writes, o.out.Ring, o.trace.Revoked)
	c.wrote()
	if c.chance(10) {
		c.public = append(c.public[max(0, len(c.public)-4):], c.c)
	}
	for _, k := range c.c.ring.Keys {
		if k.verifies() && c.revoked[k.ID] {
			c.fail("I8: %s was revoked, and operator %d publishes it", k.ID, o.name)
		}
	}
	c.note("operator %d: C generation %d", o.name, c.c.ring.Generation)
	for id, l := range c.lives {
		k, _ := c.c.ring.Key(id)
		switch {
		case k.verifies() && l.held.IsZero():
			l.held = c.now
		case !k.verifies() && !l.held.IsZero():
			if l.held = (time.Time{}); l.expiry.After(c.now) && !l.revoked && !l.tampered {
				c.fail("I1: C forgets %s, of which a token expires at %v", id, l.expiry)
			}
		}
	}
	for _, id := range c.c.document.Revoked {
		c.revoked[id] = true
	}
	c.mountPublic()
	c.poke()
	return true
}

func (c *cluster) mountPublic() { c.deliver(func(p *modelPod) *time.Time { return &p.publicAt }) }

func (c *cluster) writeDeployment(o *modelOperator, template podTemplate) {
	c.dWas = c.d
	c.d = deployment{c.d.version + 1 + c.writes, template, o.spec.replicas, false}
	c.wrote()
	c.note("operator %d: D = %+v × %d", o.name, template, c.d.replicas)
	c.roll()
	c.poke()
}

// poke makes the operators notice a change.
func (c *cluster) poke() {
	for _, o := range c.operators {
		if !o.down && o.moment == 0 {
			o.backoff = 0
			if at := c.in(2 * time.Second); at.Before(o.at) {
				o.at = at
			}
		}
	}
}

// ---- the Deployment's controller and the kubelets

func (c *cluster) roll() {
	c.rollAt = time.Time{}
	if c.d.version == 0 {
		return
	}
	var fresh, old, all []*modelPod
	ready := 0
	for _, p := range c.pods {
		if !p.endAt.IsZero() {
			continue
		}
		all = append(all, p)
		if p.template == c.d.template {
			fresh = append(fresh, p)
		} else {
			old = append(old, p)
		}
		if p.ready {
			ready++
		}
	}
	victim := func(from []*modelPod) *modelPod { // prefers pods that are not ready
		i := slices.IndexFunc(from, func(p *modelPod) bool { return !p.ready })
		return from[max(i, 0)]
	}
	acted := true
	switch {
	case len(fresh) > c.d.replicas:
		c.terminate(victim(fresh))
	case len(fresh) < c.d.replicas && len(all) < c.d.replicas+1:
		c.count++
		p := &modelPod{name: c.count, template: c.d.template, hasKeys: c.in(3 * time.Second), hasPass: c.in(3 * time.Second)}
		c.pods = append(c.pods, p)
		c.note("pod %d is new: %+v", p.name, p.template)
	case len(old) > 0 && !victim(old).ready && len(all) > c.d.replicas, len(old) > 0 && ready > c.d.replicas:
		c.terminate(victim(old))
	default:
		acted = false
	}
	if acted {
		c.rollAt = c.in(3 * time.Second)
	}
	if rolled := len(old) == 0 && !acted; rolled != c.d.rolled {
		c.dWas = c.d
		c.d.rolled = rolled
		c.poke()
	}
}

func (c *cluster) rollSoon() {
	if at := c.in(time.Second); c.rollAt.IsZero() || at.Before(c.rollAt) {
		c.rollAt = at
	}
}

func (c *cluster) terminate(p *modelPod) {
	p.ready, p.endAt = false, c.in(graceLag)
	for _, at := range []*time.Time{
		&p.hasKeys, &p.hasPass, &p.keysAt, &p.passAt, &p.startAt, &p.readyAt, &p.pollAt, &p.publicAt,
	} {
		*at = time.Time{}
	}
	c.note("pod %d is terminating", p.name)
	c.poke()
}

func (c *cluster) end(p *modelPod) {
	c.pods = slices.DeleteFunc(c.pods, func(other *modelPod) bool { return other == p })
	c.rollSoon()
}

// mount gives a new pod its first copies, each at its own time.
func (c *cluster) mount(p *modelPod) {
	if !p.hasKeys.IsZero() && !p.hasKeys.After(c.now) {
		if p.hasKeys = c.in(5 * time.Second); c.k.version > 0 {
			p.hasKeys, p.keys = time.Time{}, c.k.ring
		}
	}
	if !p.hasPass.IsZero() && !p.hasPass.After(c.now) {
		if p.hasPass = c.in(5 * time.Second); c.p.version > 0 {
			p.hasPass, p.passphraseState = time.Time{}, c.p.state
		}
	}
	if p.hasKeys.IsZero() && p.hasPass.IsZero() && !p.mounted {
		p.mounted = true
		p.startAt = c.in(15 * time.Second)
		if c.chance(10) {
			p.startAt = c.in(10 * time.Minute) // its image must be pulled first
		}
		// What changed between the two copies is still on its way.
		p.keysAt, p.passAt = c.arrival(p), c.arrival(p)
		p.public, p.publicAt = c.c, c.arrival(p)
		c.judgeMounts(p)
	}
}

// arrive updates the mounts.
func (c *cluster) arrive(p *modelPod) {
	if !p.publicAt.IsZero() && !p.publicAt.After(c.now) {
		if p.publicAt = (time.Time{}); c.c.version > 0 {
			p.public = c.c
		}
	}
	if !p.keysAt.IsZero() && !p.keysAt.After(c.now) {
		if p.keysAt = (time.Time{}); c.k.version > 0 { // a deleted object stays in the mount
			p.keys = c.k.ring
		}
		if p.running {
			p.pollAt = c.in(pollLag)
		}
	}
	if !p.passAt.IsZero() && !p.passAt.After(c.now) {
		if p.passAt = (time.Time{}); c.p.version > 0 { // a deleted object stays in the mount
			p.passphraseState = c.p.state
		}
	}
	c.judgeMounts(p)
}

func (c *cluster) judgeMounts(p *modelPod) {
	if bad := c.blame(c.locked(p.keys, p.passphraseState.Passphrases())); len(bad) > 0 && !p.lies {
		c.fail("I3: if pod %d restarts now, it cannot decrypt the %s key", p.name, bad)
	}
}

func (c *cluster) start(p *modelPod) {
	p.startAt, p.passphrases = time.Time{}, p.passphraseState.Passphrases()
	if len(c.locked(p.keys, p.passphrases)) > 0 {
		p.startAt = c.in(5 * time.Minute) // judgeMounts decides whether this is allowed
		return
	}
	if c.broken != withoutServerPublished && p.public.document.Check(p.keys) != nil {
		p.startAt = c.in(time.Minute)
		return
	}
	p.running, p.loaded = true, Ring{}
	c.load(p)
	p.readyAt = c.in(5 * time.Second)
	c.poke()
}

func (c *cluster) load(p *modelPod) {
	for _, k := range p.keys.Keys {
		was, _ := p.loaded.Key(k.ID)
		told := slices.ContainsFunc(p.public.document.Revoked, func(id string) bool { return id == k.ID })
		if k.verifies() && (was.Phase == Revoked || told) {
			c.fail("I8: pod %d loads %s as %s, although it knew that the key is revoked", p.name, k.ID, k.Phase)
		}
	}
	p.astray = c.restoredK && p.keys.Generation < c.highest || p.keys.Generation < c.gaveUp
	p.loaded, p.stuck, p.verifies = p.keys, false, map[string]bool{}
	for _, k := range p.keys.Keys {
		p.verifies[k.ID] = k.verifies()
	}
	c.judge()
}

func (c *cluster) becomeReady(p *modelPod) {
	p.readyAt = time.Time{}
	if p.hungUntil.After(c.now) {
		p.readyAt = p.hungUntil
		return
	}
	if c.cut(p) { // its kubelet cannot report it
		p.readyAt = p.coldUntil.Add(mountLag + pollLag)
		return
	}
	p.ready, p.readyFrom = true, c.now
	c.judge()
	c.rollSoon()
	c.poke()
}

func (c *cluster) poll(p *modelPod) {
	p.pollAt = time.Time{}
	if c.broken != withoutServerOrder && p.keys.Generation < p.loaded.Generation {
		return // the ring was rolled back
	}
	if c.broken != withoutServerPublished && p.public.document.Check(p.keys) != nil {
		p.pollAt = c.in(pollLag)
		return
	}
	if bad := c.locked(p.keys, p.passphrases); len(bad) > 0 {
		p.stuck = true // the last good ring stays in use
		if bad = c.blame(bad); len(bad) > 0 {
			c.fail("I3: pod %d runs, and cannot decrypt the %s key that arrives", p.name, bad)
		}
		return
	}
	c.load(p)
	c.poke()
}

// ---- the operators

// movedMoments are the guards that are an order: without one, a moment has another place.
var movedMoments = map[string]struct{ from, to int }{
	deploymentFirst: {9, 5}, deploymentBeforeRing: {9, 6}, ringFirst: {5, 7}, publicFirst: {8, 5}, publicReadLast: {0, 3},
	ringReadFirst: {2, 1},
}

// operate performs the next moment of a reconcile.
func (c *cluster) operate(o *modelOperator) {
	moments := []func(*modelOperator) bool{
		c.readCached, c.readPassphrases, c.readRing, c.readPods, c.ask,
		c.writePassphrasesOf, c.rereadPassphrases, c.writeRingOf, c.writePublicOf, c.writeDeploymentOf,
	}
	if m, moved := movedMoments[c.broken]; moved {
		moment := moments[m.from]
		moments = slices.Insert(slices.Delete(moments, m.from, m.from+1), m.to, moment)
	}
	if o.moment == 0 {
		c.passes++
		o.down, o.wrote, o.lost, o.named = false, false, false, ""
		o.skew = c.upTo(20*time.Second) - 10*time.Second
	}
	writes := c.writes
	on := moments[o.moment](o)
	if o.moment++; o.moment == len(moments) {
		on = false
	}
	o.wrote = o.wrote || writes != c.writes
	switch {
	case !c.calm && (writes != c.writes && c.chance(7) || c.chance(1) && c.chance(10)):
		o.down, o.moment, o.backoff = true, 0, 0
		o.forget()
		o.at = c.now.Add(c.pause())
		c.note("operator %d crashes, until %v", o.name, o.at)
	case on:
		o.at = c.in(300 * time.Millisecond)
		if !c.calm && (c.chance(3) || c.hesitant() && c.chance(15)) {
			o.at = c.now.Add(c.pause())
		}
	default:
		c.tell(o)
		c.rest(o)
	}
}

// forget clears what a process knows when it ends.
func (o *modelOperator) forget() {
	o.sinceRing, o.sinceReady = map[int]time.Time{}, map[string]time.Time{}
}

// loses ends a reconcile; the next one reads everything again.
func (o *modelOperator) loses() bool {
	o.lost = true
	return false
}

// tell writes the status at the end of a reconcile.
func (c *cluster) tell(o *modelOperator) {
	if o.lost || c.denied["write status"] {
		return
	}
	for _, id := range o.spec.policy.Revoked {
		if k, _ := o.out.Ring.Key(id); o.k.version == c.k.version && o.named == "" && k.verifies() {
			c.fail("I9: %s must be revoked and is %s, and operator %d reports no problem", id, k.Phase, o.name)
		}
	}
	now := statusHome{c.s.generation, c.s.revoked, o.named}
	if o.told {
		now.generation, now.revoked = o.out.Ring.Generation, o.out.Ring.AllRevoked(o.trace.Revoked)
	}
	if now.generation != c.s.generation || now.named != c.s.named || !slices.Equal(now.revoked, c.s.revoked) {
		c.sWas, c.s, c.sAt = c.s, now, c.now
		for _, id := range now.revoked {
			c.revoked[id] = true
		}
		if now.named != "" {
			c.note("operator %d reports: %s", o.name, now.named)
		}
	}
	if now.named != "" && c.troubled.IsZero() {
		c.troubled = c.in(choose(c, time.Minute, time.Hour, 24*time.Hour))
	}
}

// stops ends a reconcile and records why.
func (o *modelOperator) stops(why string) bool {
	o.named = why
	return false
}

// refused reports whether the API server denies an access. If so, the operator records it as its problem.
func (c *cluster) refused(o *modelOperator, verb, home string) bool {
	switch {
	case c.denied[verb+" "+home]:
		o.named = "it may not " + verb + " " + home
	case verb == "write" && c.frozen[home]:
		o.named = home + " is immutable"
	default:
		return false
	}
	return true
}

// hesitant reports whether operators are often delayed between two moments.
func (c *cluster) hesitant() bool { return c.theme == ofPassphrases || c.theme == ofPassphrasesAndPods }

// pause returns how long an operator is delayed or down.
func (c *cluster) pause() time.Duration {
	return c.often(percent{40, 10 * time.Second}, percent{65, 5 * time.Minute}, percent{90, time.Hour},
		percent{100, 3 * 24 * time.Hour})
}

// percent bounds a duration in the cases below a percentage.
type percent struct {
	below int
	most  time.Duration
}

// often returns a duration up to the bound of the case that comes up.
func (c *cluster) often(cases ...percent) time.Duration {
	n := c.r.IntN(100)
	return c.upTo(cases[slices.IndexFunc(cases, func(p percent) bool { return n < p.below })].most)
}

// rest ends a reconcile and schedules the next one.
func (c *cluster) rest(o *modelOperator) {
	o.moment = 0
	o.at = c.in(resyncLag)
	if o.wrote {
		o.backoff = 0
		o.at = c.in(3 * time.Second)
		return
	}
	o.backoff = min(max(2*o.backoff, 10*time.Second), time.Hour)
	if len(c.p.state.Former) > 0 || !c.d.rolled {
		if at := c.now.Add(o.backoff); at.Before(o.at) {
			o.at = at
		}
	}
	if !o.next.IsZero() {
		if at := c.now.Add(max(o.next.Sub(c.clock().Add(o.skew)), o.backoff/4)); at.Before(o.at) {
			o.at = at
		}
	}
}

func (c *cluster) readCached(o *modelOperator) bool {
	o.spec, o.s, o.c, o.d, o.next = c.spec, c.s, c.c, c.d, time.Time{}
	o.told, o.out, o.blind = false, Result{}, map[string]bool{}
	o.spec.policy.Revoked = slices.Clone(c.spec.policy.Revoked)
	o.spec.policy.Lifetimes = maps.Clone(c.spec.policy.Lifetimes)
	if c.broken == publicFromCache && c.now.Sub(c.cAt) < time.Minute {
		o.c = c.cWas
	}
	if !c.calm && c.chance(10) {
		o.d = c.dWas
	}
	if !c.calm && c.chance(10) && c.now.Sub(c.sAt) < cachesLag {
		o.s = c.sWas
	}
	if c.refused(o, "read", "C") {
		o.c, o.blind["C"] = publicHome{}, true
	}
	if c.refused(o, "read", "D") {
		o.d, o.blind["D"] = deployment{}, true
	}
	return true
}

func (c *cluster) readPassphrases(o *modelOperator) bool {
	o.p = c.p
	return !c.refused(o, "read", "P")
}

func (c *cluster) readRing(o *modelOperator) bool {
	o.k = c.k
	o.out.Ring = o.k.ring
	if _, known := o.sinceRing[o.k.version]; !known {
		o.sinceRing[o.k.version] = c.now
	}
	return !c.refused(o, "read", "K")
}

func (c *cluster) readPods(o *modelOperator) bool {
	o.pods = nil
	if c.refused(o, "read", "pods") {
		o.blind["pods"] = true
		return true
	}
	for _, p := range c.pods {
		if p.endAt.IsZero() {
			o.pods = append(o.pods, *p)
			if _, known := o.sinceReady[p.key()]; p.ready && !known {
				o.sinceReady[p.key()] = c.now
			}
		}
	}
	return true
}

func (p *modelPod) key() string { return fmt.Sprint(p.name, p.readyFrom) }

// assumed has the rule of the operator's isAssumed: a replica that cannot be asked counts
// as having loaded the ring after enough time.
func (c *cluster) assumed(o *modelOperator, p modelPod) bool {
	bound := o.spec.policy.PublishLead + 3*time.Minute
	if c.broken == assumeAtOnce {
		bound = 0
	}
	ready, known := o.sinceReady[p.key()]
	return p.silent && p.ready && known && c.now.Sub(ready) >= bound && c.now.Sub(o.sinceRing[o.k.version]) >= bound
}

// traceOf returns what an operator knows of the ring from other places than K.
func (c *cluster) traceOf(o *modelOperator) Trace {
	if o.old || c.broken == withoutTrace {
		return Trace{}
	}
	var document PublicDocument
	if !o.c.byHand {
		document = o.c.document
	}
	t := Trace{Generation: max(o.s.generation, document.Generation), Revoked: slices.Clone(o.s.revoked)}
	for _, id := range document.Revoked {
		if !slices.Contains(t.Revoked, id) {
			t.Revoked = append(t.Revoked, id)
		}
	}
	for _, p := range o.pods {
		if p.running && !p.silent && !p.lies { // a lying pod may report any generation
			t.Generation = max(t.Generation, p.loaded.Generation)
		}
	}
	if c.broken == withoutRevokedMemory {
		t.Revoked = nil
	}
	t.Accepted = c.accepted == acceptance(o.k.ring.Generation, t.Generation)
	return t
}

func acceptance(found, seen int64) string { return fmt.Sprintf("%d-after-%d", found, seen) }

// desired returns the passphrases that the operator requests. If it returns false, the
// reconcile ends, because a person must act.
func (c *cluster) desired(o *modelOperator) (map[Use]string, bool) {
	if w := o.spec.desired; w != nil && w[Access] == w[Refresh] { // the operator refuses equal passphrases
		return nil, o.p.version > 0
	} else if w != nil {
		return w, true
	}
	if o.p.state.Current[Access] != "" && o.p.state.Current[Refresh] != "" {
		return nil, true
	}
	if rotate := o.spec.policy.Rotate; o.k.version > 0 && (rotate == "" || o.k.ring.Honoured(rotate)) {
		return nil, false
	}
	return map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}, true
}

func (c *cluster) digest(era int, current map[Use]string) string {
	if c.broken == withoutEras {
		era = 0
	}
	return fmt.Sprintf("%d:%s:%s", era, current[Access], current[Refresh])
}

func (c *cluster) ask(o *modelOperator) bool {
	o.trace = c.traceOf(o)
	if o.k.version != c.k.version && o.trace.RolledBack(o.k.ring) {
		return o.loses() // it was written after this operator read K, and pods already have it
	}
	ring := o.k.ring
	if o.k.version == 0 && o.trace.Generation > 0 {
		if c.newRing < o.trace.Generation {
			return o.stops("K is lost")
		}
		if ring.Generation = o.trace.Generation; c.broken == newRingFromZero {
			ring.Generation = 0
		}
	}
	wanted, ok := c.desired(o)
	if !ok {
		return o.stops("the passphrases are lost")
	}
	return c.reconcileFor(o, ring, wanted)
}

func (c *cluster) reconcileFor(o *modelOperator, ring Ring, desired map[Use]string) bool {
	t := Input{
		Trace: o.trace,
		Ring:  ring, Passphrases: o.p.state, Desired: desired, Policy: o.spec.policy, Now: c.clock().Add(o.skew),
		Observed: Observed{
			OpenedBy: c.inspect(ring, o.p.state.Candidates(desired)), RingLoaded: c.loaded(o),
			Published: map[string]bool{}, PublishedUnknown: o.blind["C"], Seen: map[string]bool{},
			Distributed: c.distributed(o, c.digest(o.p.era, o.p.state.Current)),
		},
	}
	for _, k := range ring.Keys {
		t.Observed.Seen[k.ID] = c.seen(o, k.ID)
		t.Observed.Published[k.ID] = c.isPublished(o, k.ID) || o.blind["C"] && c.broken == unreadIsPublished
	}
	t.Policy.Lifetimes = c.lifetimes(o)
	var err error
	o.out, err = c.reconcile(t)
	if err != nil {
		c.fail("Reconcile fails: %v", err)
	}
	if o.out.Next.Reason == RolledBack {
		return o.stops("K was taken back")
	}
	o.told = true
	o.next = o.out.Next.When
	o.era = o.p.era
	if !maps.Equal(o.out.Passphrases.Current, o.p.state.Current) {
		c.count++
		o.era = c.count
	}
	return true
}

func (c *cluster) writePassphrasesOf(o *modelOperator) bool {
	if o.p.version > 0 && o.out.Passphrases.Equal(o.p.state) {
		return true
	}
	if c.refused(o, "write", "P") {
		// The keys continue with the existing passphrases.
		why := o.named
		if o.p.version == 0 || !c.reconcileFor(o, o.k.ring, nil) || !o.out.Passphrases.Equal(o.p.state) {
			o.told = false
			o.out.Ring = o.k.ring
			return o.stops(why)
		}
		return true
	}
	return c.writePassphrases(o)
}

// lifetimes returns the longest lifetimes that a signer uses or is about to use.
func (c *cluster) lifetimes(o *modelOperator) map[Use]time.Duration {
	all := maps.Clone(o.spec.policy.Lifetimes)
	if c.broken == withoutPodLifetimes {
		return all
	}
	for _, use := range Uses() {
		// A lifetime that could not be read may be as long as before.
		if k, signs := o.k.ring.Signing(use); signs && len(o.blind) > 0 {
			all[use] = max(all[use], k.MaxTokenLifetime)
		}
		all[use] = max(all[use], o.d.template.lifetime(use))
		for _, p := range o.pods {
			all[use] = max(all[use], p.template.lifetime(use))
		}
	}
	return all
}

func (c *cluster) isPublished(o *modelOperator, id string) bool {
	k, _ := o.c.ring.Key(id)
	return o.c.version > 0 && k.verifies() || c.broken == withoutPublicSeen
}

// seen reports whether a key is published and every pod in service has loaded it.
func (c *cluster) seen(o *modelOperator, id string) bool {
	if !c.isPublished(o, id) || o.blind["pods"] {
		return false
	}
	for _, p := range o.pods {
		switch {
		case p.ready && p.silent && !c.assumed(o, p) && c.broken != withoutPodsSeen:
			return false
		case p.silent, p.lies:
			continue
		}
		if k, _ := p.loaded.Key(id); p.ready && c.broken != withoutPodsSeen &&
			(!k.verifies() || k.needsPrivate() && !c.canOpen(k, p.passphrases)) {
			return false
		}
	}
	return true
}

func (c *cluster) canOpen(k Key, p Passphrases) bool {
	_, all, _ := p.of(k.Use)
	return slices.Contains(all, c.opener(k))
}

func (c *cluster) distributed(o *modelOperator, digest string) bool {
	if o.blind["pods"] || o.blind["D"] {
		return false
	}
	if c.broken == withoutUnreadyDistributed {
		for _, p := range o.pods {
			if p.ready && p.template.passphrases != digest {
				return false
			}
		}
		return o.d.template.passphrases == digest
	}
	if o.d.template.passphrases != digest || !o.d.rolled && c.broken != withoutRollout {
		return false
	}
	for _, p := range o.pods {
		if p.template.passphrases != digest && c.broken != withoutRollout {
			return false
		}
	}
	return true
}

func (c *cluster) loaded(o *modelOperator) bool {
	if o.blind["pods"] {
		return false
	}
	for _, p := range o.pods {
		if p.silent && c.assumed(o, p) || p.lies {
			continue
		}
		if p.silent {
			return false
		}
		if c.broken == withoutUnreadyLoaded && !p.ready {
			continue
		}
		if !p.running || p.loaded.Generation != o.k.ring.Generation {
			return false
		}
	}
	return true
}

func (c *cluster) rereadPassphrases(o *modelOperator) bool {
	if o.out.Ring.Generation == o.k.ring.Generation && o.k.version > 0 || c.broken == withoutReread {
		return true
	}
	return o.p.version == c.p.version || o.loses()
}

func (c *cluster) writeRingOf(o *modelOperator) bool {
	if o.out.Ring.Generation == o.k.ring.Generation && o.k.version > 0 {
		return true
	}
	if c.refused(o, "write", "K") {
		withdrawn := slices.ContainsFunc(o.out.Steps, func(s Taken) bool { return s.Reason == Withdrawn })
		o.told, o.out.Ring = o.k.version > 0, o.k.ring
		return len(o.out.Ring.Keys) > 0 && (!withdrawn || c.broken == publishWithdrawn)
	}
	return c.writeRing(o)
}

func (c *cluster) writePublicOf(o *modelOperator) bool {
	switch {
	case o.c.version > 0 && o.c.ring.Generation == o.out.Ring.Generation &&
		(o.old || slices.Equal(o.c.revoked, o.out.Ring.AllRevoked(o.trace.Revoked))):
		return true
	case o.blind["C"], c.denied["write C"]:
		return o.stops("C cannot be read, or written")
	case c.frozen["C"]: // the operator replaces the object
		delete(c.frozen, "C")
	}
	return c.writePublic(o)
}

func (c *cluster) writeDeploymentOf(o *modelOperator) bool {
	template := podTemplate{c.digest(o.era, o.out.Passphrases.Current), o.spec.policy.Lifetimes[Access], o.spec.policy.Lifetimes[Refresh]}
	if o.d.version > 0 && o.d.template == template && o.d.replicas == o.spec.replicas {
		return true
	}
	if o.named != "" || c.refused(o, "write", "D") { // the keys have a problem
		return true
	}
	c.writeDeployment(o, template)
	return true
}

// reconcile calls the product's reconcile without the guard that this run removes.
func (c *cluster) reconcile(t Input) (Result, error) {
	before := t.Passphrases
	encryption := func(state PassphraseState) map[string]Encryption { return c.encryption(t.Ring, state.Passphrases()) }
	force := func(which func(use Use, want string) bool, become func(state PassphraseState, use Use, want string)) {
		t.Passphrases = t.Passphrases.clone()
		for _, use := range Uses() {
			if want := t.Desired[use]; want != "" && want != before.Current[use] && which(use, want) {
				become(t.Passphrases, use, want)
			}
		}
	}
	anew := func(state PassphraseState, use Use, want string) {
		state.Current[use], state.Former[use] = want, before.Current[use]
		delete(state.Distributed, use)
	}
	switch c.broken {
	case beginAtOnce:
		force(func(use Use, want string) bool {
			return before.Distributed[use] && !lost(t.Ring, use, encryption(before))
		}, anew)
	case beginWithoutFormer:
		force(func(use Use, _ string) bool { return before.Former[use] == "" }, func(state PassphraseState, use Use, want string) {
			state.Current[use] = want
		})
	case beginOverFormer:
		force(func(use Use, want string) bool {
			return !before.Distributed[use] && before.Former[use] != "" && want != before.Former[use]
		}, anew)
	case beginWithTheOthers:
		force(func(use Use, want string) bool {
			return before.holds(use.other(), want) && before.Former[use] == "" && before.Current[use] != ""
		}, anew)
	case beginBack:
		force(func(use Use, want string) bool {
			return before.Distributed[use] && want == before.Former[use]
		}, func(state PassphraseState, use Use, want string) {
			state.Current[use], state.Former[use] = want, ""
			delete(state.Distributed, use)
		})
	case withoutDistributed:
		t.Observed.Distributed = true
	case encryptAtOnce:
		for _, use := range Uses() {
			if t.Passphrases = t.Passphrases.clone(); t.Passphrases.Former[use] != "" {
				t.Passphrases.Distributed[use] = true
			}
		}
	case withoutLoaded:
		t.Observed.RingLoaded = true
	case withoutPublished:
		t.Observed.Published = nil
	case withoutWithdrawn:
		lost := lost(t.Ring, Access, encryption(before)) || lost(t.Ring, Refresh, encryption(before))
		if !lost {
			t.Observed.Published = nil
		}
	case announceUnseen:
		t.Ring = t.Ring.clone()
		for i := range t.Ring.Keys {
			if k := &t.Ring.Keys[i]; k.Phase == Generated {
				k.Phase = Published
			}
		}
	case distributedIsNotStored:
		if t.Passphrases.changing() && t.Observed.Distributed {
			t.Passphrases = t.Passphrases.markDistributed(true, t.Ring, nil)
		}
	}
	out, err := reconcile(c.factory(), t)
	if c.broken == acceptAnnounced && t.Trace.Accepted && t.Trace.RolledBack(t.Ring) {
		t.Ring = t.Ring.clone()
		t.Ring.Generation = t.Trace.Generation
		out, err = reconcile(c.factory(), t)
	}
	if c.broken == acceptInPlace && t.Trace.Accepted && t.Trace.RolledBack(t.Ring) {
		t.Trace.Generation = t.Ring.Generation
		out, err = reconcile(c.factory(), t)
	}
	switch c.broken {
	case foundIsNothing:
		state, _ := before.Begin(t.Desired, t.Ring, encryption(before))
		if state.Equal(before) && state.changing() && t.Observed.Distributed {
			state = state.markDistributed(true, t.Ring, nil)
		}
		out = Result{Passphrases: state}
		t.Observed.encryption = encryption(state)
		out.Ring, out.Steps, out.Next, err = t.advance(c.factory(), state.Passphrases())
		if len(out.Steps) == 0 && state.Equal(before) && t.Observed.RingLoaded {
			out.Passphrases = state.Finish(t.Ring, encryption(state))
		}
	case finishWithoutLooking:
		for _, use := range Uses() {
			if out.Passphrases = out.Passphrases.clone(); before.Distributed[use] && t.Observed.RingLoaded {
				delete(out.Passphrases.Former, use)
				delete(out.Passphrases.Distributed, use)
			}
		}
	case finishInTheSamePass:
		if t.Observed.RingLoaded {
			out.Passphrases = out.Passphrases.Finish(out.Ring, c.encryption(out.Ring, out.Passphrases.Passphrases()))
		}
	case distributedIsNotStored:
		out.Passphrases = out.Passphrases.clone()
		for _, use := range Uses() {
			delete(out.Passphrases.Distributed, use)
		}
	}
	return out, err
}

// ---- people and other causes

// theme selects the disturbances that a cluster has more of than others.
type theme int

const (
	ofEverything theme = iota
	ofSettings
	ofPassphrases
	ofOrders
	ofPods
	ofPassphrasesAndPods
	ofRestores
	ofDenials
	ofVersions
	themes
)

// disturbances lists the favored disturbances of each theme. The numbers are those in disturb.
var disturbances = [themes][]int{
	ofSettings: {2, 3, 4}, ofPassphrases: {6}, ofOrders: {7, 8, 4}, ofPods: {9, 10}, ofPassphrasesAndPods: {6, 6, 10, 10, 9},
	ofRestores: {12, 12, 7, 8, 10}, ofDenials: {13, 13, 7, 8}, ofVersions: {7, 8, 4, 10},
}

func (c *cluster) disturb() {
	c.disturbAt = c.now.Add(c.often(percent{25, 15 * time.Second}, percent{50, 2 * time.Minute}, percent{75, time.Hour},
		percent{92, 24 * time.Hour}, percent{100, 10 * 24 * time.Hour}))
	c.recent = nil
	what := c.r.IntN(14)
	if more := disturbances[c.theme]; len(more) > 0 && c.chance(60) {
		what = choose(c, more...)
	}
	switch what {
	case 0:
		if c.mayJump() {
			c.jumpForward(choose(c, time.Minute, 12*time.Minute, time.Hour, 26*time.Hour, 8*24*time.Hour, 400*24*time.Hour))
		}
	case 1:
		if c.chance(30) {
			c.jumpBack(choose(c, time.Second, time.Minute, time.Hour, 24*time.Hour, 30*24*time.Hour))
		}
	case 6:
		c.changePassphrases()
	case 9:
		c.spec.replicas = c.r.IntN(5)
		c.note("scaled to %d", c.spec.replicas)
	case 10:
		c.troublePods()
	case 11:
		switch {
		case c.chance(10):
			c.losePassphrases()
		case c.chance(20) && c.c.version > 0:
			c.replacePublic(publicHome{})
			c.note("a person deletes C")
		}
	case 12:
		if c.theme != ofVersions { // an older version does not detect a restored ring
			c.restore()
		}
	case 13:
		c.deny()
	default:
		c.decide(what, &c.spec.policy, c.k.ring)
	}
	c.poke()
}

// restore simulates a person who restores old copies or deletes objects.
func (c *cluster) restore() {
	if c.k.version == 0 || c.c.version == 0 || c.now.Sub(c.start0) < 24*time.Hour || len(c.excused) > 0 {
		return
	}
	n := c.r.IntN(100)
	if n < 60 && len(c.backups) > 0 { // restore K
		c.replaceRing(choose(c, c.backups...))
	}
	if n >= 40 && n < 90 && len(c.public) > 0 { // restore C, or both
		c.replacePublic(choose(c, c.public...))
	}
	if n >= 90 && c.chance(40) {
		c.note("a person deletes K")
		c.interrupt()
		c.k = ringHome{}
		c.restoredK = true
	}
}

func (c *cluster) replaceRing(with ringHome) {
	if c.k.version != 0 && with.ring.Generation == c.k.ring.Generation {
		return
	}
	// The passphrase that encrypts the copy may be lost by now. Lost passphrases are another disturbance.
	p := c.p.state.Passphrases()
	encryption := c.encryption(with.ring, p)
	if len(c.locked(with.ring, p)) > 0 || hasKey(with.ring, Access, encryption, EncryptedUnknown) ||
		hasKey(with.ring, Refresh, encryption, EncryptedUnknown) || c.p.state.changing() || len(c.p.state.Former) > 0 {
		return
	}
	c.count++
	c.writes++
	c.interrupt()
	c.k = ringHome{c.k.version + 1 + c.writes, with.ring}
	c.restoredK = with.ring.Generation < c.highest
	c.note("a person restores K, generation %d of %d", with.ring.Generation, c.highest)
	for _, p := range c.pods {
		p.astray = p.astray || p.loaded.Generation < c.highest // it cannot get the keys that it lacks
		if p.mounted && p.keysAt.IsZero() && p.endAt.IsZero() {
			p.keysAt = c.arrival(p)
		}
	}
}

// interrupt ends the reconciles that are running. A person may write between a read and a write of a reconcile. The
// operator detects that only if it then swaps the same object, so the simulation leaves that moment out.
func (c *cluster) interrupt() {
	for _, o := range c.operators {
		if !o.down && o.moment > 0 {
			o.moment, o.at = 0, c.in(3*time.Second)
		}
	}
}

// replacePublic simulates a person who replaces C. The operator does not see which keys the person removes.
func (c *cluster) replacePublic(with publicHome) {
	c.writes++
	c.interrupt()
	c.cWas, c.cAt = c.c, c.now
	if with.version > 0 {
		with.version, with.byHand = c.c.version+1+c.writes, true
		c.note("a person restores C, generation %d", with.ring.Generation)
	}
	c.c = with
	maps.DeleteFunc(c.revoked, func(id string, _ bool) bool { return !slices.Contains(c.s.revoked, id) })
	for id, l := range c.lives {
		k, _ := with.ring.Key(id)
		now, _ := c.latest.ring.Key(id)
		switch {
		case k.verifies() && l.held.IsZero():
			l.held, l.tampered = c.now, true
		case !k.verifies():
			l.held = time.Time{}
			l.tampered = l.tampered || now.Phase != Published
			for _, p := range c.pods {
				if signing, _ := p.loaded.Signing(l.use); signing.ID == id {
					l.tampered = true
				}
			}
		}
	}
	c.mountPublic()
}

// giveUp applies a person's decision to continue with an older or a new ring: existing
// tokens may become invalid, and the signing keys sign at once.
func (c *cluster) giveUp(ring Ring) {
	c.gaveUp = ring.Generation
	for id, l := range c.lives {
		l.expiry = c.now
		if k, _ := ring.Key(id); k.Phase == Signing || k.Phase == "" {
			l.atOnce, l.published, l.tampered = true, c.now, true
		}
	}
	for _, k := range ring.Keys {
		if c.lives[k.ID] == nil {
			c.lives[k.ID] = &tokens{use: k.Use, published: c.now, atOnce: k.Phase == Signing, tampered: true}
		}
	}
	for _, p := range c.pods { // until the pods load that ring, the tokens that they sign are given up too
		p.astray = true
	}
}

// deny makes the API server deny operators an access, or makes an object immutable.
func (c *cluster) deny() {
	if c.chance(30) {
		home := choose(c, "P", "K", "C")
		c.frozen[home] = true
		c.note("%s is immutable", home)
	} else {
		what := choose(c, "read C", "read D", "read P", "read K", "read pods", "write C", "write D", "write P", "write K", "write status")
		c.denied[what] = true
		c.note("denied: %s", what)
	}
	if at := c.in(choose(c, time.Minute, time.Hour, 3*24*time.Hour)); c.troubled.IsZero() || at.Before(c.troubled) {
		c.troubled = at
	}
}

// help simulates a person who reads what the operators report and fixes it.
func (c *cluster) help() {
	c.troubled = time.Time{}
	clear(c.denied)
	clear(c.frozen)
	if c.restoredK {
		switch n := c.r.IntN(100); {
		case n < 40:
			c.replaceRing(c.latest)
		case c.k.version == 0:
			c.newRing = max(c.seenGeneration(), c.highest)
			c.note("a person gives up K")
		default:
			c.accept()
		}
	}
	if c.restoredK || c.s.named != "" {
		c.troubled = c.in(time.Hour)
	}
	c.poke()
}

// accept simulates a person who accepts the ring that exists.
func (c *cluster) accept() {
	c.accepted = acceptance(c.k.ring.Generation, c.seenGeneration())
	c.note("a person accepts K: %s", c.accepted)
}

// seenGeneration returns the highest generation of K that a person can see.
func (c *cluster) seenGeneration() int64 {
	seen := max(c.s.generation, c.c.document.Generation)
	for _, p := range c.pods {
		if p.running && p.endAt.IsZero() && !p.silent && !p.lies {
			seen = max(seen, p.loaded.Generation)
		}
	}
	return seen
}

func (c *cluster) changePassphrases() {
	next := maps.Clone(c.spec.desired)
	if next == nil {
		next = map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}
	}
	n := c.r.IntN(10)
	if c.hesitant() && c.chance(60) {
		n = 8
	}
	switch {
	case n < 3: // both change
		next[Access], next[Refresh] = c.passphrase(Access), c.passphrase(Refresh)
	case n < 5:
		use := choose(c, Uses()...)
		next[use] = c.passphrase(use)
	case n < 9: // back to an earlier passphrase
		for _, use := range Uses() {
			if c.chance(70) {
				mine := slices.DeleteFunc(slices.Clone(c.every), func(p string) bool { return !strings.HasPrefix(p, string(use)) })
				next[use] = mine[c.r.IntN(min(choose(c, 2, 4), len(mine)))]
			}
		}
	case c.chance(30): // the two are exchanged
		next[Access], next[Refresh] = next[Refresh], next[Access]
	case c.chance(50):
		next = nil
	}
	c.spec.desired = next
	c.note("desired passphrases %v", next)
}

// troublePods disturbs one pod, or all.
func (c *cluster) troublePods() {
	var running []*modelPod
	for _, p := range c.pods {
		if p.running && p.endAt.IsZero() {
			running = append(running, p)
		}
	}
	if len(running) > 0 && c.chance(70) {
		running = []*modelPod{choose(c, running...)}
	}
	what := c.r.IntN(120)
	for _, p := range running {
		c.trouble(p, what)
	}
	c.rollSoon()
}

func (c *cluster) trouble(p *modelPod, what int) {
	switch {
	case what >= 110:
		p.lies, p.silent = !p.lies, false
		c.note("pod %d reports false content: %v", p.name, p.lies)
	case what >= 100:
		if !c.cut(p) {
			p.silent, p.lies = !p.silent, false
			c.note("pod %d does not answer: %v", p.name, p.silent)
		}
	case what < 15:
		if p.silent && p.ready { // its kubelet cannot report it any more
			p.ready, p.readyAt = false, c.now
		}
		p.coldUntil = c.in(choose(c, 10*time.Minute, time.Hour, 24*time.Hour, 5*24*time.Hour))
		if !p.keysAt.IsZero() {
			p.keysAt = p.coldUntil
		}
		if !p.passAt.IsZero() {
			p.passAt = p.coldUntil
		}
		c.note("the node of pod %d cannot be reached until %v", p.name, p.coldUntil)
	case what < 60:
		p.ready, p.running, p.stuck, p.pollAt, p.readyAt = false, false, false, time.Time{}, time.Time{}
		p.startAt = c.in(choose(c, 5*time.Second, 20*time.Second, 10*time.Minute))
		c.note("pod %d restarts at %v", p.name, p.startAt)
	default:
		p.ready = false
		p.hungUntil = c.in(choose(c, time.Minute, time.Hour, 24*time.Hour, 20*24*time.Hour))
		p.readyAt = p.hungUntil
		c.note("pod %d hangs until %v", p.name, p.hungUntil)
	}
}

// losePassphrases simulates a person who deletes P.
func (c *cluster) losePassphrases() {
	c.p = passphraseHome{}
	for _, use := range Uses() {
		c.excused[use] = true
	}
	c.note("a person deletes P")
}

// settle ends all disturbances and then checks that every request of a person was carried out.
func (c *cluster) settle() {
	c.calm, c.disturbAt, c.troubled = true, time.Time{}, c.in(time.Minute)
	c.note("no disturbances from now on")
	for _, p := range c.pods {
		p.silent, p.lies = false, false
		if p.coldUntil.After(c.now) {
			p.coldUntil = c.now
			p.keysAt, p.passAt = c.arrival(p), c.arrival(p)
		}
		if p.hungUntil.After(c.now) {
			p.hungUntil = c.now
			if !p.readyAt.IsZero() {
				p.readyAt = c.in(time.Minute)
			}
		}
	}
	for _, o := range c.operators {
		if o.at.After(c.in(time.Minute)) {
			o.at = c.in(time.Minute)
		}
	}
	c.spec.policy.RotationInterval = 30 * 24 * time.Hour
	c.spec.desired = map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}
	if c.chance(50) {
		c.spec.desired[Access] = c.every[min(len(c.every)-1, 2+c.r.IntN(2))]
		if !strings.HasPrefix(c.spec.desired[Access], string(Access)) {
			c.spec.desired[Access] = c.every[1]
		}
	}
	c.pass(6 * time.Hour)
	for begin := c.now; c.restoredK || c.s.named != "" && !strings.Contains(c.s.named, "passphrases"); {
		if c.now.Sub(begin) > 60*24*time.Hour {
			c.fail("I9: no person can fix what the operators report: %s", c.s.named)
		}
		c.pass(time.Hour)
	}
	if hasKey(c.k.ring, Access, c.encryption(c.k.ring, c.p.state.Passphrases()), EncryptedUnknown) ||
		hasKey(c.k.ring, Refresh, c.encryption(c.k.ring, c.p.state.Passphrases()), EncryptedUnknown) {
		c.rotate() // a person gives up the lost keys
	}
	c.recent = nil
	c.pass(3 * 24 * time.Hour)
	c.hasComeAbout(false)
	c.pass(97 * 24 * time.Hour)
	c.hasComeAbout(true)

	// No reconcile writes until the next rotation is due, however often it runs.
	rests := 0
	for range 40 {
		due := c.operators[0].next
		if !due.IsZero() && due.Sub(c.clock()) > 2*time.Hour && c.steady() {
			c.quiet = true
			for range 20 {
				c.poke()
				c.pass(time.Minute)
			}
			c.quiet = false
			rests++
		}
		c.pass(12 * time.Hour)
	}
	if rests == 0 {
		c.fail("I4: the cluster never comes to rest")
	}
}

func (c *cluster) steady() bool {
	for _, o := range c.operators {
		if o.out.Next.Reason != Steady || o.k.version != c.k.version {
			return false
		}
	}
	return true
}

func (c *cluster) pass(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.event(end)
	}
}

func (c *cluster) hasComeAbout(all bool) {
	for len(c.recent) > 0 && c.now.Sub(c.recent[len(c.recent)-1]) < 5*time.Minute { // until every pod knows
		c.pass(time.Minute)
	}
	p := c.p.state
	if !maps.Equal(p.Current, c.spec.desired) || len(p.Former) > 0 || len(p.Distributed) > 0 {
		c.fail("I5: desired %v, but P is %s", c.spec.desired, show(c.p))
	}
	for id, encryption := range c.encryption(c.k.ring, p.Passphrases()) {
		if encryption != EncryptedCurrent {
			c.fail("I5: %s is not encrypted with the current passphrase", id)
		}
	}
	c.judgeRevoked(c.spec.policy, c.k.ring)
	if c.s.named != "" {
		c.fail("I9: nothing is wrong, and the status reports: %s", c.s.named)
	}
	for _, k := range c.c.ring.Keys {
		if k.verifies() && c.revoked[k.ID] {
			c.fail("I8: %s was revoked, and is published", k.ID)
		}
	}
	if c.c.ring.Generation != c.k.ring.Generation {
		c.fail("I5: C has generation %d, K %d", c.c.ring.Generation, c.k.ring.Generation)
	}
	want := podTemplate{c.digest(c.p.era, p.Current), c.spec.policy.Lifetimes[Access], c.spec.policy.Lifetimes[Refresh]}
	if c.d.template != want || c.d.replicas != c.spec.replicas || !c.d.rolled || len(c.pods) != c.d.replicas {
		c.fail("I5: D is %+v with %d pods, want %+v", c.d, len(c.pods), want)
	}
	for _, pod := range c.pods {
		if !pod.ready || pod.template != want || pod.loaded.Generation != c.k.ring.Generation {
			c.fail("I5: pod %d: ready %v, %+v, generation %d of %d",
				pod.name, pod.ready, pod.template, pod.loaded.Generation, c.k.ring.Generation)
		}
	}
	if !all {
		return
	}
	if len(c.excused) > 0 {
		c.fail("I5: still lost: %v", c.excused)
	}
	c.judgeSettled(c.spec.policy, c.k.ring)
}

// The guards of the protocol. Each name describes the protocol without that guard.
const (
	withoutPassphrasesSwap    = "P is written over what another writer wrote"
	withoutRingSwap           = "K is written over what another writer wrote"
	withoutPublicSwap         = "C is written over what another writer wrote"
	withoutReread             = "P is not read again before K is written"
	withoutEras               = "the digest that pods carry is only of the passphrases"
	withoutPodLifetimes       = "the ring knows only the lifetimes of the spec"
	withoutPublicSeen         = "a key is seen though it is not published"
	withoutPodsSeen           = "a key is seen though pods have not loaded it"
	withoutUnreadyDistributed = "pods that are not ready count as having the passphrases"
	withoutRollout            = "the passphrases count as distributed before the Deployment is rolled out"
	withoutUnreadyLoaded      = "pods that are not ready count as loaded"
	deploymentFirst           = "D is written before P"
	deploymentBeforeRing      = "D is written before K"
	ringFirst                 = "K is written before P"
	publicFirst               = "C is written before K"
	publicReadLast            = "C is read after K"
	publicFromCache           = "C is read from a cache"
	ringReadFirst             = "K is read before P"

	beginAtOnce            = "Begin does not wait for the former change"
	beginWithoutFormer     = "Begin keeps no former passphrase"
	beginOverFormer        = "Begin drops the passphrase that encrypts the ring"
	beginWithTheOthers     = "Begin takes the passphrase of the other use"
	beginBack              = "Begin goes back after the passphrase was distributed"
	withoutDistributed     = "Reconcile does not wait until a passphrase is distributed"
	encryptAtOnce          = "Passphrases encrypts with the current one at once"
	distributedIsNotStored = "Distributed is not stored"
	withoutLoaded          = "Finish does not wait until the ring is loaded"
	finishWithoutLooking   = "Finish does not look at the ring"
	finishInTheSamePass    = "Finish does not wait until the ring is written"
	withoutPublished       = "a lost key waits for pods that can sign"
	foundIsNothing         = "a passphrase that was lost and found is replaced by one that was begun in between"
	announceUnseen         = "the lead begins before a key is seen"

	withoutTrace           = "an older ring is used without a request"
	withoutRevokedMemory   = "revoked keys are not remembered outside the ring"
	withoutWithdrawn       = "a withdrawn key keeps waiting as if it were published"
	withoutServerOrder     = "a server takes an older ring"
	withoutServerPublished = "a server that starts does not check the published keys"
	assumeAtOnce           = "a replica that cannot be asked counts as having loaded the ring at once"
	acceptInPlace          = "a ring that is accepted does not go above what was seen"
	publishWithdrawn       = "a key that was withdrawn is published before that is written down"
	acceptAnnounced        = "a key that waits in a ring that is accepted goes on waiting"
	unreadIsPublished      = "what cannot be read counts as published"
	newRingFromZero        = "a new ring counts from the beginning"
)

const (
	clusterRuns         = 30
	clusterDisturbances = 300
)

func TestModelOfTheOperatorTokensVerifyAndPodsStart(t *testing.T) {
	writes, passes, years := 0, 0, 0.0
	for seed := range uint64(clusterRuns) {
		c := newCluster(seed, theme(seed%uint64(themes)), "")
		begin := c.now
		if found := c.run(clusterDisturbances); found != "" {
			t.Fatalf("seed %d: %s", seed, found)
		}
		writes += c.writes
		passes += c.passes
		years += c.now.Sub(begin).Hours() / 24 / 365
	}
	t.Logf("%d clusters, %.0f years, %d passes, %d writes", clusterRuns, years, passes, writes)
}

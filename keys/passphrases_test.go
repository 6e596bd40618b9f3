package keys

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// keeper reconciles a ring, one pass at a time. distributed, loaded, seen and published are what it observes.
type keeper struct {
	t           *testing.T
	ring        Ring
	passphrases PassphraseState
	desired     map[Use]string
	policy      Policy
	now         time.Time
	distributed bool
	loaded      bool
	seen        bool
	published   bool
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{
		t: t, policy: testPolicy(), now: start, distributed: true, loaded: true, seen: true, published: true,
		desired: map[Use]string{Access: "access A", Refresh: "refresh A"},
	}
	k.pass()
	k.now = start.Add(time.Hour)
	return k
}

func (k *keeper) input() Input {
	in := Input{
		Ring: k.ring, Passphrases: k.passphrases, Desired: k.desired, Policy: k.policy, Now: k.now,
		Observed: Observed{
			OpenedBy:  Inspect(k.ring, k.passphrases.Candidates(k.desired)),
			Published: map[string]bool{}, Seen: map[string]bool{}, Distributed: k.distributed, RingLoaded: k.loaded,
		},
	}
	for _, key := range k.ring.Keys {
		in.Observed.Published[key.ID], in.Observed.Seen[key.ID] = k.published, k.seen
	}
	return in
}

func (k *keeper) pass() Result {
	k.t.Helper()
	out, err := reconcile(modelFactory, k.input())
	if err != nil {
		k.t.Fatal(err)
	}
	k.ring, k.passphrases = out.Ring, out.Passphrases
	return out
}

// passes calls pass until nothing changes.
func (k *keeper) passes() {
	k.t.Helper()
	for range 20 {
		state := k.passphrases
		if out := k.pass(); len(out.Steps) == 0 && k.passphrases.Equal(state) {
			return
		}
	}
	k.t.Fatal("the passes do not end")
}

// rotate lets every published key wait twice for its lead.
func (k *keeper) rotate() {
	k.t.Helper()
	for range 3 {
		k.passes()
		k.now = k.now.Add(k.policy.prePublication())
	}
	k.passes()
}

// shown formats the passphrases of a use: "current", "current < former" while the current
// one is distributed, or "current ! former" after that.
func (k *keeper) shown(use Use) string {
	text := k.passphrases.Current[use]
	if former := k.passphrases.Former[use]; former != "" {
		text += map[bool]string{true: " ! ", false: " < "}[k.passphrases.Distributed[use]] + former
	}
	return text
}

// encryptedWith returns the letters of the passphrases that decrypt private halves of a use.
func (k *keeper) encryptedWith(use Use) string {
	var found []string
	for _, key := range k.ring.Keys {
		for _, letter := range []string{"A", "B", "C", "T"} {
			passphrase := string(use) + " " + letter
			opened := Inspect(Ring{Keys: []Key{key}}, Passphrases{Access: []string{passphrase}, Refresh: []string{passphrase}})
			if key.Use == use && opened[key.ID] != "" && !slices.Contains(found, letter) {
				found = append(found, letter)
			}
		}
	}
	slices.Sort(found)
	return strings.Join(found, "")
}

func (k *keeper) expect(use Use, kept, sealed string) {
	k.t.Helper()
	if k.shown(use) != kept || k.encryptedWith(use) != sealed {
		k.t.Fatalf("%s: passphrases %q, keys encrypted with %q, want %q and %q",
			use, k.shown(use), k.encryptedWith(use), kept, sealed)
	}
}

func TestPassphrasesEncryptTheFirstKeys(t *testing.T) {
	k := newKeeper(t)
	k.expect(Access, "access A", "A")
	k.expect(Refresh, "refresh A", "A")
	if out := k.pass(); len(out.Steps) > 0 || out.Next.Reason != Steady {
		t.Errorf("%v, %v", out.Steps, out.Next)
	}
}

func TestPassphraseChangeIsDistributedBeforeItEncryptsAnything(t *testing.T) {
	k := newKeeper(t)
	k.distributed, k.loaded = false, false
	k.desired = map[Use]string{Access: "access B", Refresh: "refresh B"}
	k.policy.Rotate = "meanwhile"
	k.passes()
	k.expect(Access, "access B < access A", "A") // the new key too
	k.expect(Refresh, "refresh B < refresh A", "A")

	k.distributed = true
	k.pass()
	k.expect(Access, "access B ! access A", "B")
	k.passes()
	k.expect(Access, "access B ! access A", "B") // some replicas still have the former ring

	k.loaded = true
	k.pass()
	k.expect(Access, "access B", "B")
	k.expect(Refresh, "refresh B", "B")
}

// A copy of a key under the former passphrase is worthless after the key is replaced. The
// other use stays as it is, also if no passphrase is desired for it.
func TestPassphraseChangeReplacesTheKeys(t *testing.T) {
	for _, desired := range []map[Use]string{{Access: "access B"}, {Access: "access B", Refresh: "refresh A"}} {
		k := newKeeper(t)
		before, _ := k.ring.Signing(Access)
		refresh, _ := k.ring.Signing(Refresh)
		k.desired = desired
		k.rotate()
		after, _ := k.ring.Signing(Access)
		if after.ID == before.ID || after.Reencrypted {
			t.Errorf("%s signs, reencrypted %v", after.ID, after.Reencrypted)
		}
		k.expect(Access, "access B", "B")
		k.expect(Refresh, "refresh A", "A")
		if still, _ := k.ring.Signing(Refresh); still.ID != refresh.ID {
			t.Error("the refresh key was replaced")
		}
	}
}

// One use begins a change while the other can no longer go back.
func TestPassphrasesOfTheUsesChangeAtTheirOwnPace(t *testing.T) {
	k := newKeeper(t)
	k.loaded = false
	k.desired[Access] = "access B"
	k.passes()
	k.distributed = false
	k.desired[Refresh] = "refresh B"
	k.passes()
	k.expect(Access, "access B ! access A", "B")
	k.expect(Refresh, "refresh B < refresh A", "A")
}

func TestPassphraseThatIsNotDistributedCanBeReplaced(t *testing.T) {
	k := newKeeper(t)
	k.distributed = false
	k.desired[Access] = "access B"
	k.passes()
	k.desired[Access] = "access C"
	if out := k.pass(); len(out.Deferred) > 0 {
		t.Errorf("deferred %v", out.Deferred)
	}
	k.expect(Access, "access C < access A", "A")
	k.desired[Access] = "access A"
	k.pass()
	k.expect(Access, "access A", "A")
	if k.passes(); k.ring.Generation != 2 {
		t.Error("the ring has changed")
	}
}

func TestPassphraseThatIsDistributedCannotBeReplaced(t *testing.T) {
	for _, next := range []string{"access C", "access A"} {
		t.Run(next, func(t *testing.T) {
			k := newKeeper(t)
			k.loaded = false
			k.desired[Access] = "access B"
			k.passes()
			k.desired[Access] = next
			if out := k.pass(); !slices.Equal(out.Deferred, []Use{Access}) {
				t.Errorf("deferred %v", out.Deferred)
			}
			k.expect(Access, "access B ! access A", "B")
			k.loaded = true
			k.passes()
			k.expect(Access, next, next[len("access "):])
		})
	}
}

// A passphrase that decrypts the keys of both uses would remove the separation between them.
func TestPassphraseOfOneUseIsNotTakenForTheOther(t *testing.T) {
	k := newKeeper(t)
	k.desired = map[Use]string{Access: "refresh A", Refresh: "access A"}
	if out := k.pass(); !slices.Equal(out.Deferred, []Use{Access, Refresh}) {
		t.Errorf("deferred %v", out.Deferred)
	}
	k.desired = map[Use]string{Access: "the same", Refresh: "the same"}
	if out := k.pass(); !slices.Equal(out.Deferred, []Use{Refresh}) {
		t.Errorf("deferred %v", out.Deferred)
	}
}

// lose returns a keeper whose ring is encrypted with T, which is lost.
func lose(t *testing.T) *keeper {
	k := newKeeper(t)
	k.desired = map[Use]string{Access: "access T", Refresh: "refresh T"}
	k.rotate()
	k.passphrases, k.desired = PassphraseState{}, map[Use]string{Access: "access A", Refresh: "refresh A"}
	k.pass()
	k.expect(Access, "access A", "T")
	return k
}

func TestLostPassphraseLeavesTheRingAlone(t *testing.T) {
	k := lose(t)
	before := k.ring.Generation
	k.now = k.now.Add(90 * 24 * time.Hour)
	if out := k.pass(); out.Next.Reason != Unopenable || k.ring.Generation != before {
		t.Errorf("%v, generation %d", out.Next, k.ring.Generation)
	}
}

// The running signers have the passphrase that was found. The change that began in between
// must not encrypt the keys, because that would lock the signers out.
func TestLostPassphraseThatIsFoundStaysInUse(t *testing.T) {
	k := lose(t)
	k.distributed, k.loaded = false, false
	k.desired = map[Use]string{Access: "access T", Refresh: "refresh T"}
	k.passes()
	k.expect(Access, "access T ! access A", "T")
	k.loaded = true
	k.passes()
	k.expect(Access, "access T", "T")
}

// A change that began in between does not have to finish first, because it cannot.
func TestLostPassphraseThatIsNamedDoesNotWait(t *testing.T) {
	k := lose(t)
	k.loaded = false
	k.desired = map[Use]string{Access: "access B"}
	k.passes()
	k.expect(Access, "access B ! access A", "T")
	k.desired = map[Use]string{Access: "access T"}
	k.passes()
	k.expect(Access, "access T ! access B", "T")
}

func TestPassphraseThatDecryptsAKeyIsNotDropped(t *testing.T) {
	ring := lose(t).ring
	signing, _ := ring.Signing(Access)
	waiting := Key{ID: "waiting", Use: Access, Phase: Published}
	ring.Keys = append(ring.Keys, waiting)
	for _, given := range []bool{true, false} {
		c := PassphraseState{
			Current: map[Use]string{Access: "B"}, Former: map[Use]string{Access: "A"}, Distributed: map[Use]bool{Access: given},
		}
		for _, want := range []string{"A", "T"} {
			encryption := map[string]Encryption{signing.ID: EncryptedUnknown, waiting.ID: EncryptedFormer}
			next, deferred := c.Begin(map[Use]string{Access: want}, ring, encryption)
			if !next.Equal(c) || len(deferred) != 1 {
				t.Errorf("distributed %v, desired %s: deferred %v", given, want, deferred)
			}
			encryption[waiting.ID] = EncryptedCurrent
			if next, deferred := c.Begin(map[Use]string{Access: want}, ring, encryption); next.Equal(c) || len(deferred) > 0 {
				t.Errorf("distributed %v, desired %s, and nothing prevents it: deferred %v", given, want, deferred)
			}
		}
	}
}

// Running signers cannot decrypt the new key, and signers that could decrypt it cannot
// start. A key that waited for either would wait forever.
func TestLostPassphraseMakesARotationWaitForPublicationOnly(t *testing.T) {
	k := lose(t)
	k.seen, k.published = false, false
	k.policy.Rotate = "it is lost"
	k.rotate()
	k.expect(Access, "access A", "AT")
	k.published = true
	k.rotate()
	k.expect(Access, "access A", "A")
	if !k.ring.Honoured("it is lost") {
		t.Error("the request to rotate was not honoured")
	}
}

// A program may be delayed or crash between writing a ring and publishing its keys. The
// lead is for consumers of the published keys, so it begins only after that.
func TestLeadBeginsWhenAKeyIsSeen(t *testing.T) {
	k := newKeeper(t)
	k.seen = false
	k.policy.Rotate = "now"
	k.passes()
	for range 5 {
		k.now = k.now.Add(k.policy.prePublication())
		if out := k.pass(); len(out.Steps) > 0 || out.Next.When.After(k.now.Add(recheck)) {
			t.Fatalf("steps %v, next at %v", out.Steps, out.Next.When)
		}
	}
	k.seen = true
	if out := k.pass(); len(out.Steps) != 2 || out.Steps[0].Reason != Announced {
		t.Fatalf("%v", out.Steps)
	}
	for _, want := range []Reason{DeadlineReached, LeadPassed} {
		k.now = k.now.Add(k.policy.prePublication() - time.Second)
		if out := k.pass(); len(out.Steps) > 0 {
			t.Fatalf("the steps %v are too early", out.Steps)
		}
		k.now = k.now.Add(time.Second)
		if out := k.pass(); len(out.Steps) != 2 || out.Steps[0].Reason != want {
			t.Fatalf("%v, want %s", out.Steps, want)
		}
	}
}

// No phase begins before the key was created, or in the future.
func TestLeadBeginsAfterTheKeyIsCreated(t *testing.T) {
	k := newKeeper(t)
	k.policy.Rotate = "now"
	k.pass()
	k.now = k.now.Add(-10 * time.Second) // as another clock may show
	k.passes()
	for _, key := range k.ring.Keys {
		if key.Phase == Generated || key.PhaseSince.After(k.now.Add(k.policy.ClockSkew+time.Second)) {
			t.Errorf("%s since %v", key.Phase, key.PhaseSince)
		}
	}
}

func TestReconcileWithoutPassphrasesKeepsTheRing(t *testing.T) {
	k := newKeeper(t)
	k.passphrases, k.desired, k.policy.Rotate = PassphraseState{}, nil, "now"
	out, err := reconcile(modelFactory, k.input())
	if !errors.Is(err, ErrPassphrase) || out.Ring.Generation != k.ring.Generation || len(out.Steps) > 0 {
		t.Errorf("%v, generation %d, %v", err, out.Ring.Generation, out.Steps)
	}
}

func TestPassphraseStateIsAValue(t *testing.T) {
	c := PassphraseState{Current: map[Use]string{Access: "A"}}
	next, _ := c.Begin(map[Use]string{Access: "B", Refresh: "C"}, Ring{}, nil)
	if !maps.Equal(c.Current, map[Use]string{Access: "A"}) || len(c.Former)+len(c.Distributed) > 0 {
		t.Errorf("%v", c)
	}
	given := next.markDistributed(true, Ring{}, nil)
	for _, other := range []PassphraseState{c, {}, given} {
		if next.Equal(other) || other.Equal(next) {
			t.Errorf("%v equals %v", next, other)
		}
	}
	if again := next.markDistributed(false, Ring{}, nil); !again.Equal(next) || next.Distributed[Access] {
		t.Errorf("%v", again)
	}
}

func TestReconcileMakesKeysThatTheServerOpens(t *testing.T) {
	k := newKeeper(t)
	k.ring, k.passphrases = Ring{}, PassphraseState{}
	out := testenv.Must(Reconcile(k.input()))(t)
	ring := testenv.Must(FromFiles(out.Ring.Files()))(t)
	if _, err := Open(ring, out.Passphrases.Passphrases()); err != nil {
		t.Error(err)
	}
}

func isPublished(k Key) bool { return k.Phase == Published }

// halfway returns a keeper whose keys were seen everywhere and wait for their lead.
func halfway(t *testing.T) *keeper {
	k := newKeeper(t)
	k.policy.Rotate = "now"
	k.passes()
	k.now = k.now.Add(k.policy.prePublication())
	k.passes()
	return k
}

// A key may be withdrawn, or it may be unknown whether it is published. Only the first
// makes it wait again, and neither lets it sign.
func TestLeadOfAWithdrawnKeyBeginsAgain(t *testing.T) {
	for _, unread := range []bool{false, true} {
		k := halfway(t)
		k.seen, k.published = false, false
		k.now = k.now.Add(2 * k.policy.prePublication())
		t0 := k.input()
		t0.Observed.PublishedUnknown = unread
		out := testenv.Must(reconcile(modelFactory, t0))(t)
		want := map[bool]int{false: 0, true: 2}[unread]
		if got := count(out.Ring, isPublished); got != want {
			t.Errorf("unread %v: %d keys are published, want %d: %v", unread, got, want, out.Steps)
		}
	}
}

// An older ring is used only if a person accepts it. It then continues above the
// generation that was seen, and a waiting key waits again.
func TestRollbackIsAcceptedAboveWhatWasSeen(t *testing.T) {
	k := halfway(t)
	older := k.input()
	older.Trace = Trace{Generation: k.ring.Generation + 5}
	out, err := reconcile(modelFactory, older)
	if err != nil || len(out.Steps) > 0 || out.Next.Reason != RolledBack || out.Ring.Generation != k.ring.Generation {
		t.Errorf("%v, %v, generation %d: %v", out.Steps, out.Next, out.Ring.Generation, err)
	}
	older.Trace.Accepted = true
	older.Observed.Seen = nil
	out, err = reconcile(modelFactory, older)
	if err != nil || len(out.Steps) == 0 || out.Steps[0].Reason != OlderRingAccepted ||
		out.Ring.Generation <= older.Trace.Generation || count(out.Ring, isPublished) > 0 {
		t.Errorf("%v, generation %d, %d published: %v", out.Steps, out.Ring.Generation, count(out.Ring, isPublished), err)
	}
}

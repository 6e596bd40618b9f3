package keys

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// scenes are situations that random disturbances hardly ever produce, each with the guard
// of the protocol that it needs.
var scenes = map[string]func(*cluster){
	publicFromCache:        publicKeysGoWhenOneIsAboutToSign,
	publishWithdrawn:       publicKeysGoWhenTheRingCannotBeWritten,
	newRingFromZero:        ringIsLostAndGivenUp,
	assumeAtOnce:           silentPodsLagWhenAPassphraseChanges,
	acceptInPlace:          olderRingIsAccepted,
	acceptAnnounced:        olderRingHasAKeyThatWasOutOfSight,
	withoutServerPublished: podsRestartWithAKeyThatWasRevoked,
	unreadIsPublished:      publicKeysCannotBeReadWhenPassphrasesAreLost,
}

const sceneRuns = 4

func TestModelOfTheOperatorSceneNeedsItsGuard(t *testing.T) {
	for guard, scene := range scenes {
		t.Run(guard, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(sceneRuns) {
				if found := newScene(seed, "").play(scene); found != "" {
					t.Errorf("seed %d: %s", seed, found)
				}
				if found := newScene(seed, guard).play(scene); found == "" {
					t.Errorf("seed %d: no violation was found without the guard", seed)
				}
			}
		})
	}
}

// newScene returns a cluster without random disturbances.
func newScene(seed uint64, broken string) *cluster {
	c := newCluster(seed, ofEverything, broken)
	c.calm, c.disturbAt = true, time.Time{}
	if c.spec.desired == nil {
		c.spec.desired = map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}
	}
	return c
}

// until advances the time until a condition holds.
func (c *cluster) until(what string, so func() bool) {
	for end := c.now.Add(24 * time.Hour); !so(); c.event(end) {
		if !c.now.Before(end) {
			panic(fmt.Sprintf("the scene waits forever until %s, without the guard %q", what, c.broken))
		}
	}
}

func (c *cluster) untilWell() { c.until("all is well", c.well) }

// well reports whether all parts of the cluster have the same ring and nothing is wrong.
func (c *cluster) well() bool {
	generation := c.k.ring.Generation
	return generation > 0 && c.c.ring.Generation == generation && c.s.generation == generation && c.s.named == "" && c.d.rolled &&
		len(c.pods) == c.d.replicas && !slices.ContainsFunc(c.pods, func(p *modelPod) bool {
		return !p.ready || p.loaded.Generation != generation || p.public.ring.Generation != generation
	})
}

// unheard makes people notice only after a day what the operators report.
func (c *cluster) unheard() { c.troubled = c.now.Add(24 * time.Hour) }

// rotate simulates a person who requests a rotation.
func (c *cluster) rotate() {
	c.request(&c.spec.policy)
	c.poke()
}

// restoreAndAccept simulates a person who restores an older ring and accepts it.
func (c *cluster) restoreAndAccept(older ringHome) {
	c.unheard()
	c.replaceRing(older)
	c.poke()
	c.until("the status reports that K was rolled back", func() bool { return c.s.named != "" })
	c.accept()
	c.poke()
}

// next returns the access key that waits to sign.
func (c *cluster) next() Key {
	for _, k := range c.k.ring.Keys {
		if k.Use == Access && k.waits() {
			return k
		}
	}
	return Key{}
}

// untilNextIsDue rotates the keys and advances the time until shortly before the next
// access key signs. It returns the time when that key signs.
func (c *cluster) untilNextIsDue(but time.Duration) (due time.Time) {
	c.untilWell()
	c.rotate()
	c.until("the next key has waited once", func() bool { return c.next().DeadlineSeen && c.well() })
	due = c.next().PhaseSince.Add(c.spec.policy.prePublication())
	c.pass(due.Sub(c.now) - but)
	if c.next().ID == "" {
		panic("the key signed before the scene began")
	}
	return due
}

func publicKeysGoWhenOneIsAboutToSign(c *cluster) {
	c.untilNextIsDue(11 * time.Second) // the operators' clocks differ from the real time by up to ten seconds
	c.replacePublic(publicHome{})
	c.poke()
	c.pass(time.Hour)
}

func publicKeysGoWhenTheRingCannotBeWritten(c *cluster) {
	c.untilNextIsDue(time.Minute)
	c.unheard()
	c.denied["write K"] = true
	c.replacePublic(publicHome{})
	c.poke()
	c.pass(30 * time.Second)
	clear(c.denied)
	c.poke()
	c.pass(time.Hour)
}

func ringIsLostAndGivenUp(c *cluster) {
	c.untilNextIsDue(time.Minute)
	c.pass(time.Hour)
	c.unheard()
	c.interrupt()
	c.k, c.restoredK = ringHome{}, true
	c.poke()
	c.until("the status reports that K is lost", func() bool { return c.s.named != "" })
	c.newRing = c.highest
	c.poke()
	c.pass(time.Hour)
	if c.s.named != "" {
		c.fail("I5: a person has given up K, and the status reports: %s", c.s.named)
	}
}

func silentPodsLagWhenAPassphraseChanges(c *cluster) {
	c.untilWell()
	c.spec.desired[Access] = c.passphrase(Access)
	c.poke()
	c.until("the ring is encrypted again", func() bool {
		k, _ := c.k.ring.Signing(Access)
		return k.Reencrypted
	})
	for _, p := range c.pods {
		p.silent, p.keysAt = true, c.now.Add(mountLag)
	}
	c.pass(time.Hour)
}

func olderRingIsAccepted(c *cluster) {
	c.untilWell()
	older := c.k
	c.untilNextIsDue(time.Minute)
	c.pass(time.Hour)
	c.restoreAndAccept(older)
	for end := c.now.Add(time.Hour); !c.well(); c.event(end) {
		if !c.now.Before(end) {
			c.fail("I5: a person has accepted K, and the pods do not load it")
		}
	}
}

func olderRingHasAKeyThatWasOutOfSight(c *cluster) {
	c.untilNextIsDue(2 * time.Minute)
	older, next := c.k, c.next().ID
	c.replacePublic(publicHome{})
	c.poke()
	c.until("the key is published again", func() bool {
		k, _ := c.c.ring.Key(next)
		return c.next().Phase == Generated && k.verifies()
	})
	c.restoreAndAccept(older)
	c.pass(time.Hour)
}

func podsRestartWithAKeyThatWasRevoked(c *cluster) {
	c.untilWell()
	older := c.k
	k, _ := older.ring.Signing(Access)
	c.spec.policy.Revoked = []string{k.ID}
	c.poke()
	c.pass(time.Minute)
	c.untilWell()
	c.unheard()
	c.replaceRing(older)
	c.poke()
	c.pass(mountLag)
	c.restartPods()
	c.pass(time.Hour)
	c.accept()
	c.poke()
	c.pass(time.Hour)
}

func publicKeysCannotBeReadWhenPassphrasesAreLost(c *cluster) {
	c.untilWell()
	c.unheard()
	c.denied["read C"] = true
	c.losePassphrases()
	c.spec.desired = map[Use]string{Access: c.passphrase(Access), Refresh: c.passphrase(Refresh)}
	c.rotate()
	c.pass(3 * time.Hour)
	c.restartPods()
	c.pass(time.Hour)
}

func (c *cluster) restartPods() {
	for _, p := range c.pods {
		c.trouble(p, 20)
	}
}

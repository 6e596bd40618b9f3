package keys

import (
	"slices"
	"strings"
	"testing"
)

// A check that cannot fail proves nothing. With one rule broken at a time, the check must find a violation.
func TestModelFindsEachBrokenRule(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	// with replaces the rule whose name contains a text, or removes it if apply is nil.
	with := func(name string, apply func(situation) (Step, bool)) []rule {
		mutated := slices.Clone(rules)
		i := slices.IndexFunc(mutated, func(r rule) bool { return strings.Contains(r.name, name) })
		if i < 0 {
			t.Fatalf("no rule is named %q", name)
		}
		if apply == nil {
			return slices.Delete(mutated, i, i+1)
		}
		mutated[i].apply = apply
		return mutated
	}
	impatient := func(s situation) (Step, bool) {
		if k, ok := s.successor(); ok && s.seen(k.ID) {
			return Step{Action: Promote, Key: k.ID, Reason: LeadPassed}, true
		}
		return leadPassed(s)
	}
	credulous := func(s situation) (Step, bool) { // trusts the clock the first time
		for i := range s.ring.Keys {
			s.ring = s.ring.clone()
			s.ring.Keys[i].DeadlineSeen = true
		}
		return tokensExpired(s)
	}
	for name, mutant := range map[string][]rule{
		"promotes without the lead": with("published key signs", impatient),
		"promotes at the first end of the lead": with("deadline counts", func(s situation) (Step, bool) {
			// Only the wait of a retiring key runs twice.
			for _, k := range s.keys() {
				if k.Phase == Published && s.over(k) && s.seen(k.ID) && s.opens(k) && k.Algorithm == s.policy.Algorithm {
					return Step{Action: Promote, Key: k.ID, Reason: LeadPassed}, true
				}
			}
			return deadlineReached(s)
		}),
		"forgets at the first deadline": with("deadline counts", func(s situation) (Step, bool) {
			if step, ok := credulous(s); ok {
				return step, ok
			}
			return deadlineReached(s)
		}),
		"forgets without a deadline": with("whose tokens have expired", func(s situation) (Step, bool) {
			for _, k := range s.keys() {
				if k.Phase == Retiring {
					return Step{Action: Drop, Key: k.ID, Reason: TokensExpired}, true
				}
			}
			return tokensExpired(s)
		}),
		"creates a new key for one that is locked": with("cannot be decrypted", nil),
		"does not encrypt again":                   with("encrypted with the current passphrase", nil),
		"does not notice that the clock went back": with("begins in the future", nil),
		"does not revoke":                          with("no longer trusted", nil),
		"does not keep keys for longer tokens":     with("kept as long as", nil),
		"rotates without end": with("one at a time", func(s situation) (Step, bool) {
			return Step{Action: Generate, Reason: Aged}, len(s.keys()) < fullUse
		}),
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(modelRuns) {
				if found := newSimulation(t, seed, mutant).run(modelTicks); found != "" {
					t.Logf("seed %d: %s", seed, strings.SplitN(found, "\n", 2)[0])
					return
				}
			}
			t.Error("no violation was found")
		})
	}
}

package keys

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestFirstKeyOfEachUseSignsAtOnce(t *testing.T) {
	s := newStory(t)
	if s.phases(Access) != "S" || s.phases(Refresh) != "S" || s.ring.Generation != 2 {
		t.Fatalf("%s, %s, generation %d", s.phases(Access), s.phases(Refresh), s.ring.Generation)
	}
	step := s.next()
	if step.Action != None || step.Reason != Steady || !step.When.Equal(start.Add(30*24*time.Hour)) {
		t.Errorf("%v at %v", step, step.When)
	}
}

func TestRotationByAgeFromTheFirstToTheLastStep(t *testing.T) {
	s := newStory(t)
	lead, old := s.policy.prePublication(), s.signing(Access).ID
	for _, tt := range []struct {
		wait  time.Duration
		steps string
		keys  string
	}{
		{30*24*time.Hour - time.Hour - time.Second, "", "S"},
		{time.Second, "Generate/Aged ", "SP"},
		{lead - time.Second, "", "SP"},
		{time.Second, "Wait/DeadlineReached ", "SP"},
		{lead - time.Second, "", "SP"},
		{time.Second, "Promote/LeadPassed ", "ReS"},
		{lead + 15*time.Minute - time.Second, "", "ReS"},
		{time.Second, "Wait/DeadlineReached ", "ReS"},
		{lead + 15*time.Minute - time.Second, "", "ReS"},
		{time.Second, "Drop/TokensExpired ", "S"},
	} {
		steps := s.after(tt.wait)
		if got := brief(steps, Access); got != tt.steps || s.phases(Access) != tt.keys {
			t.Fatalf("after %v: %q and %s, want %q and %s", tt.wait, got, s.phases(Access), tt.steps, tt.keys)
		}
		for _, k := range s.ring.Keys {
			if (k.Encrypted != nil) != k.needsPrivate() {
				t.Errorf("a %s key with private half: %v", k.Phase, k.Encrypted != nil)
			}
		}
	}
	if s.signing(Access).ID == old {
		t.Error("the same key signs")
	}
}

func TestPromotionWaitsUntilTheKeyIsSeenEverywhere(t *testing.T) {
	s := newStory(t)
	s.policy.Rotate = "now"
	s.settle()
	s.assumeSeen = false
	for range 20 {
		if strings.Contains(brief(s.after(s.policy.prePublication()), Access), "Promote") {
			t.Fatal("the key was promoted before it was seen")
		}
	}
	step := s.next()
	if step.Reason != AwaitingPublication || !step.When.Equal(s.now.Add(recheck)) ||
		!strings.Contains(step.Message, "not yet seen everywhere") {
		t.Errorf("%v at %v", step, step.When)
	}
	if s.ring.Honoured("now") {
		t.Error("the request counts as honoured before the rotation ended")
	}
	s.assumeSeen = true
	if s.settle(); !s.ring.Honoured("now") {
		t.Error("the key was not promoted although it was seen")
	}
}

func TestDropWaitsUntilTheSuccessorIsSeenEverywhere(t *testing.T) {
	s := newStory(t)
	s.rotate("now")
	s.assumeSeen = false
	s.after(time.Hour)
	if s.after(time.Hour); s.phases(Access) != "ReS" {
		t.Errorf("phases %s, want ReS", s.phases(Access))
	}
	s.assumeSeen = true
	if s.settle(); s.phases(Access) != "S" {
		t.Errorf("phases %s, want S", s.phases(Access))
	}
}

func TestRotationOnRequestIsDoneOnce(t *testing.T) {
	s := newStory(t)
	s.rotate("1")
	before := s.signing(Access).ID
	s.policy.Rotate = ""
	s.settle()
	s.policy.Rotate = "1"
	if steps := s.settle(); len(steps) > 0 || s.signing(Access).ID != before {
		t.Errorf("rotated again: %v", steps)
	}
	s.rotate("2")
	if s.signing(Access).ID == before {
		t.Error("the second request did nothing")
	}
}

func TestAlgorithmChangeReplacesTheKey(t *testing.T) {
	s := newStory(t)
	s.policy.Algorithm = EdDSA
	if got := brief(s.settle(), Access); got != "Generate/AlgorithmChanged " {
		t.Fatal(got)
	}
	s.lead()
	if k := s.signing(Access); k.Algorithm != EdDSA {
		t.Errorf("%s signs", k.Algorithm)
	}
	if steps := s.settle(); len(steps) > 0 {
		t.Errorf("the rotation does not end: %v", steps)
	}
}

// If the setting changes back and forth within the lead, only one key is generated, and it is dropped.
func TestAlgorithmThatIsChangedBackLeavesTheKeyThatSigns(t *testing.T) {
	s := newStory(t)
	before := s.signing(Access).ID
	for range 10 {
		s.policy.Algorithm = EdDSA
		s.after(time.Second)
		s.policy.Algorithm = ES256
		s.after(time.Second)
	}
	if len(s.ring.Keys) != 4 {
		t.Errorf("%d keys, want 4", len(s.ring.Keys))
	}
	if got := brief(s.lead(), Access); got != "Drop/Unwanted " || s.signing(Access).ID != before {
		t.Errorf("steps %q, phases %s", got, s.phases(Access))
	}
}

func TestPassphraseChangeEncryptsAgainAndRotates(t *testing.T) {
	s := newStory(t)
	s.passphrases.Access = []string{"the new passphrase", s.passphrases.Access[0]}
	if got := brief(s.settle(), Access); got != "Reseal/PassphraseChanged Generate/PassphraseChanged " {
		t.Fatal(got)
	}
	s.lead()
	s.passphrases.Access = s.passphrases.Access[:1] // the former passphrase is no longer needed
	if step := s.next(); step.Reason != Steady {
		t.Errorf("%v", step)
	}
	if s.phases(Refresh) != "S" || s.signing(Access).Reencrypted {
		t.Errorf("refresh %s, access reencrypted %v", s.phases(Refresh), s.signing(Access).Reencrypted)
	}
}

func TestPassphraseThatIsLostLeavesTheUseAlone(t *testing.T) {
	s := newStory(t)
	s.rotate("1") // a retiring key could be dropped, too
	before := s.ring.Generation
	s.passphrases = Passphrases{Access: []string{"wrong"}, Refresh: []string{"wrong"}}
	s.policy.Algorithm = EdDSA
	s.policy.Lifetimes = map[Use]time.Duration{Access: time.Hour, Refresh: 30 * 24 * time.Hour}
	if steps := s.after(5 * 365 * 24 * time.Hour); len(steps) > 0 || s.ring.Generation != before {
		t.Fatalf("%v", steps)
	}
	step := s.next()
	if step.Reason != Unopenable || !strings.Contains(step.Message, "ACCESS_PASSPHRASE") ||
		!strings.Contains(step.Message, s.signing(Access).ID) {
		t.Errorf("%v", step)
	}
	// The other use continues.
	s.passphrases.Refresh = testPassphrases.Refresh
	if steps := s.settle(); brief(steps, Access) != "" || brief(steps, Refresh) == "" {
		t.Errorf("%v", steps)
	}
}

func TestRotationOnRequestReplacesKeysOfALostPassphrase(t *testing.T) {
	s := newStory(t)
	s.policy.Algorithm = EdDSA
	s.settle() // a published key that cannot be decrypted either
	old, shut := s.signing(Access).ID, s.ring.Keys[1].ID
	s.passphrases = Passphrases{Access: []string{"a new one"}, Refresh: []string{"another new one"}}
	s.rotate("the passphrase is lost")
	if _, ok := s.ring.Key(shut); ok {
		t.Error("the key that can never sign is still published")
	}
	if k, ok := s.ring.Key(old); !ok || k.Phase != Retiring {
		t.Errorf("the old key no longer verifies: %v", k.Phase)
	}
	if step := s.next(); step.Reason != Steady {
		t.Errorf("%v", step)
	}
}

func TestRevocationOfTheSigningKeyMakesAnotherSignAtOnce(t *testing.T) {
	for name, published := range map[string]bool{"a new one": false, "the published one": true} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			successor := ""
			if published {
				s.policy.Rotate = "now"
				s.settle()
				successor = s.ring.Keys[1].ID
			}
			old := s.signing(Access)
			s.policy.Revoked = []string{old.ID, "unknown"}
			step := s.next()
			if step.Action != Revoke || step.Key != old.ID ||
				!strings.Contains(step.Message, "every access token issued since 2026-01-01T00:00:00Z becomes invalid") {
				t.Fatalf("%v", step)
			}
			s.apply(step)
			now := s.signing(Access)
			if now.ID == old.ID || published && now.ID != successor {
				t.Errorf("%s signs", now.ID)
			}
			gone, _ := s.ring.Key(old.ID)
			if gone.Phase != Revoked || gone.Encrypted != nil || len(JWKS(s.ring, Access, false).Keys) != 1 {
				t.Errorf("%s, %d keys published", gone.Phase, len(JWKS(s.ring, Access, false).Keys))
			}
			s.policy.Revoked = nil // the key stays revoked
			s.settle()
			if gone, _ := s.ring.Key(old.ID); gone.Phase != Revoked {
				t.Errorf("the phase is %s, want Revoked", gone.Phase)
			}
		})
	}
}

func TestRevocationOfEveryKeyLeavesANewOneEvenWithALostPassphraseAndInAFullRing(t *testing.T) {
	s := newStory(t)
	s.rotate("1")
	s.policy.Rotate = "2"
	s.settle()
	for _, k := range s.ring.Keys {
		s.policy.Revoked = append(s.policy.Revoked, k.ID)
	}
	s.settle()
	for _, use := range Uses() {
		if set := JWKS(s.ring, use, false).Keys; len(set) != 1 || slices.Contains(s.policy.Revoked, set[0].ID) {
			t.Errorf("%s: %v", use, set)
		}
	}
	s = newStory(t)
	for i := range 100 {
		s.policy.Revoked = append(s.policy.Revoked, s.signing(Access).ID)
		if i%2 == 0 {
			s.passphrases.Access = []string{"lost again " + string(rune('a'+i%26))}
		}
		s.settle()
	}
	if n := len(s.ring.Keys); n > 2+rememberedRevoked {
		t.Errorf("%d keys", n)
	}
}

func TestLifetimeThatIsRaisedKeepsKeysLonger(t *testing.T) {
	s := newStory(t)
	s.rotate("1")
	old := s.ring.Keys[0]
	s.policy.Lifetimes = map[Use]time.Duration{Access: time.Hour, Refresh: 7 * 24 * time.Hour}
	if got := brief(s.settle(), Access); got != "Extend/LifetimeRaised " {
		t.Fatal(got)
	}
	longer, _ := s.ring.Key(old.ID)
	if d := longer.RemoveAfter.Sub(old.RemoveAfter); d != 45*time.Minute || s.signing(Access).MaxTokenLifetime != time.Hour {
		t.Errorf("extended by %v, MaxTokenLifetime of the signing key %v", d, s.signing(Access).MaxTokenLifetime)
	}
	// A shorter lifetime changes nothing, because longer tokens still exist.
	s.policy.Lifetimes[Access] = time.Minute
	if steps := s.settle(); len(steps) > 0 || s.signing(Access).MaxTokenLifetime != time.Hour {
		t.Errorf("%v", steps)
	}
	s.rotate("2")
	for _, k := range s.ring.Keys {
		if k.Use == Access && k.Phase == Retiring && k.RemoveAfter.Sub(k.PhaseSince) < time.Hour {
			t.Errorf("a key retires for only %v", k.RemoveAfter.Sub(k.PhaseSince))
		}
	}
}

func TestClockThatJumpsAheadRotatesOnceAndDropsNothing(t *testing.T) {
	s := newStory(t)
	s.rotate("1")
	verifying := len(JWKS(s.ring, Refresh, false).Keys)
	s.after(10 * 365 * 24 * time.Hour)
	if got := len(JWKS(s.ring, Refresh, false).Keys); got < verifying {
		t.Errorf("%d refresh keys verify, %d before", got, verifying)
	}
	generated := 0
	for range 2 * 24 { // two real days
		for _, step := range s.after(time.Hour) {
			if step.Action == Generate {
				generated++
			}
			if step.Action == Drop && step.Use == Refresh {
				t.Errorf("%v", step)
			}
		}
	}
	if generated > 0 {
		t.Errorf("%d more keys were generated", generated)
	}
	s.now = start.Add(3 * 24 * time.Hour) // the clock goes back again
	steps := s.settle()
	if brief(steps, Access) != "Wait/ClockWentBack " {
		t.Errorf("%v", steps)
	}
	for range 20 {
		for _, step := range s.after(24 * time.Hour) {
			if step.Action == Generate {
				t.Errorf("%v", step)
			}
		}
	}
}

func TestRotationIntervalThatIsTooSmallLosesNoKeys(t *testing.T) {
	s := newStory(t)
	s.policy.RotationInterval = time.Second
	most := 0
	for range 24 * 60 {
		for _, step := range s.after(time.Hour) {
			if step.Reason == RingFull {
				t.Fatal(step)
			}
		}
		most = max(most, len(s.ring.Keys))
	}
	if most > 2*(retiringByAge+4) {
		t.Errorf("%d keys at once", most)
	}
}

func TestRotationRequestsWithoutEndWaitForRoom(t *testing.T) {
	s := newStory(t)
	for i := range 3 * fullUse {
		s.policy.Rotate = "request " + string(rune('A'+i))
		s.lead()
	}
	if n := len(s.ring.Keys); n > 2*fullUse {
		t.Errorf("%d keys", n)
	}
	step := s.next()
	if step.Reason != RingFull || !step.When.After(s.now) {
		t.Errorf("%v at %v", step, step.When)
	}
	s.now = s.now.Add(30 * 24 * time.Hour)
	s.settle()
	s.after(15 * 24 * time.Hour)
	s.after(time.Hour)
	if s.after(time.Hour); !s.ring.Honoured(s.policy.Rotate) {
		t.Error("the rotation was not done although there is room")
	}
}

func TestApplyTakesAStepOnceAndLeavesItsArgument(t *testing.T) {
	s := newStory(t)
	s.policy.Rotate = "now"
	given, before, step := s.ring, string(s.ring.Files()[ringFile]), s.next()
	s.apply(step)
	once := s.ring
	s.apply(step)
	if s.ring.Generation != once.Generation || len(s.ring.Keys) != len(once.Keys) {
		t.Errorf("applied twice, the step gives generation %d and %d keys", s.ring.Generation, len(s.ring.Keys))
	}
	s.rotate("now")
	if after := string(given.Files()[ringFile]); after != before {
		t.Errorf("apply changed its argument:\n%s\n%s", before, after)
	}
}

func TestPolicyThatIsInvalidDoesNothing(t *testing.T) {
	for name, change := range map[string]func(*Policy){
		"algorithm":          func(p *Policy) { p.Algorithm = "HS256" },
		"rotation interval":  func(p *Policy) { p.RotationInterval = -1 },
		"publish lead":       func(p *Policy) { p.PublishLead = 0 },
		"clock skew":         func(p *Policy) { p.ClockSkew = -time.Second },
		"lifetime of access": func(p *Policy) { p.Lifetimes = map[Use]time.Duration{Refresh: time.Hour} },
		"lifetime of refresh": func(p *Policy) {
			p.Lifetimes = map[Use]time.Duration{Access: time.Hour, Refresh: 200 * 365 * 24 * time.Hour}
		},
		"request to rotate": func(p *Policy) { p.Rotate = strings.Repeat("x", 1000) },
	} {
		s := newStory(t)
		s.assumeSeen, s.policy.Rotate = false, "now"
		s.settle()
		s.assumeSeen = true // the lead would begin if the policy were valid
		change(&s.policy)
		if step := s.next(); step.Action != None || step.Reason != PolicyInvalid || !strings.Contains(step.Message, name) {
			t.Errorf("%s: %v", name, step)
		}
	}
}

// For every observation and time, next returns the same step twice and does not panic, and
// the ring that apply returns can be read back.
func TestNextIsPureAndItsStepsAreSound(t *testing.T) {
	base := newStory(t)
	base.rotate("1")
	base.policy.Rotate = "2"
	base.settle()
	rapid.Check(t, func(t *rapid.T) {
		policy := testPolicy()
		policy.Algorithm = rapid.SampledFrom([]Algorithm{ES256, EdDSA}).Draw(t, "algorithm")
		policy.RotationInterval = time.Duration(rapid.Int64Range(0, int64(maxLifetime)).Draw(t, "interval"))
		policy.Lifetimes[Refresh] = time.Duration(rapid.Int64Range(int64(time.Second), int64(maxLifetime)).Draw(t, "lifetime"))
		policy.Rotate = rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "rotate")
		observed := Observed{encryption: map[string]Encryption{}, Seen: map[string]bool{}}
		for _, k := range base.ring.Keys {
			if rapid.IntRange(0, 9).Draw(t, "revoke") == 0 {
				policy.Revoked = append(policy.Revoked, k.ID)
			}
			observed.encryption[k.ID] = rapid.SampledFrom([]Encryption{EncryptedUnknown, EncryptedCurrent, EncryptedFormer}).Draw(t, "seal")
			observed.Seen[k.ID] = rapid.Bool().Draw(t, "seen")
		}
		now := start.Add(time.Duration(rapid.Int64Range(-int64(maxLifetime), int64(maxLifetime)).Draw(t, "now")))

		a, b := nextStep(base.ring, policy, observed, now), nextStep(base.ring, policy, observed, now)
		if a.String() != b.String() || a.Use != b.Use || !a.When.Equal(b.When) {
			t.Fatalf("%v, then %v", a, b)
		}
		out, err := apply(modelFactory, base.ring, a, testPassphrases)
		if err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		if _, err := FromFiles(out.Files()); err != nil {
			t.Fatalf("%v: %v", a, err)
		}
	})
}

package keys
import ("testing";"os";"strconv";"strings";"time")
func TestZZ(t *testing.T) {
	from, _ := strconv.Atoi(os.Getenv("FROM")); to, _ := strconv.Atoi(os.Getenv("TO"))
	for seed := from; seed < to; seed++ {
		c := newCluster(uint64(seed), os.Getenv("BROKEN"))
		if found := c.run(clusterDisturbances); found != "" {
			lines := strings.Split(found, "\n")
			if os.Getenv("FULL") == "" { lines = lines[:1] }
			t.Errorf("seed %d: %s", seed, strings.Join(lines, "\n"))
		}
	}
}
func TestZM(t *testing.T) {
	to, _ := strconv.Atoi(os.Getenv("TO"))
	for _, m := range []string{withoutPassphrasesSwap, withoutRingSwap, withoutPublicSwap, withoutAnEnd, withoutReread, withoutEras, withoutPodLifetimes, withoutPublicSeen, withoutPodsSeen,
		withoutUnreadyGiven, withoutRollout, withoutUnreadyLoaded, deploymentFirst, deploymentBeforeRing, ringFirst, publicFirst, publicReadLast, ringReadFirst, podsReadFirst,
		adoptAtOnce, adoptWithoutFormer, adoptOverFormer, adoptTheOthers, adoptBack, adoptBlindly, adoptNothingWhenLost, withoutGiven, sealAtOnce, givenIsNotKept, withoutLoaded, forgetSealed, forgetInTheSamePass, withoutHeld, announceUnseen} {
		if w := os.Getenv("BROKEN"); w != "" && !strings.Contains(m, w) { continue }
		n, first, text := 0, -1, ""
		begin := time.Now()
		for seed := 0; seed < to && n < 3; seed++ {
			if found := newCluster(uint64(seed), m).run(clusterDisturbances); found != "" {
				if n++; first < 0 { first, text = seed, strings.SplitN(found, "\n", 2)[0] }
			}
		}
		t.Logf("%-65s %d first %d %.0fs: %.150s", m, n, first, time.Since(begin).Seconds(), text)
	}
}

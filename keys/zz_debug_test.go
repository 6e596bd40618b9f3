package keys
import ("testing";"os";"strconv";"strings")
func TestZZ(t *testing.T) {
	from, _ := strconv.Atoi(os.Getenv("FROM")); to, _ := strconv.Atoi(os.Getenv("TO"))
	for seed := from; seed < to; seed++ {
		c := newCluster(uint64(seed), os.Getenv("BROKEN"))
		begin := c.now
		defer func() { t.Logf("seed %d: %.1f years, %d passes, %d writes", seed, c.now.Sub(begin).Hours()/24/365, c.passes, c.writes) }()
		if found := c.run(clusterDisturbances); found != "" {
			lines := strings.Split(found, "\n")
			if os.Getenv("FULL") == "" { lines = lines[:1] }
			t.Errorf("seed %d: %s", seed, strings.Join(lines, "\n"))
		}
	}
}

package public

import (
	"math/rand/v2"
	"testing"
	"time"
)

// noise returns n random durations: about a millisecond each, and sometimes much more.
func noise(random *rand.Rand, n int) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = time.Millisecond + time.Duration(random.ExpFloat64()*float64(300*time.Microsecond))
		if random.IntN(20) == 0 {
			all[i] += time.Duration(random.ExpFloat64() * float64(10*time.Millisecond))
		}
	}
	return all
}

func TestTimingComparisonFindsOnlyRealDifferences(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	same := comparison{noise(random, 2000), noise(random, 2000)}
	if same.differs() {
		t.Errorf("two samples of the same noise differ: %v", same)
	}
	shifted := comparison{noise(random, 2000), noise(random, 2000)}
	for i := range shifted.known {
		shifted.known[i] += 2 * time.Millisecond
	}
	if !shifted.differs() || shifted.shift() < 1500*time.Microsecond {
		t.Errorf("a shift of 2 ms is not found: %v", shifted)
	}
	// One request in five takes another path, which the median does not show.
	mixed := comparison{noise(random, 2000), noise(random, 2000)}
	for i := range mixed.known {
		if i%5 == 0 {
			mixed.known[i] += 2 * time.Millisecond
		}
	}
	if !mixed.differs() {
		t.Errorf("another path for one request in five is not found: %v", mixed)
	}
	if p := same.power(2 * time.Millisecond); p != 1 {
		t.Errorf("the power at 2 ms is %v", p)
	}
	if p := same.power(0); p != 0 {
		t.Errorf("the power at 0 is %v", p)
	}
}

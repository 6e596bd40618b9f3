package public

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// alpha is the probability that the test finds a difference where there is none. With a dozen comparisons in a run, one
// run in 80,000 is a false alarm.
const alpha = 1e-6

// A comparison has the durations of requests of two kinds, which were sent alternately.
type comparison struct{ known, unknown []time.Duration }

// distance is the two-sample Kolmogorov-Smirnov statistic: the largest difference between the two empirical
// distributions. It detects not only a shift, but also a path that is taken occasionally.
func distance(a, b []time.Duration) float64 {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	var i, j int
	var most float64
	for i < len(a) && j < len(b) {
		at := min(a[i], b[j])
		for i < len(a) && a[i] == at {
			i++
		}
		for j < len(b) && b[j] == at {
			j++
		}
		most = max(most, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return most
}

// critical is the distance that two samples of n from the same distribution exceed with probability alpha (Smirnov's
// asymptotic bound).
func critical(n int) float64 {
	return math.Sqrt(-math.Log(alpha/2)/2) * math.Sqrt(2/float64(n))
}

// differs reports whether the two have different distributions.
func (c comparison) differs() bool {
	return distance(c.known, c.unknown) > critical(len(c.known))
}

// shift is how much longer a known account takes: the median of the differences of pairs. A busy machine, which slows
// both of a pair, hardly affects it.
func (c comparison) shift() time.Duration {
	differences := make([]time.Duration, len(c.known))
	for i := range c.known {
		differences[i] = c.known[i] - c.unknown[i]
	}
	return median(differences)
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// power is the share of tries in which the test finds a difference of this size in the noise of this run: two samples
// are drawn from the measurements, and one is shifted.
func (c comparison) power(shift time.Duration) float64 {
	const draws = 100
	random := rand.New(rand.NewPCG(1, uint64(len(c.known))))
	pool := slices.Concat(c.known, c.unknown)
	found := 0
	for range draws {
		drawn := comparison{make([]time.Duration, len(c.known)), make([]time.Duration, len(c.known))}
		for i := range drawn.known {
			drawn.known[i] = pool[random.IntN(len(pool))] + shift
			drawn.unknown[i] = pool[random.IntN(len(pool))]
		}
		if drawn.differs() {
			found++
		}
	}
	return float64(found) / draws
}

// finds is the smallest of several differences that the test finds in 99 of 100 tries.
func (c comparison) finds() string {
	for shift := 25 * time.Microsecond; shift <= 2*time.Millisecond; shift *= 2 {
		if c.power(shift) >= 0.99 {
			return shift.String()
		}
	}
	return "none of 2ms or less"
}

func (c comparison) String() string {
	return fmt.Sprintf("%d pairs, median %v and %v, shift %v, distance %.3f of %.3f, would have found %s",
		len(c.known), median(c.known).Round(time.Microsecond), median(c.unknown).Round(time.Microsecond),
		c.shift().Round(100*time.Nanosecond), distance(c.known, c.unknown), critical(len(c.known)), c.finds())
}

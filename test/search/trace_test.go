package search

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	searchTime = flag.Duration("search.time", 90*time.Second, "how long each search goes on")
	searchSeed = flag.Uint64("search.seed", 0, "the seed of the first run; 0: another each time")
	searchSkip = flag.String("search.skip", "", "a regular expression: findings whose rule it matches are passed over")
	searchAll  = flag.Bool("search.all", false, "go on after a finding, and list all kinds of them")
)

// A trace is the sequence of steps of a run. Each step makes its choices with its own seed, so it does not change if
// others are left out. Choices for the whole run use the seed of the trace.
type trace struct {
	seed  uint64
	steps []uint64
}

func newTrace(seed uint64) trace {
	r := random(seed)
	t := trace{seed, make([]uint64, 4+r.IntN(20))}
	for i := range t.steps {
		t.steps[i] = r.Uint64()
	}
	return t
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// A finding is a trace that breaks a rule, and its result.
type finding struct {
	rule string
	log  []string
}

// shrink removes what a finding does not need while the same rule is broken: first whole parts, then single steps.
func shrink(t trace, f *finding, run func(trace) *finding) (trace, *finding) {
	for size := len(t.steps) / 2; size > 0; {
		smaller := false
		for at := 0; at+size <= len(t.steps); {
			less := trace{t.seed, slices.Delete(slices.Clone(t.steps), at, at+size)}
			if again := run(less); again != nil && again.rule == f.rule {
				t, f, smaller = less, again, true
			} else {
				at += size
			}
		}
		if size > 1 || !smaller {
			size /= 2
		}
	}
	return t, f
}

// explore runs traces until the time is over, and reports the first finding in its shortest form.
func explore(t *testing.T, run func(trace) *finding) {
	t.Helper()
	seed := *searchSeed
	if seed == 0 {
		seed = rand.Uint64() >> 16
	}
	t.Logf("from seed %d", seed)
	began, first, seen := time.Now(), seed, map[string]bool{}
	for left := *searchTime; left > 0; left = *searchTime - time.Since(began) {
		steps, f := look(t, &seed, left, run)
		if f == nil {
			break
		}
		steps, f = shrink(steps, f, run)
		kind := f.rule + signature(f.log)
		if *searchAll && seen[kind] {
			continue
		}
		seen[kind] = true
		t.Errorf("%s, after %v; go test ./test/search -run '%s' -search.seed %d\n%s",
			f.rule, time.Since(began).Round(time.Second), t.Name(), steps.seed, strings.Join(f.log, "\n"))
		if !*searchAll {
			break
		}
	}
	t.Logf("%d runs", seed-first)
}

// look runs traces with consecutive seeds until one breaks a rule or the time is over. A race may take several tries to
// recur. A finding that does not recur comes from background work of a server.
func look(t *testing.T, seed *uint64, within time.Duration, run func(trace) *finding) (trace, *finding) {
	skip := regexp.MustCompile("^(" + *searchSkip + ")$")
	for began := time.Now(); time.Since(began) < within; {
		steps := newTrace(*seed)
		*seed++
		f := run(steps)
		if f == nil || skip.MatchString(f.rule) {
			continue
		}
		for range 5 {
			if again := run(steps); again != nil && again.rule == f.rule {
				return steps, f
			}
		}
		t.Logf("seed %d: %q is not found a second time\n%s", steps.seed, f.rule, strings.Join(f.log, "\n"))
	}
	return trace{}, nil
}

// signature returns the actions without their parameters.
func signature(log []string) string {
	var all []string
	for _, line := range log {
		words := strings.Fields(line)
		if len(words) > 2 && !strings.HasPrefix(line, " ") {
			all = append(all, strings.Join(words[:3], " "))
		}
	}
	return strings.Join(all, "; ")
}

func claimsOf(token string) []byte {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return []byte("{}")
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	return claims
}

func usernameOf(token string) string {
	var claims struct{ Username string }
	_ = json.Unmarshal(claimsOf(token), &claims)
	return claims.Username
}

// numbers gives each run of the process its own number.
var numbers struct {
	sync.Mutex
	next int
}

func nextNumber() int {
	numbers.Lock()
	defer numbers.Unlock()
	numbers.next++
	return numbers.next
}

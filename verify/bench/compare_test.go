package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

// TestVerifyAllocatesLeast counts allocations, which do not depend on the load of the machine. With -v it also shows
// times: the fastest of many short rounds in which the libraries take turns, so a busy machine disturbs all of them.
func TestVerifyAllocatesLeast(t *testing.T) {
	rounds, repeat := 1, 1
	if testing.Verbose() {
		rounds, repeat = 300, 10
	}
	var table strings.Builder
	for _, algorithm := range []string{verifytest.ES256, verifytest.RS256, verifytest.EdDSA} {
		issuer := verifytest.NewIssuer(t, verifytest.Algorithm(algorithm))
		token := issuer.Token()
		all := libraries(t, issuer, algorithm)
		fastest, allocations := make([]time.Duration, len(all)), make([]float64, len(all))
		for i, l := range all {
			fastest[i] = time.Hour
			allocations[i] = testing.AllocsPerRun(50, func() {
				if _, _, err := l.verify(token); err != nil {
					t.Fatal(l.name, err)
				}
			})
		}
		for range rounds {
			for i, l := range all {
				begin := time.Now()
				for range repeat {
					_, _, _ = l.verify(token)
				}
				fastest[i] = min(fastest[i], time.Since(begin)/time.Duration(repeat))
			}
		}
		for i, l := range all {
			fmt.Fprintf(&table, "%-6s %-14s %8d ns/op %5.0f allocs/op\n", algorithm, l.name, fastest[i].Nanoseconds(), allocations[i])
		}
		// The first is this module without its cache, the last with it.
		if least := slices.Min(allocations[1 : len(all)-1]); allocations[0] > least {
			t.Errorf("%s: %v allocations, and another library %v", algorithm, allocations[0], least)
		}
	}
	t.Log("\n" + table.String())
}

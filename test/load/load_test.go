package main

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The floor runs in a separate process; in a test that is the test binary.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		exit(play(role))
	}
	testenv.Main(m)
}

func TestPercentileIsAValueThatOccurred(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 0.99, 0},
		{hundred[:1], 0, 1},
		{hundred[:1], 0.99, 1},
		{hundred[:2], 0.5, 1},
		{hundred[:3], 0.5, 2},
		{hundred[:99], 0.99, 99},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
		{hundred, 1, 100},
	} {
		if got := percentile(tt.sorted, tt.p); got != tt.want {
			t.Errorf("percentile %g of %d values = %d, want %d", tt.p, len(tt.sorted), got, tt.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 100, 2}, 3}} {
		before := slices.Clone(tt.values)
		if got := median(tt.values); got != tt.want || !slices.Equal(before, tt.values) {
			t.Errorf("median(%v) = %v, want %v and unchanged values", before, got, tt.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v", got)
	}
}

func TestTheRatioIsThatOfRoundsNotOfMedians(t *testing.T) {
	// In the second round the machine was half as fast for both.
	c := compared{server: candidate{rates: []float64{90, 45, 100}}, floor: candidate{rates: []float64{100, 50, 100}}}
	if middle, least, most := c.ratio(); middle != 0.9 || least != 0.9 || most != 1 {
		t.Errorf("ratio = %v (%v to %v)", middle, least, most)
	}
	if middle, _, _ := (compared{}).ratio(); !math.IsNaN(middle) {
		t.Errorf("ratio of no rounds = %v", middle)
	}
}

func TestVerdicts(t *testing.T) {
	var out strings.Builder
	r := report{to: &out}
	r.table("Storm", "a", "b")
	r.atMost("slow", 15, "ms", 15, "")
	r.atMost("quick", 14.9, "ms", 15, "")
	r.atLeast("few", 89.9, "%", 90, "")
	r.atLeast("enough", 90, "%", 90, "")
	if want := []string{"Storm: slow", "Storm: few"}; !slices.Equal(r.missed, want) {
		t.Errorf("missed %q, want %q\n%s", r.missed, want, out.String())
	}
}

func TestMember(t *testing.T) {
	body := []byte(`{"access_token":"a.b.c","refresh_token":"d.e.f"}`)
	if a, r, none := member(body, "access_token"), member(body, "refresh_token"), member(body, "code"); a != "a.b.c" ||
		r != "d.e.f" || none != "" {
		t.Errorf("members: %q, %q, %q", a, r, none)
	}
}

// The smoke test runs every part and judges no figure.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("starts PostgreSQL and the server")
	}
	program := testenv.Program(t, "./cmd/authserver")
	var out strings.Builder
	b := bench{report: report{to: &out}, program: program}
	b.beQuick()
	if err := b.run(t.Context(), "size,throughput,storm,endings,accounts,bulk,replicas,growth,cleanup"); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"| binary |", "| GET /tokens/keys | 8 |", "| GET /users | 1 |", "| POST /tokens, rotating | 32 |",
		"| GET /healthz, p99 |",
		"| CPU of the server, 100 consumers wait |", "| import, of COPY |", "| suspended, p95 |", "| beside an import, p99 of that",
		"| audit_events | ", "| POST /tokens/signin, p99 of that without | ", "| removed sessions | ", "| statements that read a large table | 0.0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the report:\n%s", want, out.String())
		}
	}
	if text := out.String(); !strings.Contains(text, "| POST /tokens, rotating | 4 |") &&
		!strings.Contains(text, "Replicas under a CPU limit are not possible") {
		t.Errorf("the report has no replicas:\n%s", text)
	}
}

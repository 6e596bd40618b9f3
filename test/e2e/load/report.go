package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is the result of a load.
type Report struct {
	Seconds float64 `json:"seconds"` // duration of the load

	Sent   int `json:"sent"`
	Good   int `json:"good"`   // got the correct reply, perhaps after retries
	Failed int `json:"failed"` // got no reply, or a 5xx or 429
	Wrong  int `json:"wrong"`  // got a reply that is not true

	Answers  map[string]int `json:"answers"` // tries by status, or "none" without a reply
	Retried  int            `json:"retried"`
	Rejected int            `json:"rejected"` // sign-ins that were repeated after a 503 with Retry-After

	LongestGap time.Duration `json:"longestGap"` // longest time without a correct reply
	Failures   []Incident    `json:"failures"`   // only the first ones
	Wrongs     []Incident    `json:"wrongs"`

	Tokens    map[string]int     `json:"tokens"`    // access tokens by kid
	Checks    map[string]*Checks `json:"checks"`    // by the name of the consumer
	Surprises int                `json:"surprises"` // times that the cached JWKS lacked the key of a token
}

// Incident is a request that failed or got a wrong reply.
type Incident struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Text string    `json:"text"`
}

// Checks are the verifications of one consumer.
type Checks struct {
	Verified int       `json:"verified"`
	Refused  int       `json:"refused"`
	Refusals []Refusal `json:"refusals"` // only the first ones
}

// Refusal is a valid token that a consumer rejected.
type Refusal struct {
	At       time.Time `json:"at"`
	KID      string    `json:"kid"`
	IssuedAt time.Time `json:"issuedAt"`
	Why      string    `json:"why"`
}

// some is the number of incidents that are kept with details.
const some = 10

func (c *Checks) add(t *trackedToken, err error) {
	if err == nil {
		c.Verified++
		return
	}
	c.Refused++
	if len(c.Refusals) < some {
		c.Refusals = append(c.Refusals, Refusal{time.Now(), t.kid, t.issued, err.Error()})
	}
}

// String returns a summary in one line.
func (r Report) String() string {
	counts := func(of map[string]int) string {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(of)) {
			all = append(all, fmt.Sprintf("%.8s: %d", k, of[k]))
		}
		return strings.Join(all, ", ")
	}
	var checks []string
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		checks = append(checks, fmt.Sprintf("%s %d and %d", name, r.Checks[name].Verified, r.Checks[name].Refused))
	}
	return fmt.Sprintf("%d sent in %.0f s: %d failed, %d wrong, %d tried again, %d rejected (%s); "+
		"longest gap %s; tokens %s; verified and refused by %s",
		r.Sent, r.Seconds, r.Failed, r.Wrong, r.Retried, r.Rejected, counts(r.Answers), r.LongestGap.Round(time.Millisecond), counts(r.Tokens),
		strings.Join(checks, ", "))
}

// Refused returns how many valid tokens the consumers rejected.
func (r Report) Refused() (n int) {
	for _, c := range r.Checks {
		n += c.Refused
	}
	return n
}

// Details returns the incidents, one a line.
func (r Report) Details() string {
	const clock = "15:04:05.000"
	var out strings.Builder
	for what, all := range map[string][]Incident{"failed": r.Failures, "wrong": r.Wrongs} {
		for _, i := range all {
			fmt.Fprintf(&out, "%s %s: %s: %s\n", i.At.Format(clock), what, i.What, i.Text)
		}
	}
	for name, c := range r.Checks {
		for _, i := range c.Refusals {
			fmt.Fprintf(&out, "%s refused by %s: kid %s, issued %s: %s\n", i.At.Format(clock), name, i.KID, i.IssuedAt.Format(clock), i.Why)
		}
	}
	return out.String()
}

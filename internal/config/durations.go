package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// duration parses Go's form (15m, 1h30m), optionally after a number of days (7d, 1d12h), or a number of seconds.
func duration(low, high time.Duration) parser[time.Duration] {
	return parser[time.Duration]{
		parse: func(s string) (time.Duration, error) {
			d, err := parseDuration(s)
			if err != nil {
				return 0, fmt.Errorf("%s is not a duration: "+
					"write seconds, such as 900, or a number with d, h, m, s or ms, such as 15m or 7d", quote(s))
			}
			if d < low || d > high {
				return 0, fmt.Errorf("%s is out of range: write a duration from %s to %s",
					quote(s), formatDuration(low), formatDuration(high))
			}
			return d, nil
		},
		format: formatDuration,
	}
}

// wholeSeconds parses a duration that is written into a token or a reply, which have no smaller unit.
func wholeSeconds(low, high time.Duration) parser[time.Duration] {
	k := duration(low, high)
	parse := k.parse
	k.parse = func(s string) (time.Duration, error) {
		d, err := parse(s)
		if err == nil && d%time.Second != 0 {
			return 0, fmt.Errorf("%s is not a whole number of seconds: round it", quote(s))
		}
		return d, err
	}
	return k
}

// seconds formats as a number without a unit, as OAuth writes lifetimes (RFC 6749 section 5.1).
func seconds(low, high time.Duration) parser[time.Duration] {
	k := wholeSeconds(low, high)
	k.format = func(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
	return k
}

func parseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		// Clamp to the range of Duration: every setting's range refuses the largest.
		n = min(max(n, math.MinInt64/int64(time.Second)), math.MaxInt64/int64(time.Second))
		return time.Duration(n) * time.Second, nil
	}
	days, rest, found := strings.Cut(s, "d")
	if !found {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	if rest == "" {
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || rest[0] == '+' {
		return 0, fmt.Errorf("%s does not follow a number of days", quote(rest))
	}
	return time.Duration(n)*day + d, nil
}

// formatDuration returns 720h for what Duration.String writes as 720h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const rateOff = "off"

// rate parses a limit such as 30/5m, or off.
var rate = parser[Rate]{
	parse: func(s string) (Rate, error) {
		if s == rateOff {
			return Rate{}, nil
		}
		count, per, ok := strings.Cut(s, "/")
		n, err := integer(1, 100_000).parse(count)
		if !ok || err != nil {
			return Rate{}, fmt.Errorf("%s is not a rate limit: "+
				"write a number from 1 to 100000, a slash and a duration, such as 30/5m, or %s", quote(s), rateOff)
		}
		d, err := duration(time.Second, day).parse(per)
		if err != nil {
			return Rate{}, err
		}
		return Rate{Count: n, Per: d}, nil
	},
	format: func(r Rate) string {
		if r == (Rate{}) {
			return rateOff
		}
		return strconv.Itoa(r.Count) + "/" + formatDuration(r.Per)
	},
}

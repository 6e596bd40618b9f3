package config

import (
	"fmt"
	"slices"
	"strings"
)

// minMissed is the minimum length of a name that is reported. Shorter names often belong
// to other programs: HOME is two letters from HOST.
const minMissed = 7

// NearMisses returns a warning for each variable of the environment (NAME=value, or
// NAME) that differs from a setting by a letter or two, and therefore has no effect.
func NearMisses(environ []string) (warnings []string) {
	known := make([]string, 0, 2*len(table))
	for _, s := range table {
		known = append(known, s.Name)
		if s.Secret {
			known = append(known, s.Name+FileSuffix)
		}
	}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if len(name) < minMissed || slices.Contains(known, name) {
			continue
		}
		nearest, least := "", 3
		for _, setting := range known {
			if d := distance(strings.ToUpper(name), setting); d < least && d*4 < len(setting) {
				nearest, least = setting, d
			}
		}
		if nearest != "" {
			warnings = append(warnings, fmt.Sprintf("%s is not a setting and has no effect: did you mean %s?", name, nearest))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// distance returns the number of changes, insertions, deletions and swaps of neighboring letters that turn a into b
// (optimal string alignment). It returns 3 for any larger difference in length.
func distance(a, b string) int {
	if n := len(a) - len(b); n < -2 || n > 2 {
		return 3
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

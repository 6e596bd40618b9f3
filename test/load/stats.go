package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// percentile returns the nearest rank: a fraction p of the values is at most as large. It always is a value that
// occurred, so a p99 never looks better than a real request.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// compared is the result of two candidates in the same rounds.
type compared struct{ server, floor candidate }

type candidate struct {
	rates    []float64
	requests int
	cpu      time.Duration // of its process for these requests
}

// perRequest depends less than the rates on what else runs on the machine.
func (c candidate) perRequest() float64 {
	return float64(c.cpu.Microseconds()) / float64(max(c.requests, 1))
}

// ratio returns the median of the rounds' ratios: other load on the machine varies, and affects both halves of a round.
func (c compared) ratio() (middle, least, most float64) {
	ratios := make([]float64, len(c.server.rates))
	for i := range ratios {
		ratios[i] = c.server.rates[i] / c.floor.rates[i]
	}
	if len(ratios) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	return median(ratios), slices.Min(ratios), slices.Max(ratios)
}

func verdict(pass bool) string {
	if pass {
		return "pass"
	}
	return "**MISS**"
}

// report writes the figures as Markdown.
type report struct {
	to      io.Writer
	section string
	missed  []string
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(r.to, format, args...) }

func (r *report) table(title string, columns ...string) {
	r.section = title
	r.printf("\n### %s\n\n| %s |\n|%s\n", title, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

func (r *report) ratio(what string, connections int, c compared, target float64, remarks string) {
	middle, least, most := c.ratio()
	r.note(fmt.Sprintf("%s at %d", what, connections), middle >= target)
	r.printf("| %s | %d | %.0f | %.0f | %.1f %% (%.0f to %.0f) | %.0f %% | %s | %.0f, %.0f | %s |\n", what, connections,
		median(c.server.rates), median(c.floor.rates), 100*middle, 100*least, 100*most, 100*target, verdict(middle >= target),
		c.server.perRequest(), c.floor.perRequest(), remarks)
}

func (r *report) atMost(what string, value float64, unit string, below float64, remarks string) {
	r.figure(what, value, unit, "<", below, value < below, remarks)
}

func (r *report) atLeast(what string, value float64, unit string, least float64, remarks string) {
	r.figure(what, value, unit, "≥", least, value >= least, remarks)
}

func (r *report) figure(what string, value float64, unit, sign string, target float64, pass bool, remarks string) {
	r.note(what, pass)
	r.printf("| %s | %.1f %s | %s %g %s | %s | %s |\n", what, value, unit, sign, target, unit, verdict(pass), remarks)
}

func (r *report) note(what string, pass bool) {
	if !pass {
		r.missed = append(r.missed, r.section+": "+what)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

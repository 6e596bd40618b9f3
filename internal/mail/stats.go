package mail

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Failure is why an attempt to send a mail failed.
type Failure string

// Why attempts fail.
const (
	FailedCarrier   Failure = "carrier"   // no mail could be handed over; the attempt does not count
	FailedPostponed Failure = "postponed" // this one was not taken, for now
	FailedRefused   Failure = "refused"   // this one was refused for good
	FailedInternal  Failure = "internal"  // a template, or a fault of ours
)

// Failures are all that there are.
var Failures = []Failure{FailedCarrier, FailedPostponed, FailedRefused, FailedInternal}

// OtherPurpose counts mails of purposes that this version does not know.
const OtherPurpose identity.MessagePurpose = "other"

// Purposes are all that Stats counts.
var Purposes = append(slices.Clone(purposes), OtherPurpose)

// Stats count what a Deliverer has done since it was made. Every purpose is in every
// map, from the beginning.
type Stats struct {
	Sent    map[identity.MessagePurpose]uint64
	Failed  map[identity.MessagePurpose]map[Failure]uint64 // attempts
	GivenUp map[identity.MessagePurpose]uint64

	Paused bool // the carrier is in trouble
	Queued int  // mails in the outbox of all replicas, seconds ago
	Oldest time.Duration
}

func newStats() Stats {
	s := Stats{
		Sent:    map[identity.MessagePurpose]uint64{},
		Failed:  map[identity.MessagePurpose]map[Failure]uint64{},
		GivenUp: map[identity.MessagePurpose]uint64{},
	}
	for _, p := range Purposes {
		s.Sent[p], s.GivenUp[p] = 0, 0
		s.Failed[p] = map[Failure]uint64{}
		for _, f := range Failures {
			s.Failed[p][f] = 0
		}
	}
	return s
}

// Stats gives the numbers as they are now.
func (d *Deliverer) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Sent, s.GivenUp, s.Failed = maps.Clone(s.Sent), maps.Clone(s.GivenUp), maps.Clone(s.Failed)
	for p := range s.Failed {
		s.Failed[p] = maps.Clone(s.Failed[p])
	}
	d.lines.mu.Lock()
	defer d.lines.mu.Unlock()
	s.Paused = d.lines.fell > 0
	return s
}

func (d *Deliverer) count(change func(*Stats)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.stats)
}

func (d *Deliverer) failed(m identity.Message, f Failure) {
	d.count(func(s *Stats) { s.Failed[label(m.Purpose)][f]++ })
}

// label bounds the number of series that metrics have.
func label(p identity.MessagePurpose) identity.MessagePurpose {
	if slices.Contains(purposes, p) {
		return p
	}
	return OtherPurpose
}

// watch looks now and then how much waits. Where that cannot be read, the last numbers
// stay: that the database is away is told elsewhere.
func (d *Deliverer) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		d.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *Deliverer) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	var queued int
	var oldest time.Duration
	err := func() (err error) {
		defer recovered(&err)
		queued, oldest, err = d.outbox.CountMails(ctx)
		return err
	}()
	if err != nil {
		d.log.Debug("the outbox could not be counted", "error", err)
		return
	}
	d.count(func(s *Stats) { s.Queued, s.Oldest = queued, oldest })
}

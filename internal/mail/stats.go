package mail

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Failure is why an attempt to send a mail failed.
type Failure string

// The reasons. Their values are labels of a metric.
const (
	FailedTransport Failure = "carrier"   // no mail could be sent; the attempt does not count
	FailedPostponed Failure = "postponed" // this mail was not accepted for now
	FailedRefused   Failure = "refused"   // this mail was refused permanently
	FailedInternal  Failure = "internal"  // a template, or a bug here
)

// Failures lists all reasons.
var Failures = []Failure{FailedTransport, FailedPostponed, FailedRefused, FailedInternal}

// OtherPurpose stands for purposes that this version does not know.
const OtherPurpose identity.MessagePurpose = "other"

// Purposes lists what Stats counts by.
var Purposes = append(identity.MessagePurposes(), OtherPurpose)

// Stats counts what a Deliverer has done since its start. Every map has every purpose from the start.
type Stats struct {
	Sent    map[identity.MessagePurpose]uint64
	Failed  map[identity.MessagePurpose]map[Failure]uint64 // attempts
	GivenUp map[identity.MessagePurpose]uint64

	Paused bool // the transport fails
	Queued int  // mails in the outbox of all replicas, some seconds ago
	Oldest time.Duration

	LastError string // of an attempt, without recipient and code; empty: none
	FailedAt  time.Time
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

// Stats returns the current numbers.
func (d *Deliverer) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Sent, s.GivenUp, s.Failed = maps.Clone(s.Sent), maps.Clone(s.GivenUp), maps.Clone(s.Failed)
	for p := range s.Failed {
		s.Failed[p] = maps.Clone(s.Failed[p])
	}
	s.Paused = d.sending.Tripped()
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

// note keeps the error of an attempt for administrators. Only the errors whose texts have no recipient are kept as they
// are.
func (d *Deliverer) note(err error) {
	text := "a mail could not be written or sent; the log of the server has the cause"
	if e, ok := errors.AsType[*TransportError](err); ok {
		text = e.Error()
	} else if e, ok := errors.AsType[*MailError](err); ok {
		text = e.Error()
	}
	d.count(func(s *Stats) { s.LastError, s.FailedAt = text, time.Now() })
}

// label bounds the number of series of the metrics.
func label(p identity.MessagePurpose) identity.MessagePurpose {
	if slices.Contains(purposes, p) {
		return p
	}
	return OtherPurpose
}

// watch counts the outbox from time to time. If that fails, the last numbers stay; other
// metrics show that the database is unavailable.
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
	var queued int
	var oldest time.Duration
	err := bounded(ctx, claimTimeout, func(ctx context.Context) (err error) {
		queued, oldest, err = d.outbox.CountMails(ctx)
		return err
	})
	if err != nil {
		d.log.Debug("failed to count the outbox", "error", err)
		return
	}
	d.count(func(s *Stats) { s.Queued, s.Oldest = queued, oldest })
}

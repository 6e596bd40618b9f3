package authserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/internal/mail"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/tracing"
	"github.com/auth-gateway/auth-gateway/keys"
)

func newMetrics(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "authgateway_build_info", Help: "Always 1. The label is the version of the program.",
			ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
	)
	return r
}

// collector reads the counters of the parts when Prometheus scrapes them.
type collector struct {
	store    *postgres.Store
	hasher   *identity.Hasher
	accounts *identity.Service
	keyring  *keyring.Keyring
	endings  *endings.Feed
	mail     *mail.Deliverer // nil: no mail is sent
	events   *events.Sender  // nil: no events are announced
	tracer   *tracing.Tracer // nil: traces are off
	database func() bool     // reports whether it is available
	now      func() time.Time
}

var (
	hashingJobs = desc("hashing_jobs",
		"Passwords that wait for the hashing threads or are being hashed, by state.", "state")
	hashingTotal = desc("hashing_jobs_total",
		"Passwords by outcome: done, \"shed\" (rejected because the wait would be too long), or gone (the client "+
			"disconnected).", "outcome")
	hashingWait = desc("hashing_wait_seconds_total",
		"Time that the hashed passwords waited for a hashing thread, in total.")
	hashingWork   = desc("hashing_work_seconds_total", "Time that hashing passwords took, in total.")
	sessionsTotal = desc("sessions_total",
		"Session events: opened, renewed, ended by reuse of a refresh token, and ended by the owner.", "event")
	limitedTotal = desc("limited_requests_total",
		"Requests refused because one client address or one user exceeded a limit, by limit.", "limit")
	refusedTotal = desc("refused_tries_total",
		"Attempts that were refused and are not counted elsewhere, by reason: throttled (a password during "+
			"the wait after wrong ones), stale (a right password of an account that changed in the meantime), "+
			"not_verified (a right password of an unverified sign-up), code (an invalid one-time code).", "reason")
	migrationsTotal = desc("password_migrations_total",
		"Questions to PASSWORD_MIGRATION_URL by outcome: migrated (the password was right and is stored now), refused "+
			"(it was wrong, or no account waits for it), unavailable (there was no answer in time). Absent if it is not set.",
		"outcome")
	databaseUp = desc("database_up",
		"Whether the database answered and accepted writes at the last check. It is checked every two "+
			"seconds.")
	poolConnections = desc("database_connections", "Connections of the pool, by state.", "state")
	poolWaits       = desc("database_connection_waits_total", "Calls that had to wait for a connection.")
	poolWaited      = desc("database_connection_wait_seconds_total", "Total time that calls waited for a connection.")
	poolGaveUp      = desc("database_connection_timeouts_total",
		"Calls that timed out while waiting for a connection.")
	mailsSent = desc("mails_sent_total",
		"Mails accepted by the SMTP server or the webhook, by purpose.", "purpose")
	mailFailures = desc("mail_failures_total",
		"Failed attempts to send a mail, by reason: carrier (the server is unavailable for all mail), "+
			"postponed, refused (permanently), internal.", "purpose", "reason")
	mailsGivenUp = desc("mails_given_up_total",
		"Mails that will not be sent because they were permanently refused or are too old, by purpose.", "purpose")
	mailsQueued = desc("mails_queued",
		"Mails in the queue that all replicas share. Every replica reports the same value.")
	mailsOldest     = desc("mails_oldest_seconds", "Age of the oldest mail in the queue.")
	mailPaused      = desc("mail_paused", "Whether this replica has paused sending because no mail is accepted.")
	eventsDelivered = desc("events_delivered_total", "Events of accounts that the event webhook has accepted.")
	eventFailures   = desc("event_failures_total", "Attempts to send an event of an account that the event webhook has not accepted.")
	eventsGivenUp   = desc("events_given_up_total",
		"Events of accounts that will not be sent because the event webhook has not accepted them in time.")
	eventsOldest = desc("events_oldest_seconds",
		"Age of the oldest event of an account that the event webhook has not accepted. Every replica reports the same value.")
	eventsPaused = desc("events_paused", "Whether this replica has paused because the event webhook accepts nothing.")
	traceSpans   = desc("trace_spans_total",
		"Spans of traces by outcome: exported, failed (the collector did not accept them), or dropped (too many waited). "+
			"Absent if traces are off.", "outcome")
	keyAge      = desc("signing_key_age_seconds", "Age of a key.", "use", "kid", "phase")
	keyPhaseAge = desc("signing_key_phase_seconds", "Time since a key entered its phase.", "use", "kid", "phase")
	keyInterval = desc("key_rotation_interval_seconds",
		"The age at which this server replaces a signing key: KEY_ROTATION_INTERVAL, or longer if tokens "+
			"have a very long lifetime. Absent if the operator rotates the keys.", "use")
	keyGeneration = desc("key_ring_generation",
		"Generation of the key ring in use. Replicas may differ briefly after a change.")
	endingsHeld = desc("endings_held",
		"Sessions that ended, and keys that were revoked, that this replica reports to consumers.")
	endingsAge = desc("endings_age_seconds",
		"Time since this replica last read which sessions have ended, or began to try. It reads once a second while "+
			"there are consumers; otherwise the metric is absent.")
	keyFailures = desc("key_ring_reload_failures_total",
		"Failed attempts to reload the key ring. The last valid ring stays in use.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("authgateway_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		hashingJobs, hashingTotal, hashingWait, hashingWork, sessionsTotal, limitedTotal, refusedTotal, migrationsTotal,
		databaseUp, poolConnections, poolWaits, poolWaited, poolGaveUp,
		mailsSent, mailFailures, mailsGivenUp, mailsQueued, mailsOldest, mailPaused,
		eventsDelivered, eventFailures, eventsGivenUp, eventsOldest, eventsPaused, traceSpans,
		keyAge, keyPhaseAge, keyInterval, keyGeneration, keyFailures, endingsHeld, endingsAge,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	hashing := c.hasher.Stats()
	gauge(hashingJobs, float64(hashing.Waiting), "waiting")
	gauge(hashingJobs, float64(hashing.Running), "running")
	counter(hashingTotal, float64(hashing.Done), "done")
	counter(hashingTotal, float64(hashing.Rejected), "shed")
	counter(hashingTotal, float64(hashing.Canceled), "gone")
	waited, worked := c.hasher.Times()
	counter(hashingWait, waited.Seconds())
	counter(hashingWork, worked.Seconds())

	sessions := c.accounts.Stats()
	counter(sessionsTotal, float64(sessions.SessionsOpened), "opened")
	counter(sessionsTotal, float64(sessions.SessionsRenewed), "renewed")
	counter(sessionsTotal, float64(sessions.SessionsReused), "ended_by_reuse")
	counter(sessionsTotal, float64(sessions.SessionsEnded), "ended")

	for _, class := range identity.LimitClasses() {
		counter(limitedTotal, float64(c.accounts.Limited(class)), string(class))
	}

	for _, r := range identity.Refusals() {
		counter(refusedTotal, float64(c.accounts.Refused(r)), string(r))
	}

	if m, ok := c.accounts.MigrationStats(); ok {
		counter(migrationsTotal, float64(m.Migrated), "migrated")
		counter(migrationsTotal, float64(m.Refused), "refused")
		counter(migrationsTotal, float64(m.Unavailable), "unavailable")
	}

	up := 0.0
	if c.database() {
		up = 1
	}
	gauge(databaseUp, up)
	pool := c.store.Stats()
	gauge(poolConnections, float64(pool.Max), "max")
	gauge(poolConnections, float64(pool.Acquired), "acquired")
	gauge(poolConnections, float64(pool.Idle), "idle")
	counter(poolWaits, float64(pool.Waits))
	counter(poolWaited, pool.Waited.Seconds())
	counter(poolGaveUp, float64(pool.GaveUp))

	if c.mail != nil {
		stats := c.mail.Stats()
		for _, purpose := range mail.Purposes {
			counter(mailsSent, float64(stats.Sent[purpose]), string(purpose))
			counter(mailsGivenUp, float64(stats.GivenUp[purpose]), string(purpose))
			for _, reason := range mail.Failures {
				counter(mailFailures, float64(stats.Failed[purpose][reason]), string(purpose), string(reason))
			}
		}
		gauge(mailsQueued, float64(stats.Queued))
		gauge(mailsOldest, stats.Oldest.Seconds())
		paused := 0.0
		if stats.Paused {
			paused = 1
		}
		gauge(mailPaused, paused)
	}

	if c.events != nil {
		stats := c.events.Stats()
		counter(eventsDelivered, float64(stats.Delivered))
		counter(eventFailures, float64(stats.Failed))
		counter(eventsGivenUp, float64(stats.GivenUp))
		gauge(eventsOldest, stats.Oldest.Seconds())
		paused := 0.0
		if stats.Paused {
			paused = 1
		}
		gauge(eventsPaused, paused)
	}

	if c.tracer != nil {
		stats := c.tracer.Stats()
		counter(traceSpans, float64(stats.Exported), "exported")
		counter(traceSpans, float64(stats.Failed), "failed")
		counter(traceSpans, float64(stats.Dropped), "dropped")
	}

	if c.keyring == nil { // a server for administrators only
		return
	}
	if stats := c.endings.Stats(); stats.Awake {
		gauge(endingsHeld, float64(stats.Held))
		gauge(endingsAge, stats.Age.Seconds())
	}

	ring, now := c.keyring.Ring(), c.now()
	gauge(keyGeneration, float64(ring.Generation))
	for _, use := range keys.Uses() {
		if interval := c.keyring.RotationInterval(*ring, use); interval > 0 {
			gauge(keyInterval, interval.Seconds(), string(use))
		}
	}
	counter(keyFailures, float64(c.keyring.Failures()))
	for _, k := range ring.Keys {
		labels := []string{string(k.Use), k.ID, string(k.Phase.Public())}
		gauge(keyAge, now.Sub(k.Created).Seconds(), labels...)
		gauge(keyPhaseAge, now.Sub(k.PhaseSince).Seconds(), labels...)
	}
}

var _ prometheus.Collector = collector{}

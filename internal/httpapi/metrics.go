package httpapi

import (
	"cmp"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are rate, errors and duration by route. Unknown paths share one label, so that clients
// cannot create an unlimited number of series.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge

	mu     sync.Mutex // of writers
	series atomic.Pointer[map[seriesKey]*series]
}

type seriesKey struct {
	method, route string
	status        int
}

// series are what is counted and logged of all requests that have a key in common. They are kept, because the vectors
// take longer to find them, and the log to write the key again and again.
type series struct {
	requests prometheus.Counter
	duration prometheus.Observer
	log      slog.Handler // its lines have the key
}

func newMetrics(r prometheus.Registerer) *metrics {
	labels := []string{"method", "route", "status"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total",
			Help: "Requests answered, by method, route and status. The route is \"other\" for unknown paths.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds",
			Help: "Time from the last byte of a request to its reply, by method, route and status.",
			// Half a millisecond is typical for a read, a quarter of a second for a password at
			// cost 12; ten seconds is the timeout.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, labels),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_requests_in_flight",
			Help: "Requests in progress.",
		}),
	}
	m.series.Store(&map[seriesKey]*series{})
	if r != nil {
		r.MustRegister(m.requests, m.duration, m.inFlight)
	}
	return m
}

// newAuthzMetrics returns the metrics of decisions for proxies, which are not among those of requests.
func newAuthzMetrics(r prometheus.Registerer) (*prometheus.CounterVec, prometheus.Histogram) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_authz_decisions_total",
		Help: "Decisions for proxies, by policy and result: allowed, anonymous, unauthenticated, forbidden, overloaded, unavailable; " +
			"and without a policy, unknown or malformed.",
	}, []string{"policy", "result"})
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "http_authz_duration_seconds",
		Help: "Time from the last byte of a request for a decision to the decision.",
		// A token that was verified before takes some microseconds, another one a tenth of a millisecond.
		Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, 1},
	})
	if r != nil {
		r.MustRegister(decisions, duration)
	}
	return decisions, duration
}

// newAdminMetrics returns the metric of the routes of administrators, which are not among those of requests.
func newAdminMetrics() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_admin_requests_total",
		Help: "Requests of administrators, by method, route and status. An unknown path or method is \"other\".",
	}, []string{"method", "route", "status"})
}

var phaseNames = map[phase]string{phaseFresh: "first_request", phaseIdle: "idle", phaseReading: "request", phaseReplying: "reply"}

// watch exports the metrics of the connections of one port. prefix replaces http_ in their names.
func (m *metrics) watch(s *connections, prefix string, r prometheus.Registerer) {
	named := func(name string) string { return strings.Replace(name, "http_", prefix, 1) }
	evicted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: named("http_connections_evicted_total"),
		Help: "Connections closed to free memory or descriptors, by what they were waiting for: " +
			"their first request (first_request), the next request (idle), the rest of a request (request), " +
			"or the client to read a reply (reply).",
	}, []string{"waiting_for"})
	for _, name := range phaseNames {
		evicted.WithLabelValues(name)
	}
	s.onEvict = func(p phase) { evicted.WithLabelValues(phaseNames[p]).Inc() }
	if r == nil {
		return
	}
	r.MustRegister(evicted)
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: named(name), Help: help}, value))
	}
	gauge("http_connections_open", "Open client connections.", func() float64 {
		open, _ := s.count()
		return float64(open)
	})
	gauge("http_connections_memory_bytes", "Memory charged to client connections, at most the limit.", func() float64 {
		_, held := s.count()
		return float64(held)
	})
	gauge("http_connections_memory_limit_bytes", "The part of CONNECTION_MEMORY that limits the memory charged to client connections. "+
		"At the limit, the connections that have waited longest are closed.", func() float64 {
		return float64(s.memory)
	})
}

// series returns the series of a key.
func (s *Server) series(key seriesKey) *series {
	m := s.metrics
	if one := (*m.series.Load())[key]; one != nil {
		return one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if one := (*m.series.Load())[key]; one != nil {
		return one
	}
	route, code := cmp.Or(key.route, "other"), strconv.Itoa(key.status)
	one := &series{
		requests: m.requests.WithLabelValues(key.method, route, code),
		duration: m.duration.WithLabelValues(key.method, route, code),
		log: s.log.Handler().WithAttrs([]slog.Attr{
			slog.String("method", key.method), slog.String("route", key.route), slog.Int("status", key.status),
		}),
	}
	all := maps.Clone(*m.series.Load())
	all[key] = one
	m.series.Store(&all)
	return one
}

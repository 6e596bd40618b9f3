package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

// readyTimeout bounds one check of the server's state.
const readyTimeout = 2 * time.Second

// operations serves health, state and metrics to operators, on a separate port. It does not
// use the hashing threads, and /healthz depends on nothing.
type operations struct {
	http *http.Server
}

// checks are the functions that operations calls. ready must not wait for anything: the
// result of a probe must not depend on the speed of the database.
type checks struct {
	ready    func() (reason, database string)
	database func(context.Context) (reason string)
	state    func(context.Context) config.State
}

func newOperations(metrics *prometheus.Registry, of checks) *operations {
	bounded := func(r *http.Request) (context.Context, context.CancelFunc) {
		return context.WithTimeout(r.Context(), readyTimeout)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, health{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		reason, database := of.ready()
		answerReady(w, reason, database)
	})
	mux.HandleFunc("GET /readyz/database", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := bounded(r)
		defer cancel()
		answerReady(w, of.database(ctx), "") //nolint:contextcheck // it derives from the request's
	})
	mux.HandleFunc("GET "+config.StatePath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := bounded(r)
		defer cancel()
		answer(w, http.StatusOK, of.state(ctx)) //nolint:contextcheck // it derives from the request's
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &operations{http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 60 * time.Second, MaxHeaderBytes: 8 << 10,
	}}
}

type health struct {
	Status   string `json:"status"`
	Reason   string `json:"reason,omitempty"`
	Database string `json:"database,omitempty"` // its problem, although the server is ready
}

func answerReady(w http.ResponseWriter, reason, database string) {
	if reason != "" {
		answer(w, http.StatusServiceUnavailable, health{Status: "not ready", Reason: reason})
		return
	}
	answer(w, http.StatusOK, health{Status: "ready", Database: database})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (o *operations) serve(l net.Listener) error {
	if err := o.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (o *operations) close() { _ = o.http.Close() }

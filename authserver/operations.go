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

	"github.com/auth-gateway/auth-gateway/authserver/config"
)

// readyTimeout bounds one look at how the server is.
const readyTimeout = 2 * time.Second

// operations serves those who run the server, on a port of its own. Nothing of
// it needs the hashing lane, and /healthz needs nothing at all.
type operations struct {
	http *http.Server
}

func newOperations(metrics *prometheus.Registry, state func(context.Context) config.State) *operations {
	look := func(r *http.Request) config.State {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		return state(ctx)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, health{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s := look(r); !s.Ready {
			answer(w, http.StatusServiceUnavailable, health{"not ready", s.Reason})
			return
		}
		answer(w, http.StatusOK, health{Status: "ready"})
	})
	mux.HandleFunc("GET "+config.StatePath, func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, look(r))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &operations{http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 60 * time.Second, MaxHeaderBytes: 8 << 10,
	}}
}

type health struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
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

package authserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/console"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/rbac"
)

// newAdministration returns the server of the routes for administrators, or nil if they are not served.
func (s *Server) newAdministration(o Options, ring admin.Keyring, metrics *prometheus.Registry) (*http.Server, error) {
	c := s.config
	if c.AdminPort == 0 {
		return nil, nil //nolint:nilnil // there is none
	}
	rights, err := s.authorizer(o)
	if err != nil {
		return nil, err
	}
	pages := console.New(console.Config{
		Service: s.administration, Rights: rights, Ready: s.hasSchema, Log: o.Log, Now: o.Now,
		State: func(ctx context.Context) console.State { return s.describe(ctx, ring) },
	})
	routes := httpapi.NewAdmin(s.administration, rights, s.hasSchema, o.Log, s.spans())
	metrics.MustRegister(routes.Metrics())
	return &http.Server{
		Handler:           http.MaxBytesHandler(withConsole(pages, routes), 64<<10),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10,
	}, nil
}

// authorizer returns what decides about the rights of administrators: a file of keys, or Kubernetes.
func (s *Server) authorizer(o Options) (admin.Authorizer, error) {
	c := s.config
	if namespace, name, of := strings.Cut(c.AdminKubernetes, "/"); of {
		reviewer, err := rbac.New(rbac.Options{
			Cluster: o.Kubernetes, Gateway: rbac.Gateway{Namespace: namespace, Name: name}, Now: o.Now, Log: o.Log,
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", config.EnvAdminKubernetes, err)
		}
		s.reviewer = reviewer
		return reviewer, nil
	}
	content, err := os.ReadFile(c.AdminKeys)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", config.EnvAdminKeys, err)
	}
	keys, err := admin.ParseKeys(content, o.Now)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", config.EnvAdminKeys, c.AdminKeys, err)
	}
	return keys, nil
}

// withConsole sends a request to the console or to the routes. A ServeMux would redirect to a clean path.
func withConsole(pages, routes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p == console.Path || strings.HasPrefix(p, console.Path+"/") {
			pages.ServeHTTP(w, r)
			return
		}
		routes.ServeHTTP(w, r)
	})
}

// hasSchema returns an error until the schema is current.
func (s *Server) hasSchema() error {
	if s.prepared.Load() {
		return nil
	}
	return &identity.Error{
		Kind: identity.Unavailable, Reason: identity.ReasonDatabaseUnavailable, Message: "the server is still starting; try again",
		RetryAfter: time.Second,
	}
}

// serveAdministration serves on a listener until the server is shut down.
func (s *Server) serveAdministration(l net.Listener) error {
	if err := s.admin.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// adminKey makes a key of an administrator. The key is printed once; the file has only its digest.
func (c Command) adminKey(args []string) int {
	if len(args) < 2 {
		return c.misused("the command is admin-key NAME RIGHT…; a right is viewer, editor, or one such as users:update")
	}
	key, entry, err := admin.NewKey(args[0], args[1:], time.Now().AddDate(1, 0, 0))
	if err != nil {
		return c.misused(err.Error())
	}
	fmt.Fprintf(c.Out, "%s\n", entry)
	fmt.Fprintf(c.Err, "the key, which is shown only now: %s\nadd the line to the JSON array in the file of %s, and restart the server\n",
		key, config.EnvAdminKeys)
	return exitOK
}

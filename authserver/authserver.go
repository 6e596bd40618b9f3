package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/internal/mail"
	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/rbac"
	"github.com/auth-gateway/auth-gateway/internal/resources"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/internal/tracing"
	"github.com/auth-gateway/auth-gateway/keys"
)

// clockLeeway is the maximum difference between the clocks of replicas. Tokens that were
// issued up to that far in the future are valid (decision 6 of docs/security.md).
const clockLeeway = 10 * time.Second

// Server is one replica of the service. Create it with New, and call Run once.
type Server struct {
	config         config.Config
	version        string
	log            *slog.Logger
	now            func() time.Time
	started        time.Time
	tracer         *tracing.Tracer // nil: traces are off
	store          *postgres.Store
	keyring        *keyring.Keyring
	endings        *endings.Feed
	hasher         *identity.Hasher
	former         *moving.FormerSystem // nil: no other system is asked about passwords
	accounts       *identity.Service
	administration *admin.Service
	mail           *mail.Deliverer // nil: no mail is sent
	events         *events.Sender  // nil: no events are announced
	api            *httpapi.Server // nil, as keyring and endings, in a server for administrators only
	ops            *operations
	admin          *http.Server   // nil: no routes for administrators
	reviewer       *rbac.Reviewer // nil: Kubernetes does not decide what administrators may do

	addresses chan Addresses
	prepared  atomic.Bool            // the schema is current and the keys are decrypted
	waiting   atomic.Pointer[string] // the reason, until prepared is set
	maxConns  atomic.Int64           // of the database, for all users; 0: unknown
	away      atomic.Pointer[string] // the database's problem at the last check; nil: none
	stopping  atomic.Bool
}

// Options configure a Server in addition to its settings.
type Options struct {
	Log     *slog.Logger     // nil: discard
	Version string           // shown by the metrics and the state
	Now     func() time.Time // nil: time.Now

	// Statement is for tests: it is called before each statement, with the context of the request or of the background
	// work. It may be nil.
	Statement func(ctx context.Context, statement string)

	// Kubernetes is access to the API server that ADMIN_KUBERNETES is about. nil: that of the pod.
	Kubernetes *rbac.Cluster
}

// Addresses are the listening addresses of a running server. Ops is empty if METRICS_PORT is 0, Authz if decisions are
// served by the API, and Admin if ADMIN_PORT is 0.
type Addresses struct{ API, Ops, Authz, Admin string }

// New wires a server. It reads the files that the settings name (certificates and mail
// templates), so that mistakes in them are reported at start. It connects to nothing.
func New(c config.Config, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	tracer, err := newTracer(c, o)
	if err != nil {
		return nil, err
	}
	if tracer != nil {
		o.Log = span.Logger(o.Log)
	}
	store, err := openStore(c, o)
	if err != nil {
		if tracer != nil {
			tracer.Close()
		}
		return nil, err
	}
	s := &Server{
		config: c, version: o.Version, log: o.Log, now: o.Now, started: o.Now(), tracer: tracer, store: store,
		addresses: make(chan Addresses, 1),
	}
	s.waitFor("starting")
	tokens := token.New(token.Config{
		Issuer: c.Issuer, Audience: c.Audience, ClientID: c.ClientID, AccessType: string(c.AccessTokenTyp),
		AccessTTL: c.AccessTokenExpiry, Leeway: clockLeeway, Now: o.Now,
	})
	s.hasher = identity.NewHasher(identity.HasherOptions{
		Cost: c.SaltRounds, Threads: resources.HashingThreads(c.HashingThreads), MaxWait: c.HashingMaxWait,
		Memory: resources.HashingMemory(),
	})
	dependencies := identity.Dependencies{
		Store: store, Tokens: tokens, Hasher: s.hasher, Audit: o.Log.With(auditMark), Now: o.Now,
	}
	if c.PasswordMigrationURL != "" {
		if s.former, err = moving.NewFormerSystem(c.PasswordMigrationURL, c.PasswordMigrationSecret.Reveal); err != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", config.EnvPasswordMigrationURL, err)
		}
		dependencies.Former = s.former
	}
	s.accounts = identity.New(policy(c), dependencies)
	if !c.AdminOnly {
		s.keyring = newKeyring(c, store, tokens.Use, o.Log, o.Now)
		if err := s.keyring.Policy.Check(); err != nil {
			s.close()
			return nil, err
		}
	}
	ring := s.adminKeys(o)
	s.administration = admin.New(admin.Config{
		Store: store, Accounts: s.accounts, Keys: ring, Audit: o.Log.With(auditMark), KeepTrail: c.KeepsEvents(), Now: o.Now,
		Optional: optionalNames(c), TokenClaims: c.TokenClaims, Room: tokens.Room(),
	})
	metrics := newMetrics(o.Version)
	if !c.AdminOnly {
		if err := s.newAPI(tokens, metrics, o); err != nil {
			s.close()
			return nil, err
		}
	}
	if s.admin, err = s.newAdministration(o, ring, metrics); err != nil {
		s.close()
		return nil, err
	}
	metrics.MustRegister(collector{
		database: s.hasDatabase, mail: s.mail, events: s.events, store: store, hasher: s.hasher, accounts: s.accounts,
		keyring: s.keyring, endings: s.endings, tracer: s.tracer, now: o.Now,
	})
	s.ops = newOperations(metrics, checks{ready: s.readiness, database: s.databaseReadiness, state: s.state})
	return s, nil
}

// newAPI wires what serves the API: the mail and the routes.
func (s *Server) newAPI(tokens *token.Service, metrics *prometheus.Registry, o Options) (err error) {
	c := s.config
	if s.mail, err = newDeliverer(c, s.accounts, o, s.spans()); err != nil {
		return err
	}
	if s.events, err = newEventSender(c, s.store, o, s.spans()); err != nil {
		return err
	}
	s.endings = endings.New(endings.Config{
		Store: s.store, Lifetime: s.tokenLifetime, Always: len(c.AuthzPolicies) > 0, Log: o.Log,
	})
	s.api = httpapi.New(httpapi.Options{
		Accounts: s.accounts, Export: s.administration.ExportOwn, Keys: s.keyring, Endings: s.endings,
		Authz: s.authz(tokens), Issuer: c.Issuer, Metadata: c.Metadata(),
		Exposure: identity.Exposure(c.Exposure), Optional: optionalNames(c),
		TrustedCallerKey: c.TrustedCallerKey.Reveal(), AllowedOrigins: c.CORSAllowedOrigins,
		AllowedHeaders: c.CORSAllowedHeaders, StrictParameters: c.StrictParameters, IdleTimeout: c.IdleTimeout,
		Memory: resources.ConnectionMemory(c.ConnectionMemory), ProxyHops: c.TrustedProxyHops,
		ProxyField: string(c.TrustedProxyField),
		Log:        o.Log, Metrics: metrics, Tracer: s.spans(),
	})
	return nil
}

func openStore(c config.Config, o Options) (*postgres.Store, error) {
	options := []postgres.Option{postgres.WithLogger(o.Log)}
	if o.Statement != nil {
		options = append(options, postgres.WithStatementHook(o.Statement))
	}
	hosts, ports := c.DBHosts()
	return postgres.Open(postgres.Config{
		Host: strings.Join(hosts, ","), Ports: ports, User: c.DBUser, Password: c.DBPassword.Reveal(), Database: c.DBName,
		SSLMode: c.DBSSLMode, SSLRootCert: c.DBSSLRootCert, TargetSessionAttrs: string(c.DBTargetSessionAttrs),
		MaxConns: c.DBMaxConns, MinIdleConns: c.DBMinIdleConns,
		AcquireTimeout: c.DBAcquireTimeout, StatementTimeout: c.DBStatementTimeout,
	}, options...)
}

// policy converts the settings to the domain's policy.
func policy(c config.Config) identity.Policy {
	names := []string{"authgateway", "auth-gateway", "auth gateway"}
	if u, err := url.Parse(c.Issuer); err == nil {
		names = append(names, u.Hostname())
	}
	return identity.Policy{
		Issuer: c.Issuer, Audience: c.Audience,
		Exposure: identity.Exposure(c.Exposure), SignUpScopes: strings.Join(c.SignupScopes, " "), Optional: optionalNames(c),
		AccessTTL: c.AccessTokenExpiry, RefreshTTL: c.RefreshTokenExpiry,
		SessionLifetime: c.SessionLifetime, SessionsPerUser: c.SessionsPerUser,
		Rotation: identity.Rotation(c.RefreshTokenRotation), ReuseGrace: c.RefreshReuseGrace,
		VerificationTTL: c.VerificationCodeExpiry, RecoveryTTL: c.RecoveryCodeExpiry, InvitationTTL: c.InvitationCodeExpiry,
		MinPasswordLength: c.PasswordMinLength, PasswordBlocklist: c.PasswordBlocklist, ServiceNames: names,
		TokenClaims: c.TokenClaims, KeepAudit: c.KeepsEvents(), SendsMail: c.SendsMail(), LimitMails: identity.Rate(c.LimitMails),
		LimitSignIn: identity.Rate(c.LimitSignIn), LimitSignUp: identity.Rate(c.LimitSignUp), LimitCodes: identity.Rate(c.LimitCodes),
		LimitWrites: identity.Rate(c.LimitWrites),
	}
}

// optionalNames are the names that SIGNUP_REQUIRED does not contain.
func optionalNames(c config.Config) identity.OptionalNames {
	optional := func(name string) bool { return !slices.Contains(c.SignupRequired, name) }
	return identity.OptionalNames{Username: optional("username"), FirstName: optional("first_name"), LastName: optional("last_name")}
}

// Listening receives the addresses of the server once it listens.
func (s *Server) Listening() <-chan Addresses { return s.addresses }

// Run serves until ctx ends, and then finishes accepted requests, within SHUTDOWN_TIMEOUT,
// and returns nil. If the server cannot start or continue, the error says what to do.
func (s *Server) Run(ctx context.Context) error {
	defer s.close() //nolint:contextcheck // ctx has ended then
	for _, warning := range s.config.Warnings() {
		s.log.Warn(warning)
	}
	s.log.Info("memory", "usable_bytes", resources.Memory(),
		"connections_bytes", resources.ConnectionMemory(s.config.ConnectionMemory),
		"hashing_bytes", resources.HashingMemory())
	// Background work ends after the API, because requests in progress need the keys.
	background, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var where Addresses
	var api, decisions net.Listener
	if s.api != nil {
		l, err := listen(config.EnvPort, s.config.Address())
		if err != nil {
			return err
		}
		api, where.API = l, l.Addr().String()
		defer func() { _ = api.Close() }() // Serve closes it too
		if address := s.config.AuthzAddress(); address != "" {
			if decisions, err = listen(config.EnvAuthzPort, address); err != nil {
				return err
			}
			defer func() { _ = decisions.Close() }()
			where.Authz = decisions.Addr().String()
		}
	}
	if address := s.config.MetricsAddress(); address != "" {
		ops, err := s.listenOperations(address)
		if err != nil {
			return err
		}
		where.Ops = ops.Addr().String()
		go func() { stop(s.ops.serve(ops)) }()
		defer s.ops.close()
	}
	if address := s.config.AdminAddress(); address != "" {
		l, err := listen(config.EnvAdminPort, address)
		if err != nil {
			return err
		}
		where.Admin = l.Addr().String()
		go func() { stop(s.serveAdministration(l)) }()
		defer func() { _ = s.admin.Close() }()
	}
	if api != nil {
		go func() { stop(s.api.Serve(api)) }()
	}
	if decisions != nil {
		go func() { stop(s.api.ServeAuthz(decisions)) }()
	}
	work := make(chan struct{})
	go func() {
		defer close(work)
		if err := s.work(background); err != nil {
			stop(err)
		}
	}()
	s.addresses <- where
	s.log.Info("listening", "api", where.API, "metrics", where.Ops, "authz", where.Authz, "admin", where.Admin, "issuer", s.config.Issuer)

	select {
	case <-ctx.Done():
	case <-background.Done():
	}
	err := s.shutDown(context.WithoutCancel(ctx))
	stop(nil)
	<-work
	if cause := context.Cause(background); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// close releases the resources of the server, which must not be used afterwards.
func (s *Server) close() {
	s.hasher.Close()
	if s.former != nil {
		s.former.Close()
	}
	if s.keyring != nil {
		s.keyring.Close()
	}
	s.store.Close()
	if s.tracer != nil {
		s.tracer.Close()
	}
}

// listenOperations listens on METRICS_PORT. If the setting is not set and its default is in
// use (by Prometheus or a second server), it listens on another port.
func (s *Server) listenOperations(address string) (net.Listener, error) {
	ops, err := listen(config.EnvMetricsPort, address)
	if !s.config.MetricsPortSet && errors.Is(err, syscall.EADDRINUSE) {
		if ops, err = listen(config.EnvMetricsPort, net.JoinHostPort(s.config.Host, "0")); err == nil {
			s.log.Warn("METRICS_PORT is not set and its default is in use, perhaps by Prometheus: "+
				"metrics and health use another port; set METRICS_PORT to choose one",
				"in_use", address, "metrics", ops.Addr().String())
		}
	}
	return ops, err
}

// listen listens on HOST and the port of a setting. The error names the setting that is wrong.
func listen(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address) //nolint:noctx // nothing to wait for
	var lookup *net.DNSError
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &lookup):
		return nil, fmt.Errorf("%s: the host does not exist; "+
			"write localhost, an IP address of this machine, or 0.0.0.0 for all: %w", config.EnvHost, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: this machine does not have that address; "+
			"write localhost, an IP address of this machine, or 0.0.0.0 for all: %w", config.EnvHost, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: cannot listen on %s (ports below 1024 require a privilege; write a higher one): %w",
			setting, address, err)
	}
	return nil, fmt.Errorf("%s: cannot listen on %s (is another server running there?): %w", setting, address, err)
}

// shutDown stops accepting requests and finishes accepted ones. From the start, replies ask
// clients to close their connections. DRAIN_DELAY gives load balancers time to notice.
func (s *Server) shutDown(ctx context.Context) error {
	s.stopping.Store(true)
	s.log.Info("shutting down: no longer ready, finishing accepted requests")
	bounded, cancel := context.WithTimeout(ctx, s.config.ShutdownTimeout)
	defer cancel()
	if s.api != nil {
		s.api.Drain()
	}
	select {
	case <-time.After(s.config.DrainDelay):
	case <-bounded.Done():
	}
	if s.admin != nil {
		if err := s.admin.Shutdown(bounded); err != nil {
			return fmt.Errorf("some requests of administrators were not finished within SHUTDOWN_TIMEOUT (%v): %w", s.config.ShutdownTimeout, err)
		}
	}
	if s.api != nil {
		if err := s.api.Shutdown(bounded); err != nil {
			return fmt.Errorf("some requests were not finished within SHUTDOWN_TIMEOUT (%v): %w", s.config.ShutdownTimeout, err)
		}
	}
	s.log.Info("stopped")
	return nil
}

// work prepares the server and then runs its background jobs until ctx ends.
func (s *Server) work(ctx context.Context) error {
	if s.reviewer != nil {
		go s.reviewer.Watch(ctx)
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.prepared.Store(true)
	s.log.Info("ready")
	var jobs sync.WaitGroup
	jobs.Go(func() { s.watchDatabase(ctx) })
	jobs.Go(func() { s.watchPrimary(ctx) })
	if s.api == nil {
		jobs.Wait()
		return nil
	}
	jobs.Go(func() { s.housekeeping(ctx) })
	jobs.Go(func() { s.watchSchemes(ctx) })
	jobs.Go(func() { s.recordRevokedKeys(ctx) })
	jobs.Go(func() { s.endings.Run(ctx) })
	if s.mail != nil {
		jobs.Go(func() { s.mail.Run(ctx) })
	}
	if s.events != nil {
		jobs.Go(func() { s.events.Run(ctx) })
	}
	s.keyring.Watch(ctx)
	jobs.Wait()
	return nil
}

// prepare migrates the schema and opens the keys, and retries until it succeeds.
func (s *Server) prepare(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.bringUp(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isFatal(err):
			return err
		}
		s.waitFor(because(err))
		s.log.Warn("not ready yet; retrying", "error", because(err), "after", wait.String())
		if !pause(ctx, wait) {
			return context.Cause(ctx)
		}
	}
}

// bringUp tries once to migrate the schema and to open the keys.
func (s *Server) bringUp(ctx context.Context) error {
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	if s.api == nil {
		return s.databaseProblem(ctx)
	}
	if err := s.agreeOnIssuer(ctx); err != nil {
		return err
	}
	if err := s.readSchemes(ctx); err != nil {
		return err
	}
	if s.events != nil {
		if err := s.events.Begin(ctx); err != nil {
			return err
		}
	}
	s.waitFor("starting: opening the keys")
	if err := s.keyring.Start(ctx); err != nil {
		return err
	}
	most, err := s.store.MaxConnections(ctx)
	switch {
	case err == nil:
		s.maxConns.Store(int64(max(most, 0)))
	case identity.KindOf(err) == identity.Internal: // it speaks SQL but is not PostgreSQL
		s.log.Warn("the database does not report its connection limit", "error", err)
	default:
		return err
	}
	return nil
}

// isFatal reports whether an error cannot be fixed by retrying.
func isFatal(err error) bool {
	return isIssuerError(err) || keyring.IsFatal(err) ||
		identity.KindOf(err) == identity.Internal && !errors.Is(err, context.Canceled) &&
			!errors.Is(err, keys.ErrRolledBack)
}

func (s *Server) waitFor(what string) { s.waiting.Store(&what) }

// maxReason bounds the line that describes why a server is not ready, in bytes.
const maxReason = 511

// because describes in one line for operators what the server is waiting for. It includes the
// cause of an error, which the domain records for the log and which contains no secrets.
func because(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*identity.Error](err); ok {
		switch {
		case e.Cause == nil:
			text = e.Message
		case e.Kind == identity.Unavailable:
			text = "waiting for the database: " + e.Cause.Error()
		default:
			text = e.Message + ": " + e.Cause.Error()
		}
	}
	return shorten(strings.Join(strings.Fields(text), " "), maxReason)
}

// shorten cuts a text to at most so many bytes, between two characters.
func shorten(text string, most int) string {
	const more = "…"
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/internal/mail"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

// clockLeeway is how far the clocks of replicas may differ: tokens from that
// far in the future hold (decision 6 of docs/security.md).
const clockLeeway = 10 * time.Second

// Server is one replica of the service. Make one with New, and Run it once.
type Server struct {
	config   config.Config
	version  string
	log      *slog.Logger
	now      func() time.Time
	store    *postgres.Store
	keyring  *keyring.Keyring
	hasher   *identity.Hasher
	accounts *identity.Service
	mail     *mail.Deliverer // nil: none is sent
	api      *httpapi.Server
	ops      *operations

	addresses chan Addresses
	prepared  atomic.Bool            // the schema is current and the keys are open
	waiting   atomic.Pointer[string] // what for, until it is prepared
	maxConns  atomic.Int64           // that the database gives to all; 0: not known
	away      atomic.Pointer[string] // what is wrong with the database, as it was last seen; nil: nothing
	stopping  atomic.Bool
}

// Options are what a Server needs besides its settings.
type Options struct {
	Log       *slog.Logger           // nil: nowhere
	Version   string                 // shown by the metrics and the state
	Now       func() time.Time       // nil: time.Now
	Statement func(statement string) // called before each statement, for tests; nil: not
}

// Addresses are where a running server listens. Ops is empty where METRICS_PORT
// is 0.
type Addresses struct{ API, Ops string }

// New puts a server together. It reads nothing and connects to nothing.
func New(c config.Config, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	store, err := openStore(c, o)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, version: o.Version, log: o.Log, now: o.Now, store: store, addresses: make(chan Addresses, 1)}
	s.waitFor("starting")
	tokens := token.New(token.Config{
		Issuer: c.Issuer, Audience: c.Audience, AccessTTL: c.AccessTokenExpiry, Leeway: clockLeeway, Now: o.Now,
	})
	s.keyring = newKeyring(c, store, tokens, o.Log, o.Now)
	if err := s.keyring.Policy.Check(); err != nil {
		return nil, err
	}
	s.hasher = identity.NewHasher(identity.HasherOptions{
		Cost: c.SaltRounds, Threads: hashingThreads(c.HashingThreads), MaxWait: c.HashingMaxWait,
	})
	s.accounts = identity.New(policy(c), identity.Dependencies{
		Store: store, Tokens: tokens, Hasher: s.hasher, Audit: o.Log.With("log", "audit"), Now: o.Now,
	})
	if s.mail, err = newDeliverer(c, s.accounts, o); err != nil {
		s.close()
		return nil, err
	}
	metrics := newMetrics(o.Version)
	metrics.MustRegister(collector{database: s.hasDatabase, mail: s.mail, store: store, hasher: s.hasher, accounts: s.accounts, keyring: s.keyring, now: o.Now})
	s.api = httpapi.New(httpapi.Options{
		Accounts: s.accounts, Keys: s.keyring, Exposure: identity.Exposure(c.Exposure), Optional: optionalNames(c),
		TrustedCallerKey: c.TrustedCallerKey.Reveal(), AllowedOrigins: c.CORSAllowedOrigins, AllowedHeaders: c.CORSAllowedHeaders,
		StrictParameters: c.StrictParameters, IdleTimeout: c.IdleTimeout, Memory: connectionMemory(c, usableMemory()), ProxyHops: c.TrustedProxyHops, ProxyField: string(c.TrustedProxyField),
		Log: o.Log, Metrics: metrics,
	})
	s.ops = newOperations(metrics, checks{ready: s.readiness, database: s.databaseReadiness, state: s.state})
	return s, nil
}

func openStore(c config.Config, o Options) (*postgres.Store, error) {
	options := []postgres.Option{postgres.WithLogger(o.Log)}
	if o.Statement != nil {
		options = append(options, postgres.WithStatementHook(o.Statement))
	}
	return postgres.Open(postgres.Config{
		Host: c.DBHost, Ports: c.DBPort, User: c.DBUser, Password: c.DBPassword.Reveal(), Database: c.DBName,
		SSLMode: c.DBSSLMode, SSLRootCert: c.DBSSLRootCert, MaxConns: c.DBMaxConns,
		AcquireTimeout: c.DBAcquireTimeout, StatementTimeout: c.DBStatementTimeout,
	}, options...)
}

// policy says in the domain's words what the settings say.
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
		VerificationTTL: c.VerificationCodeExpiry, RecoveryTTL: c.RecoveryCodeExpiry,
		MinPasswordLength: c.PasswordMinLength, PasswordBlocklist: c.PasswordBlocklist, ServiceNames: names,
		KeepAudit: c.AuditRetention > 0, SendsMail: c.SendsMail(), LimitMails: identity.Rate(c.LimitMails),
		LimitSignIn: identity.Rate(c.LimitSignIn), LimitSignUp: identity.Rate(c.LimitSignUp), LimitCodes: identity.Rate(c.LimitCodes),
		LimitWrites: identity.Rate(c.LimitWrites),
	}
}

// optionalNames are those that SIGNUP_REQUIRED leaves out.
func optionalNames(c config.Config) identity.OptionalNames {
	optional := func(name string) bool { return !slices.Contains(c.SignupRequired, name) }
	return identity.OptionalNames{Username: optional("username"), FirstName: optional("first_name"), LastName: optional("last_name")}
}

// Listening tells where a running server listens, once it does.
func (s *Server) Listening() <-chan Addresses { return s.addresses }

// Run serves until ctx ends, and then finishes what it has taken, within
// SHUTDOWN_TIMEOUT. It returns nil after that, and an error that says what to
// do where the server cannot start or go on.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	for _, warning := range s.config.Warnings() {
		s.log.Warn(warning)
	}
	usable := usableMemory()
	s.log.Info("memory", "usable_bytes", usable, "connections_bytes", connectionMemory(s.config, usable))
	api, err := listen(config.EnvPort, s.config.Address())
	if err != nil {
		return err
	}
	where := Addresses{API: api.Addr().String()}
	// What goes on beside the API ends after it: a request under way needs keys.
	background, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	if address := s.config.MetricsAddress(); address != "" {
		ops, err := s.listenOperations(address)
		if err != nil {
			return errors.Join(err, api.Close())
		}
		where.Ops = ops.Addr().String()
		go func() { stop(s.ops.serve(ops)) }()
		defer s.ops.close()
	}
	go func() { stop(s.api.Serve(api)) }()
	work := make(chan struct{})
	go func() {
		defer close(work)
		if err := s.work(background); err != nil {
			stop(err)
		}
	}()
	s.addresses <- where
	s.log.Info("listening", "api", where.API, "metrics", where.Ops, "issuer", s.config.Issuer)

	select {
	case <-ctx.Done():
	case <-background.Done():
	}
	err = s.shutDown(context.WithoutCancel(ctx))
	stop(nil)
	<-work
	if cause := context.Cause(background); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// close gives back what New has taken. Nobody may use the server afterwards.
func (s *Server) close() {
	s.hasher.Close()
	s.keyring.Close()
	s.store.Close()
}

// listenOperations listens for those who run the server. A port that nobody chose
// is no reason not to start: 9090 is also what Prometheus and a second server take.
func (s *Server) listenOperations(address string) (net.Listener, error) {
	ops, err := listen(config.EnvMetricsPort, address)
	if !s.config.MetricsPortSet && errors.Is(err, syscall.EADDRINUSE) {
		if ops, err = listen(config.EnvMetricsPort, net.JoinHostPort(s.config.Host, "0")); err == nil {
			s.log.Warn("METRICS_PORT is not set and its default is in use, perhaps by Prometheus: metrics and health use another port; set METRICS_PORT to choose one",
				"in_use", address, "metrics", ops.Addr().String())
		}
	}
	return ops, err
}

// listen listens at HOST and the port that a setting names. The error names the one
// of the two that is wrong.
func listen(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address) //nolint:noctx // nothing to wait for
	var lookup *net.DNSError
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &lookup):
		return nil, fmt.Errorf("%s: the host does not exist; write localhost, an IP address of this machine, or 0.0.0.0 for all: %w", config.EnvHost, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: this machine does not have that address; write localhost, an IP address of this machine, or 0.0.0.0 for all: %w", config.EnvHost, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: cannot listen on %s (ports below 1024 require a privilege; write a higher one): %w", setting, address, err)
	}
	return nil, fmt.Errorf("%s: cannot listen on %s (is another server running there?): %w", setting, address, err)
}

// shutDown stops taking requests and finishes those that were taken. Replies
// ask clients to come back on another connection from the first moment, and
// DRAIN_DELAY gives whoever balances the load the time to notice.
func (s *Server) shutDown(ctx context.Context) error {
	s.stopping.Store(true)
	s.log.Info("shutting down: no longer ready, finishing accepted requests")
	bounded, cancel := context.WithTimeout(ctx, s.config.ShutdownTimeout)
	defer cancel()
	s.api.Drain()
	select {
	case <-time.After(s.config.DrainDelay):
	case <-bounded.Done():
	}
	err := s.api.Shutdown(bounded)
	if err != nil {
		return fmt.Errorf("some requests were not finished within SHUTDOWN_TIMEOUT (%v): %w", s.config.ShutdownTimeout, err)
	}
	s.log.Info("stopped")
	return nil
}

// work prepares the server and then keeps it going.
func (s *Server) work(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.prepared.Store(true)
	s.log.Info("ready")
	var beside sync.WaitGroup
	beside.Go(func() { s.housekeeping(ctx) })
	beside.Go(func() { s.watchDatabase(ctx) })
	if s.mail != nil {
		beside.Go(func() { s.mail.Run(ctx) })
	}
	s.keyring.Watch(ctx)
	beside.Wait()
	return nil
}

// prepare brings up what the server needs, and waits for it as long as it takes.
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
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// bringUp brings up the schema and the keys.
func (s *Server) bringUp(ctx context.Context) error {
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	if err := s.agreeOnIssuer(ctx); err != nil {
		return err
	}
	s.waitFor("starting: opening the keys")
	if err := s.keyring.Start(ctx); err != nil {
		return err
	}
	most, err := s.store.MaxConnections(ctx)
	switch {
	case err == nil:
		s.maxConns.Store(int64(max(most, 0)))
	case identity.KindOf(err) == identity.Internal: // what stands there speaks SQL, and is no PostgreSQL
		s.log.Warn("the database does not report its connection limit", "error", err)
	default:
		return err
	}
	return nil
}

// isFatal reports whether trying again is useless.
func isFatal(err error) bool {
	return isIssuerError(err) || keyring.IsFatal(err) ||
		identity.KindOf(err) == identity.Internal && !errors.Is(err, context.Canceled) && !errors.Is(err, keys.ErrRolledBack)
}

func (s *Server) waitFor(what string) { s.waiting.Store(&what) }

// maxReason bounds, in bytes, the one line that says why a server is not ready.
const maxReason = 511

// because says in one line, to those who run the server, what it is waiting for.
// It gives the cause of an error, which the domain keeps for the log: no part
// puts a secret there.
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

// shorten cuts a text to so many bytes, between two characters.
func shorten(text string, most int) string {
	const more = "…"
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

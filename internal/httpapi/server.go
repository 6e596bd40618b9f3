package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	bodyLimit = 64 << 10

	// headLimit bounds the request line and fields: an access token of 8 KiB
	// and what proxies add. More is 431 (RFC 6585 section 5).
	headLimit = 16 << 10
)

// Accounts is the domain: *identity.Service. The message of an *identity.Error is for the caller. Any
// other error is logged, and answered as an internal error.
type Accounts interface {
	// SignUp stores a sign-up. The code has no text if it is sent by mail.
	SignUp(ctx context.Context, s identity.SignUp) (identity.Code, error)
	// CheckSignUp returns the problems with the parameters of a sign-up.
	CheckSignUp(s identity.SignUp) []identity.Problem
	// VerifyUser redeems a verification code and opens a session.
	VerifyUser(ctx context.Context, proof identity.Proof) (identity.Tokens, error)
	// NewVerificationCode replaces the code of an address that is not verified.
	NewVerificationCode(ctx context.Context, email string) (identity.Code, error)
	// Profile returns the owner of an access token with the scope profile.
	Profile(ctx context.Context, accessToken string) (identity.User, error)
	// UpdateProfile changes the names that are not nil.
	UpdateProfile(ctx context.Context, accessToken string, p identity.ProfileUpdate) (identity.User, error)
	// DeleteUser deletes the owner of the access token.
	DeleteUser(ctx context.Context, accessToken string) error
	// ForgotPassword creates a recovery code.
	ForgotPassword(ctx context.Context, email string) (identity.Code, error)
	// ResetPassword redeems a recovery code. If userID is not empty, the code must belong to that user.
	ResetPassword(ctx context.Context, code, userID, password string) error
	// ChangePassword also requires the old password.
	ChangePassword(ctx context.Context, accessToken, oldPassword, password string) error
	// RequestEmailChange creates a code to change the address. If email is not empty, the code is
	// valid only for that address.
	RequestEmailChange(ctx context.Context, accessToken, email string) (identity.Code, error)
	// ChangeEmail redeems such a code.
	ChangeEmail(ctx context.Context, accessToken, code, email string) (identity.User, error)
	// Admit counts a request of a class for the client address of the context. If the limit is
	// exceeded, it returns an error and the allowance.
	Admit(ctx context.Context, class identity.LimitClass) (identity.Allowance, error)
	// AdmitChange and AdmitEnding do the same for requests of the owner of an access token that
	// change or end something. They also return the errors of an invalid token.
	AdmitChange(ctx context.Context, accessToken string) (identity.Allowance, error)
	AdmitEnding(ctx context.Context, accessToken string) (identity.Allowance, error)
	// SignIn opens a session; username may be an email address.
	SignIn(ctx context.Context, username, password string) (identity.Tokens, error)
	// Renew returns a new access token, and a new refresh token if needed.
	Renew(ctx context.Context, refreshToken string) (identity.Tokens, error)
	// Sessions lists the active sessions of the owner of an access token with the scope profile.
	Sessions(ctx context.Context, accessToken string) ([]identity.OwnSession, error)
	// EndSession ends one of them.
	EndSession(ctx context.Context, accessToken, id string) error
	// SignOut ends a session. It succeeds if the session has already ended.
	SignOut(ctx context.Context, refreshToken string) error
	// Revoke ends the session of an access or refresh token (RFC 7009). It succeeds if the token is invalid.
	Revoke(ctx context.Context, token string) error
	// Introspect returns the state of an access or refresh token (RFC 7662).
	Introspect(ctx context.Context, token string) (identity.Introspection, error)
}

// KeySource returns the keys to publish: the same pointer until they change, and the zero Ring before they are loaded. It
// is called for each request for keys, and must be fast.
type KeySource interface {
	Ring() *keys.Ring
}

// Options configure a Server.
type Options struct {
	Accounts         Accounts
	Keys             KeySource
	Export           func(ctx context.Context, userID string) (admin.Export, error) // of all that is stored about a user
	Issuer           string                                                         // of tokens; a path in it is also one of the metadata
	Metadata         []byte                                                         // the document of the issuer
	Endings          Endings                                                        // nil: the endings are never loaded
	Authz            *Authz                                                         // nil: no decisions for proxies
	Exposure         identity.Exposure
	TrustedCallerKey string // empty: every caller is trusted
	Optional         identity.OptionalNames

	// StrictParameters refuses parameters that a route does not know. Otherwise they are ignored.
	StrictParameters bool

	// AllowedOrigins are the origins whose pages may call, as browsers write them. If there are
	// none, replies have no CORS fields.
	AllowedOrigins []string
	// AllowedHeaders are fields that these pages may send in addition to the usual ones.
	AllowedHeaders []string
	// ProxyHops is the number of trusted proxies that each request passes.
	ProxyHops int
	// ProxyField is the field in which they write the client's address. AnyProxyField or empty means either field.
	ProxyField string

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: discard
	Tracer  span.Tracer           // nil: record no traces

	// Timeout bounds reading a request, handling it, and writing its reply, each separately. Zero means 10 s.
	Timeout time.Duration
	// IdleTimeout bounds the wait between two requests on a connection. Zero means Timeout.
	IdleTimeout time.Duration
	// Memory bounds the memory of all client connections, in bytes. Zero means 64 MiB.
	Memory int64
}

// Server serves the API. Create it with New.
type Server struct {
	accounts   Accounts
	export     func(ctx context.Context, userID string) (admin.Export, error)
	keys       KeySource
	exposure   identity.Exposure
	optional   identity.OptionalNames
	openAPI    []byte
	metadata   document
	callerKey  *[sha256.Size]byte // digest of the trusted caller's key; nil if every caller is trusted
	origins    map[string]bool    // allowed origins; nil if there are none
	fields     string             // header fields that pages of these origins may send
	refused    refusedOrigins
	strict     bool
	proxyHops  int
	proxyField string
	log        *slog.Logger
	metrics    *metrics
	tracer     span.Tracer // nil: traces are off
	timeout    time.Duration

	conns     *connections
	endpoints map[string]endpoint // by path
	router    fasthttp.RequestHandler
	http      *fasthttp.Server
	draining  atomic.Bool

	// work is the parent of every request's context. stop cancels requests that are still in
	// progress when Shutdown has waited long enough.
	work context.Context
	stop context.CancelFunc

	endings *endingsRoute
	authz   *authz // nil: no policies

	published atomic.Pointer[publishedKeys]
}

// endpoint is a path and its methods.
type endpoint struct {
	path    string
	takesID bool // the path ends in idPattern
	methods map[string]bool
	allow   string // the value of Allow (RFC 9110 section 10.2.1)

	// document answers GET and HEAD, if every caller gets the same reply. Consumers ask for these far more often than for
	// anything else, and Fiber has nothing to find: the path is known.
	document handler
}

// New returns a Server. It panics if Options are incomplete, which is a mistake in the program.
func New(o Options) *Server {
	if o.Accounts == nil || o.Keys == nil {
		panic("httpapi: Options.Accounts and Options.Keys are required")
	}
	s := &Server{
		accounts: o.Accounts, export: o.Export, keys: o.Keys, exposure: o.Exposure, optional: o.Optional,
		openAPI: openAPIOf(o.Optional), metadata: newDocument(o.Metadata), log: o.Log,
		metrics: newMetrics(o.Metrics), tracer: o.Tracer, timeout: o.Timeout, proxyHops: o.ProxyHops, proxyField: o.ProxyField,
		endpoints: map[string]endpoint{}, strict: o.StrictParameters,
	}
	s.fields = strings.Join(append(slices.Clone(corsAllowed), o.AllowedHeaders...), ", ")
	if len(o.AllowedOrigins) > 0 {
		s.origins = map[string]bool{}
		for _, origin := range o.AllowedOrigins {
			s.origins[origin] = true
		}
	}
	if o.TrustedCallerKey != "" {
		digest := sha256.Sum256([]byte(o.TrustedCallerKey))
		s.callerKey = &digest
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.timeout == 0 {
		s.timeout = 10 * time.Second
	}
	s.authz = newAuthz(o.Authz, o.Metrics)
	memory, descriptors := cmp.Or(o.Memory, defaultMemory), descriptorsForClients()
	if s.authz != nil && o.Authz.OwnPort {
		// What clients of the API occupy must not keep proxies from asking.
		s.authz.conns = newConnections(memory/authzShare, descriptors/authzShare, authzHeadLimit)
		s.metrics.watch(s.authz.conns, "http_authz_", o.Metrics)
		memory, descriptors = memory-memory/authzShare, descriptors-descriptors/authzShare
	}
	s.conns = newConnections(memory, descriptors, headLimit)
	s.conns.slack = min(s.timeout, cmp.Or(o.IdleTimeout, s.timeout)) / 20
	if s.authz != nil {
		c := cmp.Or(s.authz.conns, s.conns)
		s.authz.maxWaiting = c.memory / 2 / c.requestCost()
	}
	s.metrics.watch(s.conns, "http_", o.Metrics)
	s.work, s.stop = context.WithCancel(context.Background())
	s.endings = newEndingsRoute(s.work, o.Endings, s.conns)
	s.metrics.watchEndings(s.endings, o.Metrics)

	// Fiber routes; limits and timeouts are fasthttp's.
	settings := fiber.Config{
		DisableStartupMessage: true,
		// Otherwise strings that outlive their request would change, because fasthttp reuses its buffers.
		Immutable:     true,
		StrictRouting: true,
		CaseSensitive: true,
		BodyLimit:     bodyLimit,
		// Otherwise multipart forms are written to files.
		DisablePreParseMultipartForm: true,
		DisableDefaultContentType:    true,
		ReadBufferSize:               headLimit,
		// Idle connections then hold no buffers, so ten thousand of them are cheap.
		ReduceMemoryUsage: true,
		ReadTimeout:       s.timeout,
		WriteTimeout:      s.timeout,
		IdleTimeout:       cmp.Or(o.IdleTimeout, s.timeout),
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			exchangeOf(c.Context()).fail(err)
			return nil
		},
	}
	app := fiber.New(settings)
	for _, r := range slices.Concat(s.routes(), s.shortcuts(), s.aliases(o.Issuer)) {
		if !r.isDocument() {
			for _, method := range methodsOf(r) {
				app.Add(method, strings.Replace(r.path, idPattern, ":id", 1), s.handler(r))
			}
		}
		s.addEndpoint(r)
	}
	s.router = app.Handler()
	s.http = app.Server()
	s.http.Handler = s.serve
	s.http.ErrorHandler = s.unreadable
	s.http.SecureErrorLogMessage = true // errors that do not quote the request
	if s.authz != nil && s.authz.conns != nil {
		settings.ReadBufferSize = authzHeadLimit
		s.authz.http = fiber.New(settings).Server()
		s.authz.http.Handler, s.authz.http.ErrorHandler, s.authz.http.SecureErrorLogMessage = s.serveAuthz, s.unreadableAuthz, true
	}
	return s
}

// methodsOf returns the methods of a route. GET includes HEAD (RFC 9110 section 9.1); fasthttp omits the body.
func methodsOf(r route) []string {
	if r.method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{r.method}
}

func (s *Server) addEndpoint(r route) {
	t, known := s.endpoints[r.path]
	if !known {
		t.methods = map[string]bool{}
	} else {
		t.allow += ", "
	}
	t.path, t.takesID = r.path, strings.HasSuffix(r.path, idPattern)
	for _, method := range methodsOf(r) {
		t.methods[method] = true
	}
	if r.isDocument() {
		t.document = r.handle
	}
	t.allow += strings.Join(methodsOf(r), ", ")
	s.endpoints[r.path] = t
}

// handler wraps a route's handler with the steps that all routes but those of documents share.
func (s *Server) handler(r route) fiber.Handler {
	return func(f *fiber.Ctx) error {
		x := exchangeOf(f.Context())
		if r.trust == keyHolders && s.callerKey == nil && s.exposure == identity.ExposurePublic {
			return errNoKeySet()
		}
		if s.needsTrust(r.trust) && !s.trusts(x.http) {
			return errUntrusted(x.http)
		}
		ctx, cancel := context.WithTimeout(x.context(s.work), s.timeout)
		defer cancel()
		ctx = identity.WithCaller(ctx, identity.Caller{
			RequestID: x.id,
			Address:   s.clientAddress(x.http),
			UserAgent: string(x.http.Request.Header.UserAgent()),
			Language:  string(x.http.Request.Header.Peek("Accept-Language")),
			Connected: func() bool { return peerLives(x.http.Conn()) },
		})
		if r.limit != "" {
			// The limit of the client address applies before the body is read.
			admit := func() (identity.Allowance, error) { return s.accounts.Admit(ctx, r.limit) }
			if err := x.enforceLimit(r.limit, admit); err != nil {
				return err
			}
		}
		x.params.strict = s.strict
		if r.body != noBody {
			if err := x.params.read(&x.http.Request, r.body); err != nil {
				return err
			}
		}
		return r.handle(ctx, x)
	}
}

// Serve answers requests on a listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(newListener(l, s.conns)); err != nil {
		return fmt.Errorf("httpapi: serve: %w", err)
	}
	return nil
}

// ServeAuthz answers requests for decisions on a port of their own until Shutdown.
func (s *Server) ServeAuthz(l net.Listener) error {
	if err := s.authz.http.Serve(newListener(l, s.authz.conns)); err != nil {
		return fmt.Errorf("httpapi: serve decisions: %w", err)
	}
	return nil
}

// Drain asks each client, with its next reply, to close its connection. Call it some time before
// Shutdown, when load balancers no longer send new connections.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown stops accepting requests and waits for those in progress. If ctx ends first, it cancels them.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	s.endings.stop()
	defer s.stop()
	decisions := make(chan error, 1)
	go func() {
		if s.authz == nil || s.authz.conns == nil {
			decisions <- nil
			return
		}
		s.authz.conns.stop()
		decisions <- s.authz.http.ShutdownWithContext(ctx)
	}()
	s.conns.stop()
	if err := errors.Join(s.http.ShutdownWithContext(ctx), <-decisions); err != nil {
		return fmt.Errorf("httpapi: shut down: %w", err)
	}
	return nil
}

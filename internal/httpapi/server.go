package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
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

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	bodyLimit = 64 << 10

	// headLimit bounds the request line and fields: an access token of 8 KiB
	// and what proxies add. More is 431 (RFC 6585 section 5).
	headLimit = 16 << 10
)

// Accounts is what the routes do: *identity.Service. Each error is, or wraps,
// an *identity.Error whose message is for the caller; anything else is answered
// as an internal error and logged.
type Accounts interface {
	// SignUp creates an account. The code is empty of text where it left by mail.
	SignUp(ctx context.Context, s identity.SignUp) (identity.Code, error)
	// CheckSignUp tells what is wrong with the parameters of a sign-up.
	CheckSignUp(s identity.SignUp) []identity.Problem
	// VerifyUser redeems a verification code and opens a session.
	VerifyUser(ctx context.Context, proof identity.Proof) (identity.Tokens, error)
	// NewVerificationCode replaces the code of an account that is not verified.
	NewVerificationCode(ctx context.Context, email string) (identity.Code, error)
	// Profile gives the owner of an access token that has the scope profile.
	Profile(ctx context.Context, accessToken string) (identity.User, error)
	// UpdateProfile changes what is not nil.
	UpdateProfile(ctx context.Context, accessToken string, p identity.ProfileUpdate) (identity.User, error)
	// DeleteUser removes the owner of the access token.
	DeleteUser(ctx context.Context, accessToken string) error
	// ForgotPassword makes a recovery code.
	ForgotPassword(ctx context.Context, email string) (identity.Code, error)
	// ResetPassword redeems a recovery code; where userID is not empty, the code
	// must be theirs.
	ResetPassword(ctx context.Context, code, userID, password string) error
	// ChangePassword needs the old password too.
	ChangePassword(ctx context.Context, accessToken, oldPassword, password string) error
	// RequestEmailChange makes a code to change the address; where email is not
	// empty the code is good for that address alone.
	RequestEmailChange(ctx context.Context, accessToken, email string) (identity.Code, error)
	// ChangeEmail redeems such a code.
	ChangeEmail(ctx context.Context, accessToken, code, email string) (identity.User, error)
	// Admit counts one more of a class for who asked, by their address. Where that is
	// too much, the error says so, and the allowance is there too.
	Admit(ctx context.Context, class identity.LimitClass) (identity.Allowance, error)
	// AdmitChange and AdmitEnding do the same for what the owner of an access token
	// changes, and ends. Their errors are also those of a token that does not hold.
	AdmitChange(ctx context.Context, accessToken string) (identity.Allowance, error)
	AdmitEnding(ctx context.Context, accessToken string) (identity.Allowance, error)
	// SignIn opens a session; username may be an email address.
	SignIn(ctx context.Context, username, password string) (identity.Tokens, error)
	// Renew gives a new access token, and a new refresh token if needed.
	Renew(ctx context.Context, refreshToken string) (identity.Tokens, error)
	// Sessions lists the live sessions of the owner of an access token that has
	// the scope profile.
	Sessions(ctx context.Context, accessToken string) ([]identity.OwnSession, error)
	// EndSession ends one of them.
	EndSession(ctx context.Context, accessToken, id string) error
	// SignOut ends a session. It is no error where it has ended already.
	SignOut(ctx context.Context, refreshToken string) error
	// Introspect tells what is known of a token of either kind (RFC 7662).
	Introspect(ctx context.Context, token string) (identity.Introspection, error)
}

// KeySource gives the keys to be published now. It is asked at each request for
// them, and must be quick. Before there are any it gives the zero Ring.
type KeySource interface {
	Ring() keys.Ring
}

// Options are what a Server is made of.
type Options struct {
	Accounts         Accounts
	Keys             KeySource
	Exposure         identity.Exposure
	TrustedCallerKey string // empty: every caller is trusted
	Optional         identity.OptionalNames

	// StrictParameters refuses parameters that a route does not know. Otherwise they
	// are ignored.
	StrictParameters bool

	// AllowedOrigins are those whose pages may call, as browsers write them;
	// none: no reply says anything of CORS.
	AllowedOrigins []string
	// AllowedHeaders are the fields that these pages may send besides the usual ones.
	AllowedHeaders []string
	// ProxyHops is how many trusted proxies each request has passed.
	ProxyHops int
	// ProxyField is the one field that they write the client's address to;
	// AnyProxyField, or empty: either.
	ProxyField string

	Log     *slog.Logger          // nil: nowhere
	Metrics prometheus.Registerer // nil: nowhere

	// Timeout bounds each of: reading a request, working on one, and writing its
	// reply. Zero means 10 s.
	Timeout time.Duration
	// IdleTimeout bounds the wait between two requests of one connection. Zero
	// means Timeout.
	IdleTimeout time.Duration
	// Memory bounds, in bytes, what the connections of all clients hold. Zero means
	// 64 MiB.
	Memory int64
}

// Server answers requests. Make one with New.
type Server struct {
	accounts   Accounts
	keys       KeySource
	exposure   identity.Exposure
	optional   identity.OptionalNames
	openAPI    []byte
	callerKey  *[sha256.Size]byte // of the trusted caller's key; nil where every caller is trusted
	origins    map[string]bool    // that are allowed; nil where there are none
	fields     string             // that pages of these may send
	refused    refusedOrigins
	strict     bool
	proxyHops  int
	proxyField string
	log        *slog.Logger
	metrics    *metrics
	timeout    time.Duration

	conns     *connections
	endpoints map[string]endpoint // by path
	router    fasthttp.RequestHandler
	http      *fasthttp.Server
	draining  atomic.Bool

	// work is the parent of every request's context; stop ends what is still
	// under way when Shutdown has waited long enough.
	work context.Context
	stop context.CancelFunc

	published atomic.Pointer[publishedKeys]
}

// endpoint is what is known of a path.
type endpoint struct {
	path    string
	takesID bool // the path ends in idPattern
	methods map[string]bool
	allow   string // the value of Allow (RFC 9110 section 10.2.1)
}

// New makes a Server. It panics where Options are not complete, for that is a
// mistake in the program.
func New(o Options) *Server {
	if o.Accounts == nil || o.Keys == nil {
		panic("httpapi: Options.Accounts and Options.Keys are needed")
	}
	s := &Server{
		accounts: o.Accounts, keys: o.Keys, exposure: o.Exposure, optional: o.Optional,
		openAPI: openAPIOf(o.Optional), log: o.Log,
		metrics: newMetrics(o.Metrics), timeout: o.Timeout, proxyHops: o.ProxyHops, proxyField: o.ProxyField,
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
	s.conns = newConnections(cmp.Or(o.Memory, defaultMemory), descriptorsForClients())
	s.metrics.watch(s.conns, o.Metrics)
	s.work, s.stop = context.WithCancel(context.Background())

	// Fiber serves what it is asked for; limits and timeouts are fasthttp's.
	app := fiber.New(fiber.Config{
		DisableStartupMessage: true,
		// Without it, strings that outlive their request change under whoever
		// holds them, because fasthttp uses its buffers again.
		Immutable:     true,
		StrictRouting: true,
		CaseSensitive: true,
		BodyLimit:     bodyLimit,
		// A multipart form would be read into files before anybody asked for it.
		DisablePreParseMultipartForm: true,
		DisableDefaultContentType:    true,
		ReadBufferSize:               headLimit,
		// An idle connection holds no buffers, so ten thousand of them are cheap.
		ReduceMemoryUsage: true,
		ReadTimeout:       s.timeout,
		WriteTimeout:      s.timeout,
		IdleTimeout:       cmp.Or(o.IdleTimeout, s.timeout),
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			exchangeOf(c.Context()).fail(err)
			return nil
		},
	})
	for _, r := range append(s.routes(), s.shortcuts()...) {
		for _, method := range methodsOf(r) {
			app.Add(method, strings.Replace(r.path, idPattern, ":id", 1), s.handler(r))
		}
		s.addEndpoint(r)
	}
	s.router = app.Handler()
	s.http = app.Server()
	s.http.Handler = s.serve
	s.http.ErrorHandler = s.unreadable
	s.http.SecureErrorLogMessage = true // errors that do not quote what they could not read
	return s
}

// methodsOf returns the methods that a route takes: HEAD wherever there is GET (RFC
// 9110 section 9.1). fasthttp leaves out the body.
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
	t.allow += strings.Join(methodsOf(r), ", ")
	s.endpoints[r.path] = t
}

// handler joins a route's handler with what all routes have in common.
func (s *Server) handler(r route) fiber.Handler {
	return func(f *fiber.Ctx) error {
		x := exchangeOf(f.Context())
		if s.needsTrust(r.trust) && !s.trusts(x.http) {
			return errUntrusted(x.callerKey())
		}
		ctx, cancel := context.WithTimeout(s.work, s.timeout)
		defer cancel()
		ctx = identity.WithCaller(ctx, identity.Caller{
			RequestID: x.id,
			Address:   s.clientAddress(x.http),
			UserAgent: string(x.http.Request.Header.UserAgent()),
			Language:  string(x.http.Request.Header.Peek("Accept-Language")),
			Connected: func() bool { return peerLives(x.http.Conn()) },
		})
		if r.limit != "" {
			if err := x.enforceLimit(ctx, r.limit); err != nil {
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

// Serve answers requests that come in at the listener, until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(newListener(l, s.conns)); err != nil {
		return fmt.Errorf("httpapi: serve: %w", err)
	}
	return nil
}

// Drain asks every client, with its next reply, to close its connection. Call
// it when no new connections should come, some time before Shutdown.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown stops taking requests and waits for those under way. When ctx ends
// first, they are cancelled.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	s.conns.stop()
	defer s.stop()
	if err := s.http.ShutdownWithContext(ctx); err != nil {
		return fmt.Errorf("httpapi: shut down: %w", err)
	}
	return nil
}

package identity

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/auth-gateway/auth-gateway/internal/token"
)

// Exposure tells who calls the API, and so who may see a one-time code.
type Exposure string

// The exposures.
const (
	// ExposureInternal: the callers are the owner's own backends. They see codes,
	// mail them, and may choose scopes.
	ExposureInternal Exposure = "internal"
	// ExposurePublic: browsers and apps call. Codes leave by mail alone, and no
	// answer tells who has an account, but for a username that is taken when
	// someone who is signed in asks for it.
	ExposurePublic Exposure = "public"
)

// Rotation tells when a renewal makes a new refresh token.
type Rotation string

// The rotations.
const (
	RotateWhenNeeded Rotation = "when-needed" // past half of its life
	RotateAlways     Rotation = "always"      // at each use
)

// Policy is what the owner of the gateway decides.
type Policy struct {
	Issuer            string   // of all tokens
	Audience          []string // of access tokens
	Exposure          Exposure
	SignUpScopes      string        // what a sign-up without a scope gets
	Optional          OptionalNames // what people need not say of themselves
	AccessTTL         time.Duration // of an access token
	RefreshTTL        time.Duration // of a refresh token
	SessionLifetime   time.Duration // of a session, however often it is renewed
	SessionsPerUser   int           // the oldest beyond these end
	Rotation          Rotation
	ReuseGrace        time.Duration // how long the refresh token before the current one is taken again
	VerificationTTL   time.Duration // of a verification code
	RecoveryTTL       time.Duration // of a recovery or email-change code
	MinPasswordLength int           // in code points
	PasswordBlocklist bool          // refuse the most common passwords
	LimitSignIn       Rate          // of one client address, as the next two
	LimitSignUp       Rate
	LimitCodes        Rate
	LimitWrites       Rate     // of one user, or one of their sessions
	KeepAudit         bool     // the Store records events, and not only the log
	SendsMail         bool     // owners are told of changes by mail; codes too where Exposure is public
	LimitMails        Rate     // of mails that somebody asked for, by recipient
	ServiceNames      []string // words that are no password here: the issuer's host, for one
}

// Service is the domain's whole surface. Its methods are safe for concurrent
// use. KindOf tells every error's kind; one without an *Error in its chain is
// Internal.
type Service struct {
	policy Policy
	store  Store
	tokens *token.Service
	hasher *Hasher
	audit  *slog.Logger
	now    func() time.Time
	counts counters

	refusals *lru.Cache[LimitKey, refusal] // those that are not over
	sampler  *sampler
}

// counters count what became of sessions, and who was refused; see Stats and
// Limited.
type counters struct {
	opened, renewed, reused, ended atomic.Uint64

	limited map[LimitClass]*atomic.Uint64 // every class is in it from the start
	refused map[Refusal]*atomic.Uint64    // likewise
}

// Stats are counts since the start of the process.
type Stats struct {
	SessionsOpened  uint64 // by a sign-in or a verification
	SessionsRenewed uint64 // renewals that were answered
	SessionsReused  uint64 // ended because a refresh token was used again (theft)
	SessionsEnded   uint64 // ended by their owner
}

// Dependencies are what a Service needs of the world.
type Dependencies struct {
	Store  Store
	Tokens *token.Service
	Hasher *Hasher
	Audit  *slog.Logger // nil: nowhere
	Now    func() time.Time
}

// OptionalNames says which names an account may be without. Without a username a
// person signs in by email.
type OptionalNames struct {
	Username, FirstName, LastName bool
}

// SignUp is what a new account is made of.
type SignUp struct {
	Username, Email, FirstName, LastName, Password string // an optional name may be empty
	Scope                                          string // empty: the policy's
}

// Code is a one-time code on its way to whoever may see it.
type Code struct {
	UserID    string
	Text      string // empty where it left by mail
	ExpiresIn time.Duration
}

// Tokens is the answer to a sign-in, a verification and a renewal.
type Tokens struct {
	AccessToken      string
	ExpiresIn        time.Duration
	RefreshToken     string // always the one to hold from now on
	RefreshExpiresIn time.Duration
	Scope            string
}

// Introspection is what is known of a token (RFC 7662 section 2.2). With Active
// false everything else is empty.
type Introspection struct {
	Active    bool
	TokenType string // "access_token" or "refresh_token"
	TokenID   string // jti
	Scope     string // as the account has it now, and never wider than the token's
	Username  string
	Subject   string
	SessionID string
	Issuer    string
	Audience  []string
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// New joins the domain's rules with what they need of the world.
func New(p Policy, d Dependencies) *Service {
	if d.Audit == nil {
		d.Audit = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		policy: p, store: d.Store, tokens: d.Tokens, hasher: d.Hasher,
		audit: d.Audit, now: d.Now,
		counts:  counters{limited: map[LimitClass]*atomic.Uint64{}, refused: map[Refusal]*atomic.Uint64{}},
		sampler: newSampler(),
	}
	for _, class := range LimitClasses() {
		s.counts.limited[class] = new(atomic.Uint64)
	}
	for _, r := range Refusals() {
		s.counts.refused[r] = new(atomic.Uint64)
	}
	var err error
	if s.refusals, err = lru.New[LimitKey, refusal](maxRefusals); err != nil {
		panic("identity: " + err.Error()) // only for a size below one
	}
	return s
}

// Stats gives the counts so far.
func (s *Service) Stats() Stats {
	return Stats{
		SessionsOpened:  s.counts.opened.Load(),
		SessionsRenewed: s.counts.renewed.Load(),
		SessionsReused:  s.counts.reused.Load(),
		SessionsEnded:   s.counts.ended.Load(),
	}
}

// preventsEnumeration reports whether no answer may show which accounts exist.
func (s *Service) preventsEnumeration() bool { return s.policy.Exposure == ExposurePublic }

// authenticate verifies an access token and asks for a scope (empty: none).
// Whether the session still lives is told by the query that the caller makes
// anyway, with the reference that this returns.
func (s *Service) authenticate(accessToken, scope string) (SessionRef, error) {
	claims, err := s.tokens.VerifyAccess(accessToken)
	if err != nil {
		return SessionRef{}, tokenFailure(err)
	}
	if scope != "" && !HasScope(claims.Scope, scope) {
		return SessionRef{}, failure(Forbidden, ReasonScopeMissing, "the token lacks the scope %q", scope)
	}
	return SessionRef{ID: claims.SessionID, UserID: claims.Subject, Now: s.now()}, nil
}

// ready tells whether tokens can be signed, before anything is done that ends
// with some.
func (s *Service) ready() error {
	if !s.tokens.Ready() {
		return tokenFailure(token.ErrNoKeys)
	}
	return nil
}

// tokenFailure is the answer to a token that cannot be verified, or signed. That
// there are no keys yet, and that signing fails, is not the caller's fault.
func tokenFailure(err error) error {
	if errors.Is(err, token.ErrNoKeys) {
		return &Error{Kind: Unavailable, Reason: ReasonKeysNotLoaded, Message: "the signing keys are not loaded yet", RetryAfter: time.Second, Cause: err}
	}
	if !errors.Is(err, token.ErrInvalid) {
		return &Error{Kind: Internal, Reason: ReasonInternal, Message: "a token could not be signed", Cause: err}
	}
	return errToken(err)
}

// storeFailure turns what a Store reports into what a caller is told, for the
// errors that mean the same wherever they occur.
func storeFailure(err error) error {
	if taken, ok := errors.AsType[*TakenError](err); ok {
		var p problems
		if taken.Username {
			p.add("username", Fault{FieldTaken, "is taken"})
		}
		if taken.Email {
			p.add("email", Fault{FieldTaken, "is taken"})
		}
		return p.as(Conflict)
	}
	switch {
	case errors.Is(err, ErrNoSession):
		return errToken(err)
	case errors.Is(err, ErrNoCode):
		return errCode()
	case errors.Is(err, ErrSuspended):
		return failure(Forbidden, ReasonAccountSuspended, "the account is suspended")
	case errors.Is(err, ErrNoUser):
		return fieldFailure(NotFound, "email", Fault{FieldUnknown, "no account has this address"})
	default:
		return err
	}
}

// newID makes an id for a user or a session: a random UUID (RFC 9562 version
// 4), which tells nothing about when or how many.
func newID() string { return uuid.NewString() }

// IsUUID tells whether s is a UUID in its canonical form. Other spellings
// (upper case, braces, no dashes) name nobody, so that one id has one text.
func IsUUID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

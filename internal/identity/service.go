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

// Exposure says who calls the API, and so who may see a one-time code.
type Exposure string

// The exposures.
const (
	// ExposureInternal: the owner's backends call the API. They receive the codes, send
	// them by mail, and may choose scopes.
	ExposureInternal Exposure = "internal"
	// ExposurePublic: browsers and apps call the API. Codes are only sent by mail, and no answer shows whether an account
	// exists, with one exception: a signed-in user that asks for another username learns that it is taken.
	ExposurePublic Exposure = "public"
)

// Rotation says when a renewal makes a new refresh token.
type Rotation string

// The rotations.
const (
	RotateWhenNeeded Rotation = "when-needed" // after half of its lifetime
	RotateAlways     Rotation = "always"      // at each use
)

// Policy holds the decisions of the owner of the gateway.
type Policy struct {
	Issuer            string   // of all tokens
	Audience          []string // of access tokens
	Exposure          Exposure
	SignUpScopes      string        // of a sign-up that asks for no scope
	Optional          OptionalNames // which names an account may lack
	AccessTTL         time.Duration // of an access token
	RefreshTTL        time.Duration // of a refresh token
	SessionLifetime   time.Duration // of a session, however often it is renewed
	SessionsPerUser   int           // the oldest beyond these end
	Rotation          Rotation
	ReuseGrace        time.Duration // how long the refresh token before the current one is still accepted
	VerificationTTL   time.Duration // of a verification code
	RecoveryTTL       time.Duration // of a recovery or email-change code
	InvitationTTL     time.Duration // of a recovery code that invites
	MinPasswordLength int           // in code points
	PasswordBlocklist bool          // refuse the most common passwords
	LimitSignIn       Rate          // of one client network, like the next two
	LimitSignUp       Rate
	LimitCodes        Rate
	LimitWrites       Rate     // of one user, or one of their sessions
	KeepAudit         bool     // the Store records events too, and not only the log
	SendsMail         bool     // owners are notified of changes by mail; codes are mailed too if Exposure is public
	LimitMails        Rate     // of requested mails, by recipient
	TokenClaims       []string // members of the metadata of an account that its access tokens contain
	ServiceNames      []string // words that are refused as a password, such as the issuer's host
}

// Service is the whole API of the domain. Its methods are safe for concurrent use. KindOf
// returns the kind of every error.
type Service struct {
	policy Policy
	store  Store
	tokens *token.Service
	hasher *Hasher
	audit  *slog.Logger
	now    func() time.Time
	counts counters

	refusals  *lru.Cache[LimitKey, refusal] // clients that still have to wait
	sampler   *sampler
	migration migration
}

// counters counts sessions and refusals; see Stats, Limited and Refused.
type counters struct {
	opened, renewed, reused, ended atomic.Uint64

	limited map[LimitClass]*atomic.Uint64 // has every class from the start
	refused map[Refusal]*atomic.Uint64    // has every refusal from the start
}

// Stats holds counts since the start of the process.
type Stats struct {
	SessionsOpened  uint64 // by a sign-in or a verification
	SessionsRenewed uint64 // renewals that were answered
	SessionsReused  uint64 // ended because a refresh token was reused (theft)
	SessionsEnded   uint64 // ended by their owner
}

// Dependencies are what a Service needs from outside.
type Dependencies struct {
	Store  Store
	Tokens *token.Service
	Hasher *Hasher
	Former FormerSystem // optional
	Audit  *slog.Logger // nil: nowhere
	Now    func() time.Time
}

// OptionalNames says which names an account may lack. A user without a username signs in by email.
type OptionalNames struct {
	Username, FirstName, LastName bool
}

// SignUp is a request for a new account.
type SignUp struct {
	Username, Email, FirstName, LastName, Password string // an optional name may be empty
	Scope                                          string // empty: the policy's
}

// Code is a one-time code for a caller that may see it.
type Code struct {
	UserID    string
	Text      string // empty if it is sent by mail
	ExpiresIn time.Duration
}

// Tokens is the answer to a sign-in, a verification and a renewal.
type Tokens struct {
	AccessToken      string
	ExpiresIn        time.Duration
	RefreshToken     string // always the one to use from now on
	RefreshExpiresIn time.Duration
	Scope            string
}

// Introspection describes a token (RFC 7662 section 2.2). If Active is false, all other fields are empty.
type Introspection struct {
	Active    bool
	TokenType string // "access_token" or "refresh_token"
	TokenID   string // jti
	ClientID  string
	Scope     string // as the account has it now, but never wider than the token's
	Roles     string // as the account has them now
	Username  string
	Subject   string
	SessionID string
	Issuer    string
	Audience  []string
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// New returns a Service.
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
	s.migration.system, s.migration.turns = d.Former, make(chan struct{}, migrationAtOnce)
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

// Stats returns the current counts.
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

// authenticate verifies an access token and requires a scope, if one is given. It does not check whether the session is
// alive: the caller's query does that, with the reference that authenticate returns.
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

// ready returns an error if no tokens can be signed. It is called before any work that ends with tokens.
func (s *Service) ready() error {
	if !s.tokens.Ready() {
		return tokenFailure(token.ErrNoKeys)
	}
	return nil
}

// tokenFailure returns the answer if a token cannot be verified or signed. Missing keys
// and failures to sign are not the caller's fault.
func tokenFailure(err error) error {
	if errors.Is(err, token.ErrNoKeys) {
		return &Error{
			Kind: Unavailable, Reason: ReasonKeysNotLoaded, Message: "the signing keys are not loaded yet",
			RetryAfter: time.Second, Cause: err,
		}
	}
	if !errors.Is(err, token.ErrInvalid) {
		return &Error{Kind: Internal, Reason: ReasonInternal, Message: "a token could not be signed", Cause: err}
	}
	return errToken(err)
}

// storeFailure translates an error of the Store for the caller, if the error means the
// same wherever it occurs. It returns nil for nil.
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

// newID returns an id for a user or a session: a random UUID (RFC 9562 version 4), which
// shows neither when it was made nor how many there are.
func newID() string { return uuid.NewString() }

// IsUUID reports whether s is a UUID in its canonical form. Other spellings (upper case,
// braces, no dashes) are not accepted, so that each id has one text.
func IsUUID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

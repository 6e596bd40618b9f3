package identity

import (
	"context"
	"time"
)

// Store keeps accounts, codes and sessions. Every method is atomic: it does everything that its comment says, or
// nothing. Many goroutines and many replicas call it at once; the comments say which races it must decide.
//
// A method that cannot reach its data, or gets no answer in time, returns an *Error of kind Unavailable. The comments
// name all other errors; any further error is a bug and maps to Internal.
//
// A method that takes an Event or a Record writes it together with the change: both are there, or neither, and a call
// that changes nothing writes nothing. If the event names no user, the Store enters the one that the call has found. An
// event outlives its user.
//
// A notice goes into the outbox, to the proved address that the account had before the
// change, in the account's language. A sign-up that becomes an account gets no notice.
//
// The contract is executable: identitytest.TestStore runs against every Store.
type Store interface {
	accountStore
	codeStore
	sessionStore
	mailStore
	limitStore

	// RecordEvent records an event that belongs to no change, such as a refusal, in one statement.
	RecordEvent(ctx context.Context, e Event) error
}

type accountStore interface {
	// CreateSignUp stores a sign-up, which waits for the proof of its address, and its code. Any number of sign-ups may
	// wait for one username or address, because a sign-up reserves neither. If an account has the canonical username or
	// email, it returns a *TakenError that names everything that is taken.
	CreateSignUp(ctx context.Context, n NewSignUp, c NewCode, e Event) error

	// CreateSignUpConcealed stores a sign-up, whatever accounts exist, and puts a mail
	// into the outbox. It is one statement and does the same work in every case.
	CreateSignUpConcealed(ctx context.Context, n NewSignUp, m NewMail, e Event) error

	// FindSignUps reads the sign-ups that wait under this canonical username or email:
	// the newest first, at most MaxClaims.
	FindSignUps(ctx context.Context, login Login) ([]Claim, error)

	// FindCredentials reads, in one statement, what a sign-in needs: the account with this canonical username or email
	// (Found is false if there is none), and the failures counted against it. Failures from a known network of the account
	// are counted for that network, all others together for unknown networks. They are counted for the login as it was
	// given, whether or not an account has it, so they do not show which accounts exist, nor which logins belong to the
	// same account.
	FindCredentials(ctx context.Context, login Login) (Credentials, error)

	// CountFailure adds one wrong password to those counted under key.
	CountFailure(ctx context.Context, key ThrottleKey, e Event) error

	// UpdateUser changes the names that are not nil, for the user of a live session. ErrNoSession; *TakenError.
	UpdateUser(ctx context.Context, s SessionRef, p ProfileChange, e Event) (User, error)

	// DeleteUser removes the user of a live session with all sessions, codes, known
	// networks and counted failures. ErrNoSession.
	DeleteUser(ctx context.Context, s SessionRef, e Event) error

	// FindUser reads the user of a live session, in one statement. ErrNoSession.
	FindUser(ctx context.Context, s SessionRef) (User, error)

	// FindPassword reads what a change of password needs, for the user of a live session. The failures are those that
	// FindCredentials reads for the username. For an account without a username they are counted separately. ErrNoSession.
	FindPassword(ctx context.Context, s SessionRef, from Network) (Credentials, error)

	// ChangePassword replaces oldHash by newHash for the user of a live session, ends all other sessions of the user, and
	// removes the user's codes and counted failures. A concurrent sign-in that has read oldHash opens no session
	// afterwards. ErrNoSession; ErrStale if the hash is no longer oldHash.
	ChangePassword(ctx context.Context, s SessionRef, oldHash, newHash string, r Record) error
}

type codeStore interface {
	// IssueCode makes c, of purpose Verification or Recovery, the only live code of
	// its purpose for its owner, and returns the owner's id:
	//
	//	Recovery      the account with this canonical email; if there is none, the
	//	              newest sign-up that waits for it
	//	Verification  the newest claim to the address (see Claim); ErrAlreadyVerified if
	//	              an account has it
	//
	// ErrNoUser if there is neither.
	IssueCode(ctx context.Context, canonicalEmail string, c NewCode, e Event) (ownerID string, err error)

	// IssueEmailChange makes c the only live EmailChange code of the user of a live session. If c.Target is not empty and
	// another account has that address, it returns *TakenError. ErrNoSession.
	IssueEmailChange(ctx context.Context, s SessionRef, c NewCode, e Event) error

	// FindClaims reads the claims to the address that a live Verification code was sent to: first the one that owns the
	// code, then the newest others, at most MaxClaims in all. The code remains valid. ErrNoCode.
	FindClaims(ctx context.Context, h CodeHash) ([]Claim, error)

	// RedeemVerification uses up a Verification code and proves a claim to the address that it was sent to: a sign-up
	// becomes an account with the same id; the unproved address of an account becomes its address. It removes all sign-ups
	// that wait for the address and the other codes of the account, ends all its sessions, opens the session n and makes
	// n.From a known network. Of any number of concurrent calls for one address one succeeds.
	//
	// ErrNoCode; ErrSeveralClaims if p.ClaimID is empty and the owner of the code is not the only claim; ErrStale if the
	// claim was removed or has another password hash than p.PasswordHash; ErrSuspended; *TakenError if an account has the
	// username. The code remains valid after all of these.
	RedeemVerification(ctx context.Context, p ClaimProof, n NewSession, r Record) (User, error)

	// FindRecovery reads the owner of a live Recovery code, an account or a sign-up. The code remains valid. ErrNoCode.
	FindRecovery(ctx context.Context, h CodeHash) (Claim, error)

	// RedeemRecovery uses up the Recovery code of an account or sign-up, owner: newHash becomes its password, all its
	// sessions end, its codes and counted failures are removed, and from becomes a known network. A sign-up becomes an
	// account, as with RedeemVerification, because its owner has read the mail. A suspended account stays suspended. Of
	// any number of concurrent calls one succeeds. ErrNoCode; *TakenError if another account has the username of a
	// sign-up: the code then remains valid.
	RedeemRecovery(ctx context.Context, h CodeHash, owner Claim, newHash string, from Network, r Record) error

	// RedeemEmailChange uses up an EmailChange code of the user of a live session, and removes the user's other codes. If
	// the code was made for exactly this address, or the account has it already, it becomes the account's address, proved.
	// Otherwise it is stored beside that one, unproved, and reserves nothing: sign-in and recovery still use the proved
	// address.
	//
	// ErrNoSession; ErrNoCode, also if the code belongs to another user or another address; *TakenError if another account
	// has an address that is to be proved or, with RefuseTaken, any address. The code remains valid after all of these.
	RedeemEmailChange(ctx context.Context, s SessionRef, e EmailRedemption, r Record) (User, error)
}

type sessionStore interface {
	// OpenSession inserts a session, in one statement, if the account is still as its Credentials were read: the same
	// password hash, not suspended, and without too many new failures (n.Failures). With n.Forgive it removes the failures
	// counted under n.ThrottleKey. It stores n.Rehash if that is not empty, removes the oldest sessions of the user beyond
	// n.Keep, and makes n.From a known network, if it is set. Of more than KnownNetworks it keeps those seen last.
	// ErrStale if the account has changed.
	OpenSession(ctx context.Context, n NewSession, e Event) error

	// FindSession reads a live session and its user, in one statement. ErrNoSession, also if the user is suspended.
	FindSession(ctx context.Context, s SessionRef) (Session, error)

	// AdvanceSession moves a live session from generation, or from an earlier one, to generation+1 in one conditional
	// statement. If the session has a later generation, or does not exist, advanced is false and nothing has changed: of any
	// number of concurrent calls with one generation exactly one advances it.
	AdvanceSession(
		ctx context.Context, s SessionRef, generation int64, renewal Renewal,
	) (session Session, advanced bool, err error)

	// EndSession removes a session. It is no error if there is none.
	EndSession(ctx context.Context, s SessionRef, e Event) (ended bool, err error)

	// FindOwnSessions lists, in one statement, all live sessions of the user of a live
	// session: the newest first. ErrNoSession.
	FindOwnSessions(ctx context.Context, s SessionRef) ([]OwnSession, error)

	// EndOwnSession removes, in one statement, the live session with this id of the user of a live session; it may be that
	// session. If the user has no such session, ended is false and nothing has changed: of any number of concurrent calls
	// one ends it. ErrNoSession.
	EndOwnSession(ctx context.Context, s SessionRef, id string, e Event) (ended bool, err error)
}

// mailStore is the outbox. Its mails refer to accounts and sessions, and outlive them.
type mailStore interface {
	// QueueMail puts a mail into the outbox, in one statement. It looks up no account.
	QueueMail(ctx context.Context, m NewMail) error

	// QueueEmailChange does the same for the user of a live session. If m.To is empty,
	// the recipient is the user's own address. ErrNoSession.
	QueueEmailChange(ctx context.Context, s SessionRef, m NewMail) error

	// ClaimMail claims the mail that has been due the longest and that no other call is claiming; found is false if no
	// mail is due. The mail is due again after the lease. ClaimMail calls process in the transaction of the claim. If process
	// returns an error, nothing has changed. If the transaction is repeated, so is the call.
	ClaimMail(ctx context.Context, lease time.Duration, process ProcessMail) (found bool, err error)

	// RenewMail makes a claimed mail due when the lease has passed from now. Like
	// FinishMail it does nothing if the mail was claimed again.
	RenewMail(ctx context.Context, ref MailRef, lease time.Duration) error

	// FinishMail ends a claim; see MailResult. limit is the one that the mail was counted against, for MailGivenUp.
	FinishMail(ctx context.Context, ref MailRef, o MailOutcome, limit Rate) error

	// CountMails returns how many mails are in the outbox, and the age of the oldest.
	CountMails(ctx context.Context) (queued int, oldest time.Duration, err error)
}

type limitStore interface {
	// TakeLimit counts one more under key, in one statement, if rate allows it; otherwise it counts nothing. The count
	// falls one by one, by the store's own clock (the generic cell rate algorithm). Of any number of concurrent calls for
	// an unused key, rate.Count are allowed. A store may forget all counts, but not a part of one.
	TakeLimit(ctx context.Context, key LimitKey, rate Rate) (Allowance, error)

	// TakeSessionLimit is TakeLimit for the user of a live session, in one statement.
	// ErrNoSession: nothing is counted then.
	TakeSessionLimit(ctx context.Context, s SessionRef, key LimitKey, rate Rate) (Allowance, error)
}

// MaxClaims is the number of claims to one address that a password is compared with. It bounds the work of a
// verification. The owner of the code is always among them, so that no number of sign-ups by strangers keeps it out.
const MaxClaims = 10

// Claim is a sign-up that waits for the proof of its address, or an account that has
// changed to an address. The owner of a Recovery code is described by a Claim too.
type Claim struct {
	ID           string // of the account, or of the sign-up, whose account will have it too
	IsSignUp     bool
	Username     string
	Email        string
	PasswordHash string
}

// ClaimProof says which claim a Verification code proves.
type ClaimProof struct {
	Code CodeHash
	// ClaimID is empty if only the code was given: it then proves its owner's claim.
	ClaimID      string
	PasswordHash string // of the claim, as the password was compared with it; set with ClaimID

	// A username that replaces the one of the sign-up; empty: it stays.
	Username          string
	CanonicalUsername string
}

// EmailRedemption is what an EmailChange code is used for.
type EmailRedemption struct {
	Code           CodeHash
	Email          string // as given
	CanonicalEmail string
	RefuseTaken    bool // refuse an address that another account has, even if it is not to be proved
}

// Login is the username or the email of a sign-in, and the network it comes from.
type Login struct {
	CanonicalUsername string
	CanonicalEmail    string
	From              Network
}

// NewSignUp is a sign-up to be stored. The account will have its ID.
type NewSignUp struct {
	ID                string
	Username          string // empty, like CanonicalUsername: none; any number of accounts may have none
	CanonicalUsername string
	Email             string
	CanonicalEmail    string
	FirstName         string
	LastName          string
	Scope             string
	PasswordHash      string
	Language          string // an Accept-Language; empty: unknown
}

// ProfileChange holds the new values; nil fields are not changed. An empty Username
// with an empty CanonicalUsername removes the username.
type ProfileChange struct {
	Username          *string
	CanonicalUsername *string // set with Username
	FirstName         *string
	LastName          *string
}

// Purpose is the one thing that a one-time code is good for.
type Purpose string

// The purposes of a code.
const (
	Verification Purpose = "verification" // proves a new account's email address
	Recovery     Purpose = "recovery"     // sets a new password
	EmailChange  Purpose = "email_change" // allows a new email address
)

// CodeHash is the SHA-256 of a one-time code, the only form in which it is stored.
type CodeHash [32]byte

// NewCode is a code to be stored.
type NewCode struct {
	Purpose Purpose
	Hash    CodeHash
	TTL     time.Duration // by the store's own clock
	Target  string        // EmailChange: the canonical address that it is good for; empty: any
}

// Credentials are what a password is checked against.
type Credentials struct {
	Found        bool
	User         User
	PasswordHash string
	Activated    bool // the email was verified at least once
	Suspended    bool
	ThrottleKey  ThrottleKey // the key that failures are counted under, whether or not there is an account
	KnownNetwork bool        // failures are counted for a known network of the account
	Failures     int         // wrong passwords since the last right one
	SinceFailure time.Duration
}

// admitted reports whether there is an account that may sign in.
func (c Credentials) admitted() bool { return c.Found && c.Activated && !c.Suspended }

// ThrottleKey names what wrong passwords are counted against: a login, either for a
// known network of its account or for all other networks together. It is a digest, so
// that the table does not show which names were tried, and all rows have one size.
type ThrottleKey [32]byte

// NewSession is a session to be opened. RedeemVerification takes the user and the scope
// from the claim and ignores UserID and Scope.
type NewSession struct {
	ID       string
	UserID   string
	OpenedAt time.Time // of the first generation too; in whole seconds, as in tokens
	// ExpiresAt is when the refresh token of the first generation expires.
	ExpiresAt time.Time
	// EndsAt is when the session ends, however often it is renewed.
	EndsAt time.Time
	Scope  string
	Keep   int // how many sessions the user may have, including this one
	// UserAgent lets the owner recognize the session; see Caller.
	UserAgent string
	From      Network

	// Only for OpenSession:
	PasswordHash string      // as it was read
	Rehash       string      // of the same password at the current cost; empty: keep the hash
	ThrottleKey  ThrottleKey // as it was read
	Forgive      bool        // remove the failures counted under ThrottleKey
	Failures     int         // as they were read; if there are more, and at least FailureLimit: ErrStale
	FailureLimit int
}

// SessionRef names a session and the user that it must belong to. Now decides whether it is alive.
type SessionRef struct {
	ID     string
	UserID string
	Now    time.Time
}

// Session is a live session with its user.
type Session struct {
	ID          string
	User        User
	Scope       string // as granted at sign-in; see narrowScope
	Generation  int64
	OpenedAt    time.Time // when the password or code was given: auth_time
	RefreshedAt time.Time // when the current generation started
	ExpiresAt   time.Time // when the refresh token of the current generation expires
	EndsAt      time.Time
}

// OwnSession is a live session as its owner sees it in the list of sessions.
type OwnSession struct {
	ID          string
	OpenedAt    time.Time
	RefreshedAt time.Time // when the current generation started; the use of an access token is not recorded
	ExpiresAt   time.Time // unless it is renewed before
	UserAgent   string    // empty: unknown
	Current     bool      // the session of the request
}

// Renewal is what AdvanceSession writes.
type Renewal struct {
	RefreshedAt time.Time // in microseconds
	// Lifetime of the new generation. The store cuts it at the end of the session.
	Lifetime time.Duration
}

// Errors that the contract of a Store names.
var (
	ErrNoUser          = storeError("no such user")
	ErrNoCode          = storeError("no such code, or it is not valid")
	ErrNoSession       = storeError("no such session, or it has ended")
	ErrAlreadyVerified = storeError("the email address is verified already")
	ErrSuspended       = storeError("the account is suspended")
	ErrSeveralClaims   = storeError("several sign-ups wait for the proof of this address")
	ErrStale           = storeError("the account has changed since it was read")
)

type storeError string

func (e storeError) Error() string { return string(e) }

// TakenError says what another account already has.
type TakenError struct {
	Username bool
	Email    bool
}

func (e *TakenError) Error() string { return "username or email is taken" }

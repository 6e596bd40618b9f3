package identity

import (
	"context"
	"time"
)

// Store keeps accounts, codes and sessions. Every method is atomic: it does all
// that its comment says, or nothing. It may be called by many goroutines and by
// many replicas at once; the comments say which races it must decide.
//
// A method that cannot reach its data, or that does not get an answer in time,
// returns an *Error of kind Unavailable. Other errors are those that the
// comments name; anything else is a fault and maps to Internal.
//
// A method that takes an Event or a Record writes it together with the change: both
// are there, or neither, and a call that changes nothing writes nothing. If the event
// names no user, the Store enters the one that the call has found. An event outlives
// its user.
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

	// RecordEvent records an event that belongs to no change, such as a refusal, in one
	// statement.
	RecordEvent(ctx context.Context, e Event) error
}

type accountStore interface {
	// CreateSignUp keeps a sign-up, which waits for the proof of its address, and its
	// code. Any number of them may wait for one username or address: a sign-up holds
	// neither. It returns *TakenError, which names all that is taken, if an account
	// has the same canonical username or email.
	CreateSignUp(ctx context.Context, n NewSignUp, c NewCode, e Event) error

	// CreateSignUpConcealed keeps a sign-up, whatever accounts have, and puts a mail
	// into the outbox. It is one statement, and does the same work in every case.
	CreateSignUpConcealed(ctx context.Context, n NewSignUp, m NewMail, e Event) error

	// FindSignUps reads the sign-ups that wait under this canonical username or
	// email, the newest first and at most MaxClaims of them.
	FindSignUps(ctx context.Context, login Login) ([]Claim, error)

	// FindCredentials reads what a sign-in needs, in one statement: the account
	// that has this canonical username or email (Found is false if there is none),
	// and the failures counted against it. Those from a place that is familiar to the
	// account are counted for that place; all others are counted for strangers. Either
	// way they are counted for the login as it was given, so that they are the same
	// whether or not an account has it, and do not show which logins are one account's.
	FindCredentials(ctx context.Context, login Login) (Credentials, error)

	// CountFailure adds one failed password to those counted under key.
	CountFailure(ctx context.Context, key ThrottleKey, e Event) error

	// UpdateUser changes the names that are not nil, for the user of a live
	// session. ErrNoSession; *TakenError.
	UpdateUser(ctx context.Context, s SessionRef, p ProfileChange, e Event) (User, error)

	// DeleteUser removes the user of a live session, and with them every
	// session, code, place and counted failure. ErrNoSession.
	DeleteUser(ctx context.Context, s SessionRef, e Event) error

	// FindUser reads the user of a live session, in one statement. ErrNoSession.
	FindUser(ctx context.Context, s SessionRef) (User, error)

	// FindPassword reads what a change of password needs, for the user of a
	// live session. Failures are those of FindCredentials for its username; those of an
	// account without one are counted apart from all others. ErrNoSession.
	FindPassword(ctx context.Context, s SessionRef, from Network) (Credentials, error)

	// ChangePassword replaces oldHash by newHash for the user of a live session,
	// ends every other session of theirs, and removes their codes and counted
	// failures. A sign-in that read oldHash and is still under way opens no
	// session afterwards. ErrNoSession; ErrStale if the hash is no longer oldHash.
	ChangePassword(ctx context.Context, s SessionRef, oldHash, newHash string, r Record) error
}

type codeStore interface {
	// IssueCode makes c, of purpose Verification or Recovery, the only live code of
	// its purpose for what it belongs to, and returns the id of that:
	//
	//	Recovery      the account that has this canonical email; if there is none, the
	//	              newest sign-up that waits for it
	//	Verification  the newest claim to the address (see Claim); ErrAlreadyVerified if
	//	              an account has it
	//
	// ErrNoUser if there is neither.
	IssueCode(ctx context.Context, canonicalEmail string, c NewCode, e Event) (ownerID string, err error)

	// IssueEmailChange makes c the only live EmailChange code of the user of a
	// live session. If c.Target is not empty and another account has that
	// address, it returns *TakenError. ErrNoSession.
	IssueEmailChange(ctx context.Context, s SessionRef, c NewCode, e Event) error

	// FindClaims reads the claims to the address that a live Verification code was
	// sent to: first the one that the code belongs to, then the newest others, at
	// most MaxClaims in all. It does not use the code up. ErrNoCode.
	FindClaims(ctx context.Context, h CodeHash) ([]Claim, error)

	// RedeemVerification uses up a Verification code and proves a claim to the address
	// that it was sent to: a sign-up becomes an account, with its id; the unproved
	// address of an account becomes its address. All sign-ups that wait for the
	// address go, every session that the account had ends, its other codes are
	// removed, and the session n is opened; n.From becomes familiar. Of any number of
	// calls at once for one address one succeeds.
	//
	// ErrNoCode; ErrSeveralClaims if p.ClaimID is empty and the claim of the code is
	// not the only one; ErrStale if the claim is gone or has another password hash
	// than p.PasswordHash; ErrSuspended; *TakenError if an account has the username.
	// The code still holds after all of these.
	RedeemVerification(ctx context.Context, p ClaimProof, n NewSession, r Record) (User, error)

	// FindRecovery reads what a live Recovery code belongs to, an account or a
	// sign-up, without using it up. ErrNoCode.
	FindRecovery(ctx context.Context, h CodeHash) (Claim, error)

	// RedeemRecovery uses up the Recovery code of an account or sign-up, owner: newHash
	// becomes its password, and every session, code and counted failure of it goes;
	// from becomes familiar. A sign-up becomes an account, as with
	// RedeemVerification, for its owner has read the mail. A suspended account stays
	// suspended. Of any number of calls at once one succeeds. ErrNoCode; *TakenError
	// if another account has the username of a sign-up, and then the code still holds.
	RedeemRecovery(ctx context.Context, h CodeHash, owner Claim, newHash string, from Network, r Record) error

	// RedeemEmailChange uses up an EmailChange code of the user of a live session,
	// and removes every other code of theirs. If the code was made for this very
	// address, or it is the account's already, it becomes their address, proved.
	// Otherwise it is kept beside that one, unproved, and holds nothing: sign-in and
	// recovery still go by the address that was proved.
	//
	// ErrNoSession; ErrNoCode, also if the code is another user's or another
	// address's, and then it still holds; *TakenError, likewise, if another account
	// has an address that is to be proved, or, with refuseTaken, any address.
	RedeemEmailChange(ctx context.Context, s SessionRef, e EmailRedemption, r Record) (User, error)
}

type sessionStore interface {
	// OpenSession inserts a session, in one statement, if the account is still
	// as its Credentials were read: the same password hash, not suspended, and
	// not failed at by others meanwhile (n.Failures). With n.Forgive it forgets the
	// failures counted under n.ThrottleKey. It stores n.Rehash where that is not
	// empty, and removes the oldest
	// sessions of the user beyond n.Keep. n.From, where it is known, becomes
	// familiar; of more than KnownNetworks those seen last stay so. ErrStale where
	// the account has changed.
	OpenSession(ctx context.Context, n NewSession, e Event) error

	// FindSession reads a live session and its user, in one statement.
	// ErrNoSession, also where the user is suspended.
	FindSession(ctx context.Context, s SessionRef) (Session, error)

	// AdvanceSession moves a live session from generation to generation+1 in one
	// conditional statement; advanced is false, and nothing was changed, where
	// it has another generation, or is gone: exactly one of any number of calls
	// advances it.
	AdvanceSession(ctx context.Context, s SessionRef, generation int64, renewal Renewal) (session Session, advanced bool, err error)

	// EndSession removes a session. It is no error where there is none.
	EndSession(ctx context.Context, s SessionRef, e Event) (ended bool, err error)

	// FindOwnSessions lists the live sessions of the user of a live session, that
	// one among them, in one statement: the one opened last comes first.
	// ErrNoSession.
	FindOwnSessions(ctx context.Context, s SessionRef) ([]OwnSession, error)

	// EndOwnSession removes the live session that has this id, of the user of a
	// live session, in one statement; it may be that very session. ended is
	// false, and nothing was changed, where they have no such session: of any
	// number of calls at once one ends it. ErrNoSession.
	EndOwnSession(ctx context.Context, s SessionRef, id string, e Event) (ended bool, err error)
}

// mailStore is the outbox. What is in it refers to accounts and sessions, and
// outlives them.
type mailStore interface {
	// QueueMail puts a mail into the outbox, in one statement. It looks nobody up.
	QueueMail(ctx context.Context, m NewMail) error

	// QueueEmailChange does the same for the user of a live session. If m.To is
	// empty, the recipient is the user at their own address. ErrNoSession.
	QueueEmailChange(ctx context.Context, s SessionRef, m NewMail) error

	// ClaimMail claims the mail that has been due the longest and that no other call
	// is claiming; found is false if there is none. The mail is due again after the
	// lease. In the transaction of the claim it calls process, which decides what
	// becomes of the mail; after an error nothing was done. If the transaction is
	// repeated, so is the call.
	ClaimMail(ctx context.Context, lease time.Duration, process ProcessMail) (found bool, err error)

	// RenewMail makes a claimed mail due after the lease from now. It does nothing,
	// like FinishMail, if the mail was claimed again meanwhile.
	RenewMail(ctx context.Context, ref MailRef, lease time.Duration) error

	// FinishMail ends a claim; see MailResult. limit is the one that the mail was
	// counted against, for MailGivenUp.
	FinishMail(ctx context.Context, ref MailRef, o MailOutcome, limit Rate) error

	// CountMails counts what is in the outbox, and tells the age of the oldest.
	CountMails(ctx context.Context) (queued int, oldest time.Duration, err error)
}

type limitStore interface {
	// TakeLimit counts one more under key, in one statement, if rate allows it;
	// where it does not, nothing is counted. What was counted comes back one by
	// one, by the store's own clock (the generic cell rate algorithm). Of any
	// number of calls at once, for a key that is unused, rate.Count are allowed.
	// A store may forget all that it has counted, but nothing in part.
	TakeLimit(ctx context.Context, key LimitKey, rate Rate) (Allowance, error)

	// TakeSessionLimit is TakeLimit for the user of a live session, in one statement.
	// ErrNoSession, and then nothing is counted.
	TakeSessionLimit(ctx context.Context, s SessionRef, key LimitKey, rate Rate) (Allowance, error)
}

// MaxClaims is how many claims to one address a password is compared with. It
// bounds the work of a verification; the claim that the code belongs to is always
// among them, so that no number of strangers' sign-ups keeps it out.
const MaxClaims = 10

// Claim is what waits for the proof of an address: a sign-up, or an account that
// has changed to it. A code of purpose Recovery belongs to one too.
type Claim struct {
	ID           string // of the sign-up, and so of the account that it becomes; or of the account
	IsSignUp     bool
	Username     string
	Email        string
	PasswordHash string
}

// ClaimProof says which claim a Verification code proves.
type ClaimProof struct {
	Code CodeHash
	// ClaimID is empty if the code came alone: it proves the claim that it belongs to.
	ClaimID      string
	PasswordHash string // of the claim, as the password was compared with; with ClaimID

	// A username that was chosen in place of the sign-up's; empty: that one.
	Username          string
	CanonicalUsername string
}

// EmailRedemption is what an EmailChange code is used for.
type EmailRedemption struct {
	Code           CodeHash
	Email          string // as given
	CanonicalEmail string
	RefuseTaken    bool // an address that another account has, even if it is not to be proved
}

// Login is what someone signs in with, which is one of the two, and from where.
type Login struct {
	CanonicalUsername string
	CanonicalEmail    string
	From              Network
}

// NewSignUp is a sign-up to be kept. Its ID becomes the account's.
type NewSignUp struct {
	ID                string
	Username          string // empty, as CanonicalUsername: none; any number may be without
	CanonicalUsername string
	Email             string
	CanonicalEmail    string
	FirstName         string
	LastName          string
	Scope             string
	PasswordHash      string
	Language          string // an Accept-Language; empty: not said
}

// ProfileChange holds the new values; what is nil stays. An empty Username, with an
// empty CanonicalUsername, removes it.
type ProfileChange struct {
	Username          *string
	CanonicalUsername *string // set with Username
	FirstName         *string
	LastName          *string
}

// Purpose is what a one-time code is good for, and for nothing else.
type Purpose string

// The purposes of a code.
const (
	Verification Purpose = "verification" // proves a new account's email address
	Recovery     Purpose = "recovery"     // sets a new password
	EmailChange  Purpose = "email_change" // allows a new email address
)

// CodeHash is the SHA-256 of a one-time code: all that is kept of it.
type CodeHash [32]byte

// NewCode is a code to be stored.
type NewCode struct {
	Purpose Purpose
	Hash    CodeHash
	TTL     time.Duration // counted by the store's own clock
	Target  string        // EmailChange: the canonical address it is good for; empty: for any
}

// Credentials are what a password is checked against.
type Credentials struct {
	Found        bool
	User         User
	PasswordHash string
	Activated    bool // the email was verified at least once
	Suspended    bool
	ThrottleKey  ThrottleKey // what failures are counted under, for known and unknown alike
	KnownNetwork bool        // failures are counted for a known network of the account
	Failures     int         // wrong passwords since the last right one
	SinceFailure time.Duration
}

// ThrottleKey names what wrong passwords are counted against: a login, for all
// strangers together, or for a place that is familiar to its account. It is a digest,
// so that the table does not show which names were tried, and its rows have one size.
type ThrottleKey [32]byte

// NewSession is a session to be opened. RedeemVerification takes the user and
// the scope from the claim and ignores UserID and Scope.
type NewSession struct {
	ID       string
	UserID   string
	OpenedAt time.Time // also the generation's: truncated to seconds, as in tokens
	// ExpiresAt is when the refresh token of the first generation expires.
	ExpiresAt time.Time
	// EndsAt is when the session ends, however often it is renewed.
	EndsAt time.Time
	Scope  string
	Keep   int // how many sessions of the user may live, this one included
	// UserAgent is what the client called itself, for its owner to recognise the
	// session by; see Caller.
	UserAgent string
	From      Network

	// For OpenSession alone:
	PasswordHash string      // as it was read
	Rehash       string      // the same password at the current cost; empty: leave it
	ThrottleKey  ThrottleKey // as it was read
	Forgive      bool        // forget its failures
	Failures     int         // as they were read; more by now, and at FailureLimit: ErrStale
	FailureLimit int
}

// SessionRef names a session and the user it must belong to. Now decides
// whether it is alive.
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
	RefreshedAt time.Time // when the current generation was made
	ExpiresAt   time.Time // when the refresh token of the current generation expires
	EndsAt      time.Time
}

// OwnSession is a live session as its owner sees it among theirs.
type OwnSession struct {
	ID          string
	OpenedAt    time.Time
	RefreshedAt time.Time // when the current generation was made; an access token leaves no trace
	ExpiresAt   time.Time // unless it is renewed before
	UserAgent   string    // empty where it was not told
	Current     bool      // the one that asks
}

// Renewal is what AdvanceSession writes.
type Renewal struct {
	RefreshedAt time.Time // kept to the microsecond
	// Lifetime of the new generation; the store cuts it at the session's end.
	Lifetime time.Duration
}

// Errors of a Store that are part of its contract.
var (
	ErrNoUser          = storeError("no such user")
	ErrNoCode          = storeError("no such code, or it does not hold")
	ErrNoSession       = storeError("no such session, or it has ended")
	ErrAlreadyVerified = storeError("the email address is verified already")
	ErrSuspended       = storeError("the account is suspended")
	ErrSeveralClaims   = storeError("several sign-ups wait for the proof of this address")
	ErrStale           = storeError("the account has changed since it was read")
)

type storeError string

func (e storeError) Error() string { return string(e) }

// TakenError tells what another account already has.
type TakenError struct {
	Username bool
	Email    bool
}

func (e *TakenError) Error() string { return "username or email is taken" }

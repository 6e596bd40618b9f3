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
// Where ctx has an Event (EventOf), a method that changes what the event is about
// records it with the change: both are there, or neither. Where the event names
// no user, it is the one whom the call has found. A method that changes nothing
// records nothing. What is recorded outlives the user.
//
// Likewise, where ctx has a Notice (NoticeOf), ChangePassword, RedeemRecovery and
// RedeemEmailChange put it into the outbox, in the statement that makes the change.
// It goes to the address that the account had before, in the account's language.
//
// The contract is executable: identitytest.TestStore runs against every Store.
type Store interface {
	accountStore
	codeStore
	sessionStore
	mailStore
	limitStore

	// RecordEvent records the event of ctx by itself, in one statement: it is about
	// something that was refused, and changes nothing else.
	RecordEvent(ctx context.Context) error
}

type accountStore interface {
	// CreateUser inserts the user, not verified, and a code for them.
	// It returns *TakenError, which names all that is taken, where another
	// account has the same canonical username or email.
	CreateUser(ctx context.Context, u NewUser, c NewCode) (User, error)

	// CreateUserQuietly inserts the user, not verified, where nobody has their
	// canonical username or email, and in either case a mail, where the limit of its
	// recipient allows one. It is one statement, and does the same work in either
	// case; created is for the audit trail alone. Where it inserts nobody, an event
	// of ctx is recorded as EventSignUpRefused, and as nobody's.
	CreateUserQuietly(ctx context.Context, u NewUser, m NewMail) (created bool, err error)

	// FindCredentials reads what a sign-in needs, in one statement: the account
	// that has this canonical username or email (Found is false where there is
	// none) and the failures counted against it, or against the login itself
	// where there is no account. Those of an account are counted apart for each
	// place that is familiar to it, and together for all others.
	FindCredentials(ctx context.Context, login Login) (Credentials, error)

	// CountFailure adds one failed password to those counted under key.
	CountFailure(ctx context.Context, key ThrottleKey) error

	// UpdateUser changes the names that are not nil, for the user of a live
	// session. ErrNoSession; *TakenError.
	UpdateUser(ctx context.Context, s SessionRef, p ProfileChange) (User, error)

	// DeleteUser removes the user of a live session, and with them every
	// session, code, place and counted failure. ErrNoSession.
	DeleteUser(ctx context.Context, s SessionRef) error

	// FindUser reads the user of a live session, in one statement. ErrNoSession.
	FindUser(ctx context.Context, s SessionRef) (User, error)

	// FindPassword reads what a change of password needs, for the user of a
	// live session. Failures are counted as FindCredentials has them. ErrNoSession.
	FindPassword(ctx context.Context, s SessionRef, from Place) (Credentials, error)

	// ChangePassword replaces oldHash by newHash for the user of a live session,
	// ends every other session of theirs, and removes their codes and counted
	// failures. A sign-in that read oldHash and is still under way opens no
	// session afterwards. ErrNoSession; ErrStale if the hash is no longer oldHash.
	ChangePassword(ctx context.Context, s SessionRef, oldHash, newHash string) error
}

type codeStore interface {
	// IssueCode makes c the only live code of its purpose for the account that
	// has this canonical email. ErrNoUser; and ErrAlreadyVerified for the
	// purpose Verification where the email is verified.
	IssueCode(ctx context.Context, canonicalEmail string, c NewCode) (User, error)

	// IssueEmailChange makes c the only live EmailChange code of the user of a
	// live session. Where c.Target is not empty and another account has that
	// address, it returns *TakenError. ErrNoSession.
	IssueEmailChange(ctx context.Context, s SessionRef, c NewCode) (User, error)

	// RedeemVerification uses up a Verification code: its user's email becomes
	// verified, every session that was opened before ends, their other codes
	// are removed, and the session n is opened; n.From becomes familiar. Of any
	// number of calls at once one succeeds. ErrNoCode; ErrSuspended, and then the code still holds.
	RedeemVerification(ctx context.Context, h CodeHash, n NewSession) (User, error)

	// FindRecovery reads whom a live Recovery code belongs to, without using it
	// up. ErrNoCode.
	FindRecovery(ctx context.Context, h CodeHash) (Credentials, error)

	// RedeemRecovery uses up a Recovery code of the user userID: newHash becomes
	// their password, their email is verified (they read it), and every session,
	// code and counted failure of theirs goes; from becomes familiar. A suspended
	// account stays suspended. Of any number of calls at once one succeeds.
	// ErrNoCode.
	RedeemRecovery(ctx context.Context, h CodeHash, userID, newHash string, from Place) error

	// RedeemEmailChange uses up an EmailChange code of the user of a live
	// session: email becomes their address, verified where the code was made
	// for this very address, and every other code of theirs is removed.
	// ErrNoSession; ErrNoCode, also where the code is another user's or another
	// address's, and then it still holds; *TakenError, likewise.
	RedeemEmailChange(ctx context.Context, s SessionRef, h CodeHash, email, canonicalEmail string) (User, error)
}

type sessionStore interface {
	// OpenSession inserts a session, in one statement, if the account is still
	// as its Credentials were read: the same password hash, not suspended, and
	// not failed at by others meanwhile (n.Failures). It forgets the failures
	// counted under n.ThrottleKey and no others, for an attack from elsewhere goes
	// on. It stores n.Rehash where that is not empty, and removes the oldest
	// sessions of the user beyond n.Keep. n.From, where it is known, becomes
	// familiar; of more than FamiliarPlaces those seen last stay so. ErrStale where
	// the account has changed.
	OpenSession(ctx context.Context, n NewSession) error

	// FindSession reads a live session and its user, in one statement.
	// ErrNoSession, also where the user is suspended.
	FindSession(ctx context.Context, s SessionRef) (Session, error)

	// AdvanceSession moves a live session from generation to generation+1 in one
	// conditional statement; advanced is false, and nothing was changed, where
	// it has another generation, or is gone: exactly one of any number of calls
	// advances it.
	AdvanceSession(ctx context.Context, s SessionRef, generation int64, renewal Renewal) (session Session, advanced bool, err error)

	// EndSession removes a session. It is no error where there is none.
	EndSession(ctx context.Context, s SessionRef) (ended bool, err error)

	// FindOwnSessions lists the live sessions of the user of a live session, that
	// one among them, in one statement: the one opened last comes first.
	// ErrNoSession.
	FindOwnSessions(ctx context.Context, s SessionRef) ([]OwnSession, error)

	// EndOwnSession removes the live session that has this id, of the user of a
	// live session, in one statement; it may be that very session. ended is
	// false, and nothing was changed, where they have no such session: of any
	// number of calls at once one ends it. ErrNoSession.
	EndOwnSession(ctx context.Context, s SessionRef, id string) (ended bool, err error)
}

// mailStore is the outbox. What is in it refers to accounts and sessions, and
// outlives them.
type mailStore interface {
	// QueueMail puts a mail into the outbox, in one statement, where the limit of
	// its recipient allows one more; where it does not, that is no error. It looks
	// nobody up.
	QueueMail(ctx context.Context, m NewMail) error

	// QueueEmailChange does the same for the user of a live session. Where m.To is
	// empty, the recipient is the user at their own address. ErrNoSession.
	QueueEmailChange(ctx context.Context, s SessionRef, m NewMail) error

	// TakeMail takes the mail that is due longest and that no other call is taking;
	// ok is false where there is none. The mail is due again after the lease. Then
	// it finds out who is to be told what, in the same transaction:
	//
	//	MailVerification, of a sign-up that made an account: a code, if that account
	//	still has this address, and it is not verified
	//	MailVerification, of a sign-up that made none: MailEmailTaken, if an account
	//	has the address; else MailUsernameTaken
	//	MailVerification, MailRecovery: a code for the account that has the address;
	//	for MailVerification if it is not verified
	//	MailEmailChange: a code for that address, or for any, if the session that
	//	asked is alive; MailEmailTaken, if another account has the address
	//	all others: as they are
	//
	// A mail that tells nobody anything is removed, and the next one taken. A code
	// takes the place of the account's former one, and is only ever sent to the
	// address that the account has when the code is stored, or that the code is for.
	// A mail to an account is in its language, where it has one.
	TakeMail(ctx context.Context, t MailTake) (m TakenMail, ok bool, err error)

	// RemoveMail, PostponeMail and ReturnMail end a taking: the mail is gone; due
	// again after a while; due at once, and the attempt does not count. They do
	// nothing, and it is no error, where the mail was taken anew meanwhile.
	RemoveMail(ctx context.Context, ref MailRef) error
	PostponeMail(ctx context.Context, ref MailRef, after time.Duration) error
	ReturnMail(ctx context.Context, ref MailRef) error

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
}

// FamiliarPlaces is how many familiar places an account may have.
const FamiliarPlaces = 20

// Login is what someone signs in with, which is one of the two, and from where.
type Login struct {
	CanonicalUsername string
	CanonicalEmail    string
	From              Place
}

// NewUser is an account to be created.
type NewUser struct {
	ID                string
	Username          string
	CanonicalUsername string
	Email             string
	CanonicalEmail    string
	FirstName         string
	LastName          string
	Scope             string
	PasswordHash      string
	Language          string // an Accept-Language; empty: not said
}

// ProfileChange holds the new values; what is nil stays.
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
	Failures     int         // wrong passwords since the last right one
	SinceFailure time.Duration
}

// ThrottleKey names what wrong passwords are counted against: an account, for all
// strangers together; an account and a place that is familiar to it; or a login
// that no account has. It is a digest, so that the table tells nobody
// which names were tried, and its rows have one size.
type ThrottleKey [32]byte

// NewSession is a session to be opened. RedeemVerification takes the user and
// the scope from the code's owner and ignores UserID and Scope.
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
	// session by; see WithUserAgent.
	UserAgent string
	From      Place

	// For OpenSession alone:
	PasswordHash string      // as it was read
	Rehash       string      // the same password at the current cost; empty: leave it
	ThrottleKey  ThrottleKey // whose failures are forgotten
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

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// retryAfter is when a caller may come back: about as long as a pooled
// connection takes to be made anew, or a restart of PostgreSQL.
const retryAfter = 2 * time.Second

// The names of the constraints that two accounts can collide at.
const (
	usernameKey = "users_canonical_username_key"
	emailKey    = "users_canonical_email_key"
)

// acquireError is an error of getting a connection: nothing was sent. Where it
// took too long, late says what was waited for.
type acquireError struct {
	cause error
	late  string
}

func (e *acquireError) Error() string { return "no connection: " + e.cause.Error() }
func (e *acquireError) Unwrap() error { return e.cause }

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// isRefused tells of a connection that could not be made.
func isRefused(err error) bool {
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err)
}

// isViolation tells of a row that collides with another at this constraint.
func isViolation(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505" && pg.ConstraintName == constraint
}

// translate turns an error of the driver into the domain's. The errors that
// the contract names, and what the caller still has to tell apart (no row, a
// name that is taken), pass as they are; so does the caller's own cancellation.
func translate(ctx context.Context, err error) error {
	switch {
	case isContract(err), errors.Is(err, pgx.ErrNoRows), isViolation(err, usernameKey), isViolation(err, emailKey):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	}
	if isFault(sqlState(err)) && !isRefused(err) {
		return &identity.Error{Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database refused a statement", Cause: cause(err)}
	}
	return &identity.Error{
		Kind:       identity.Unavailable,
		Reason:     identity.ReasonDatabaseUnavailable,
		Message:    "the service cannot reach its data now; try again later",
		RetryAfter: retryAfter,
		Cause:      cause(err),
	}
}

// isContract tells of the errors that identity.Store names.
func isContract(err error) bool {
	for _, known := range []error{
		identity.ErrNoUser, identity.ErrNoCode, identity.ErrNoSession,
		identity.ErrAlreadyVerified, identity.ErrSuspended, identity.ErrStale,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	_, isTaken := errors.AsType[*identity.TakenError](err)
	return isTaken
}

// isFault tells of the classes that only a fault of this program gives: wrong
// data, a violated constraint, a wrong statement, more than an index can hold.
// Every other class, known or not, is taken for a database that is away: it
// fails closed, and may pass.
func isFault(code string) bool {
	if len(code) != 5 {
		return false
	}
	switch code[:2] {
	case "0A", "21", "22", "23", "42", "44", "54":
		return true
	default:
		return false
	}
}

// insufficientPrivilege is the code of a statement that the user may not send.
const insufficientPrivilege = "42501"

// cause gives what may be logged of an error, and told to those who run the
// server. What PostgreSQL says of a statement can hold what was in it, such as an
// address that is taken: only the code and the constraint are kept, unless it
// says that something is not allowed, which names the thing and nothing in it.
// What it says of a connection names the user, the host and the database.
func cause(err error) error {
	acquiring, waiting := errors.AsType[*acquireError](err)
	_, network := errors.AsType[net.Error](err)
	unconnected, refused := errors.AsType[*pgconn.ConnectError](err)
	pg, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case refused:
		return errors.New(refusal(unconnected))
	case answered && pg.Code == insufficientPrivilege:
		return errors.New(said(pg))
	case answered && pg.ConstraintName != "":
		return fmt.Errorf("PostgreSQL: SQLSTATE %s, constraint %s", pg.Code, pg.ConstraintName)
	case answered:
		return fmt.Errorf("PostgreSQL: SQLSTATE %s", pg.Code)
	case waiting && isTimeout(err):
		return errors.New(acquiring.late)
	case isTimeout(err):
		return errors.New(tooLate)
	case network, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New(err.Error())
	default:
		return fmt.Errorf("driver error of type %T", err)
	}
}

const tooLate = "no answer in time"

func said(pg *pgconn.PgError) string { return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code) }

// refusal says why no connection could be made: what PostgreSQL said, else what
// became of each way to it. The driver tells the same at length, with every try
// in a line of its own.
func refusal(err *pgconn.ConnectError) string {
	var answers, ways []string
	add := func(list *[]string, text string) {
		if !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, try := range tries(err) {
		if pg, answered := errors.AsType[*pgconn.PgError](try); answered {
			add(&answers, said(pg))
		} else {
			add(&ways, obstacle(try))
		}
	}
	if len(answers) > 0 {
		return strings.Join(answers, "; ")
	}
	return unreachable(err.Config, strings.Join(ways, "; "))
}

func unreachable(c *pgconn.Config, why string) string {
	where := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	if strings.HasPrefix(c.Host, "/") {
		where = fmt.Sprintf("the socket of port %d in %s", c.Port, c.Host)
	}
	return "cannot reach " + where + ": " + why
}

// tries are what became of each address, with TLS and without it, that was tried
// for one connection.
func tries(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			return joined.Unwrap()
		}
	}
	return []error{err}
}

// obstacle says in a few words why a server cannot be reached. They come from
// the system and from TLS, and hold nothing that was sent.
func obstacle(err error) string {
	if isTimeout(err) {
		return tooLate
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return "its name was not resolved in time"
		}
		return dns.Err // "no such host", or what the name server did instead
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error() // "connection refused"
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the connection was closed"
	}
	return err.Error() // mostly of TLS
}

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

	"github.com/auth-gateway/auth-gateway/internal/identity"
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
	busy  bool // others have them all
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
	if unfit, ok := errors.AsType[*unfitError](err); ok && unfit.forGood {
		return &identity.Error{Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database cannot be used", Cause: unfit}
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
		identity.ErrAlreadyVerified, identity.ErrSuspended, identity.ErrStale, identity.ErrSeveralClaims,
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

// namesNoData tells of the codes whose message holds nothing of a statement: of what
// is not allowed, of connections, resources and interventions, and of a database that
// takes no writes.
func namesNoData(code string) bool {
	const insufficientPrivilege, lockNotAvailable = "42501", "55P03"
	if code == insufficientPrivilege || code == lockNotAvailable || code == readOnlyTransaction {
		return true
	}
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57")
}

// cause gives what may be logged of an error, and told to those who run the
// server. What PostgreSQL says of a statement can hold what was in it, such as an
// address that is taken: only the code and the constraint are kept, unless it is
// one that says nothing of data.
// What it says of a connection names the user, the host and the database.
func cause(err error) error {
	acquiring, waiting := errors.AsType[*acquireError](err)
	_, network := errors.AsType[net.Error](err)
	unconnected, refused := errors.AsType[*pgconn.ConnectError](err)
	pg, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case refused:
		return errors.New(refusal(unconnected))
	case answered && pg.ConstraintName != "":
		return fmt.Errorf("PostgreSQL: SQLSTATE %s, constraint %s", pg.Code, pg.ConstraintName)
	case answered && namesNoData(pg.Code):
		return errors.New(said(pg))
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

// said is what PostgreSQL says, or a pooler in front of it, and then what to do.
func said(pg *pgconn.PgError) string {
	text := fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	for words, advice := range map[string]string{
		"query_wait_timeout":                 "the pooler in front of PostgreSQL has no free server connection: raise its pool size, or lower DB_MAX_CONNS",
		"no more connections allowed":        "the pooler in front of PostgreSQL takes no more clients: raise its max_client_conn, or lower DB_MAX_CONNS",
		"unsupported startup parameter":      "the pooler in front of PostgreSQL does not know a parameter that this program does not need: unset PGOPTIONS and the like",
		"no such database":                   "the pooler in front of PostgreSQL does not know the database: add it there, or set DB_NAME",
		"server login has been failing":      "the pooler in front of PostgreSQL cannot sign in there: look into its log",
		"pgbouncer cannot connect to server": "the pooler in front of PostgreSQL does not reach it: look into its log",
	} {
		if strings.Contains(pg.Message, words) {
			text += ": " + advice
		}
	}
	return text
}

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
	several := strings.Contains(places(err.Config), ", ")
	for _, try := range tries(err) {
		pg, answered := errors.AsType[*pgconn.PgError](try)
		unfit, refused := errors.AsType[*unfitError](try)
		switch {
		case answered:
			add(&answers, said(pg))
		case refused:
			add(&answers, unfit.why)
		case several:
			add(&ways, placeOf(try)+obstacle(try))
		default:
			add(&ways, obstacle(try))
		}
	}
	switch {
	case len(answers) > 0 && several && len(ways) > 0:
		return strings.Join(append(answers, "cannot reach "+strings.Join(ways, "; ")), "; ")
	case len(answers) > 0:
		return strings.Join(answers, "; ")
	case several:
		return "cannot reach " + strings.Join(ways, "; ")
	}
	return "cannot reach " + places(err.Config) + ": " + strings.Join(ways, "; ")
}

// places are the hosts of a configuration with their ports.
func places(c *pgconn.Config) string {
	var list []string
	for _, f := range append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port}}, c.Fallbacks...) {
		where := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port)))
		if strings.HasPrefix(f.Host, "/") {
			where = fmt.Sprintf("the socket of port %d in %s", f.Port, f.Host)
		}
		if !slices.Contains(list, where) { // with TLS, and without it
			list = append(list, where)
		}
	}
	return strings.Join(list, ", ")
}

// placeOf says which of several hosts a try was for. The driver tells it in the text
// of the error alone, which begins with the address.
func placeOf(try error) string {
	if dns, ok := errors.AsType[*net.DNSError](try); ok {
		return dns.Name + ": "
	}
	address, rest, _ := strings.Cut(try.Error(), " (")
	host, _, ok := strings.Cut(rest, ")")
	if !ok {
		return ""
	}
	if _, port, err := net.SplitHostPort(address); err == nil {
		return net.JoinHostPort(host, port) + ": "
	}
	return address + ": "
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

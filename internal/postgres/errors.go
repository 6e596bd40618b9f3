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

// retryAfter is when a caller may try again: about as long as a new connection, or a restart of PostgreSQL, takes.
const retryAfter = 2 * time.Second

// The names of the constraints that two accounts can violate together.
const (
	usernameKey = "users_canonical_username_key"
	emailKey    = "users_canonical_email_key"

	adminRequestKey = "admin_requests_pkey"
)

// acquireError is an error of acquiring a connection: nothing was sent. If it took too long, late explains why.
type acquireError struct {
	cause error
	late  string
	busy  bool // all connections are in use
}

func (e *acquireError) Error() string { return "no connection: " + e.cause.Error() }
func (e *acquireError) Unwrap() error { return e.cause }

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// isRefused reports whether a connection could not be made.
func isRefused(err error) bool {
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	_, none := errors.AsType[*unreachedError](err)
	return ok || none
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err)
}

// isViolation reports whether a row violates this unique constraint.
func isViolation(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505" && pg.ConstraintName == constraint
}

// translate turns an error of the driver into one of the domain. The errors of the contract pass unchanged, and so do
// those that the caller handles (no row, a name that is taken) and the caller's own cancellation.
func translate(ctx context.Context, err error) error {
	switch {
	case isContract(err), errors.Is(err, pgx.ErrNoRows), isViolation(err, usernameKey), isViolation(err, emailKey),
		isViolation(err, adminRequestKey):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	}
	if unfit, ok := errors.AsType[*unfitError](err); ok && unfit.permanent {
		return &identity.Error{
			Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database cannot be used", Cause: unfit,
		}
	}
	if isFault(sqlState(err)) && !isRefused(err) {
		return &identity.Error{
			Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database refused a statement",
			Cause: cause(err),
		}
	}
	return &identity.Error{
		Kind:       identity.Unavailable,
		Reason:     identity.ReasonDatabaseUnavailable,
		Message:    "the service cannot reach its data now; try again later",
		RetryAfter: retryAfter,
		Cause:      cause(err),
	}
}

// isContract reports whether identity.Store documents the error.
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

// isFault reports whether only a fault of this program causes the class of an error: invalid data, a violated
// constraint, a wrong statement, a value too large for an index. Every other class, known or not, is treated as an
// unavailable database: the request fails, and may succeed later.
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

// namesNoData reports whether the messages of a code contain no data of a statement: those about privileges,
// connections, resources and interventions, and about a database that takes no writes.
func namesNoData(code string) bool {
	const insufficientPrivilege, lockNotAvailable = "42501", "55P03"
	if code == insufficientPrivilege || code == lockNotAvailable || code == readOnlyTransaction {
		return true
	}
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57")
}

// cause returns what may be logged of an error. PostgreSQL's message about a statement can contain its data, such as an
// address that is taken. Therefore cause keeps only the code and the constraint, unless the messages of the code
// contain no data. A message about a connection names the user, the host and the database.
func cause(err error) error {
	acquiring, waiting := errors.AsType[*acquireError](err)
	_, network := errors.AsType[net.Error](err)
	pg, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errUnreplicated):
		return errUnreplicated
	case isRefused(err):
		return errors.New(refusal(err))
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

// errUnreplicated is the error of a write that waited for a standby until the wait was canceled, for example by
// pg_cancel_backend. PostgreSQL reports that as a success, with a warning. A failover may undo the write.
var errUnreplicated = errors.New("the wait for a standby was canceled: the change may not have been replicated")

const tooLate = "no answer in time"

// said returns the message of PostgreSQL, or of a pooler in front of it, and advice.
func said(pg *pgconn.PgError) string {
	text := fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	const pooler = ": the pooler in front of PostgreSQL "
	for words, advice := range map[string]string{
		"query_wait_timeout":                 "has no free server connection: raise its pool size, or lower DB_MAX_CONNS",
		"no more connections allowed":        "takes no more clients: raise its max_client_conn, or lower DB_MAX_CONNS",
		"unsupported startup parameter":      "does not know a parameter that this program does not need: unset PGOPTIONS and the like",
		"no such database":                   "does not know the database: add it there, or set DB_NAME",
		"server login has been failing":      "cannot sign in there: look into its log",
		"pgbouncer cannot connect to server": "does not reach it: look into its log",
	} {
		if strings.Contains(pg.Message, words) {
			text += pooler + advice
		}
	}
	return text
}

// refusal explains why no connection could be made: the answers of PostgreSQL, or else the
// result of each attempt. The driver's own message has a line for every attempt.
func refusal(err error) string {
	attempts := []error{err}
	if unreached, ok := errors.AsType[*unreachedError](err); ok {
		attempts = unreached.failures
	}
	var answers, ways, hosts []string
	add := func(list *[]string, text string) {
		if !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	var all []error
	for _, attempt := range attempts {
		if unconnected, ok := errors.AsType[*pgconn.ConnectError](attempt); ok {
			hosts = append(hosts, hostsOf(unconnected.Config))
			all = append(all, tries(unconnected)...)
		}
	}
	several := strings.Contains(strings.Join(hosts, ", "), ", ")
	for _, try := range all {
		pg, answered := errors.AsType[*pgconn.PgError](try)
		unfit, refused := errors.AsType[*unfitError](try)
		switch {
		case answered:
			add(&answers, said(pg))
		case refused:
			add(&answers, unfit.why)
		case several:
			add(&ways, hostOf(try)+obstacle(try))
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
	return "cannot reach " + strings.Join(hosts, ", ") + ": " + strings.Join(ways, "; ")
}

// hostsOf returns the hosts of a configuration with their ports.
func hostsOf(c *pgconn.Config) string {
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

// hostOf returns which of several hosts an attempt was for. The driver reports it only in
// the text of the error, which begins with the address.
func hostOf(try error) string {
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

// tries returns the errors of all attempts at one connection: one for each address, with TLS and without it.
func tries(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			return joined.Unwrap()
		}
	}
	return []error{err}
}

// obstacle explains in a few words why a server cannot be reached. The words come from the
// system and from TLS, and contain nothing that was sent.
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

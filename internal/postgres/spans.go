package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/span"
)

// longWait is how long a call waits for a connection before the wait has a span of its own.
const longWait = time.Millisecond

// namesOf has the name of each statement by its text as it is sent.
var namesOf = func() map[string]string {
	names := make(map[string]string, len(statements))
	for name, st := range statements {
		names[st.sql] = name
	}
	return names
}()

// sentStatement is a statement of a request that is recorded.
type sentStatement struct {
	recording span.Recording
	name      string
	at        time.Time
}

type sentKey struct{}

// beginSpan notes that a statement is sent, if the request is recorded.
func beginSpan(ctx context.Context, sql string) context.Context {
	r := span.From(ctx)
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, sentKey{}, &sentStatement{recording: r, name: statementName(sql), at: time.Now()})
}

// endSpan records the statement of ctx. Of an error it records only the code, because the message may contain values.
func endSpan(ctx context.Context, err error) {
	sent, ok := ctx.Value(sentKey{}).(*sentStatement)
	if !ok {
		return
	}
	s := statementSpan(sent.name, sent.at)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		s.Error = errorType(err)
		if code := sqlState(err); code != "" {
			s.Attributes = append(s.Attributes, slog.String("db.response.status_code", code))
		}
	}
	sent.recording.Add(s)
}

func statementSpan(name string, start time.Time) span.Span {
	return span.Span{Name: name, Kind: span.Client, Start: start, End: time.Now(), Attributes: []slog.Attr{
		slog.String("db.system.name", "postgresql"), slog.String("db.query.summary", name),
	}}
}

// statementName returns the name of a statement: that in its file, or its first word, such as COMMIT. It never returns
// more of the text.
func statementName(sql string) string {
	if name, ok := namesOf[sql]; ok {
		return name
	}
	word := strings.TrimLeft(sql, " \t\n(")
	if end := strings.IndexFunc(word, func(c rune) bool { return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') }); end >= 0 {
		word = word[:end]
	}
	return strings.ToUpper(word)
}

// errorType is the kind of an error of a call: the code of PostgreSQL, or one of few words.
func errorType(err error) string {
	switch code := sqlState(err); {
	case code != "":
		return code
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isTimeout(err):
		return "timeout"
	default:
		return "connection"
	}
}

// acquireSpan records how long a call waited for a connection, unless there was one at once.
func acquireSpan(r span.Recording, asked time.Time, err error) {
	s := span.Span{Name: "connection wait", Start: asked, End: time.Now()}
	if err != nil {
		s.Error = errorType(err)
	} else if s.End.Sub(asked) < longWait {
		return
	}
	r.Add(s)
}

package identity

import (
	"context"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Caller describes the client that a call is made for. With the recording of a trace, it is
// the only value that the domain reads from a context.
type Caller struct {
	RequestID string     // for the audit trail
	Address   netip.Addr // for limits, known networks and the audit trail; personal data; invalid if unknown
	UserAgent string     // RFC 9110 section 10.1.5; kept with a session, so that its owner recognizes it, and never logged
	Language  string     // an Accept-Language (RFC 9110 section 12.5.4); chooses the language of mails
	// Connected reports whether the client still waits for the answer. It is called just before costly work, because the
	// server is not notified when a client disconnects. Nil: the client waits.
	Connected func() bool
}

type callerKey struct{}

// WithCaller returns a context that carries the caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller of ctx, or the zero Caller if there is none.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

func isConnected(ctx context.Context) bool {
	c := CallerOf(ctx)
	return c.Connected == nil || c.Connected()
}

// maxUserAgent and maxLanguage bound, in bytes, what is stored of these headers.
// Browsers send about a half of the one and a fifth of the other.
const (
	maxUserAgent = 256
	maxLanguage  = 256
)

// userAgent returns the User-Agent in a form that is safe to store and to show. The
// client chooses it, so it is cut and its unprintable characters are removed.
func (c Caller) userAgent() string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, c.UserAgent[:min(len(c.UserAgent), maxUserAgent)])
}

// language returns the Accept-Language in a form that is safe to store. The client
// chooses it, so only printable ASCII stays, and whole members are cut off the end.
func (c Caller) language() string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, c.Language[:min(len(c.Language), maxLanguage)])
	if len(c.Language) > maxLanguage {
		text = text[:max(strings.LastIndexByte(text, ','), 0)]
	}
	return strings.TrimSpace(text)
}

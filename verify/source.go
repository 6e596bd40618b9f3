package verify

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Document is what a source holds at one moment.
type Document struct {
	Issuer string // the iss of tokens, compared byte for byte
	JWKS   []byte // a JWK Set (RFC 7517)

	// Generation increases with each change of the gateway's keys. It is 0 if the source does not know it.
	Generation int64

	// Revoked lists the IDs of keys that are not used, even if the set still has them.
	Revoked []string

	// MaxAge is how long the document may be used before the source is asked again. 0 is a minute.
	MaxAge time.Duration

	// clockSkew is how far the clock of this machine is ahead of the gateway's, if the source knows it.
	clockSkew      time.Duration
	clockSkewKnown bool
}

// Source is where the keys come from: FromDir, FromURL or FromFunc.
type Source struct {
	name string

	// pause is the shortest time between two reads that unknown keys cause.
	pause time.Duration

	open func(environment) loader
}

// environment is what a source gets from a Verifier.
type environment struct {
	issuer string // of the option Issuer; empty without it
	client *http.Client
	now    func() time.Time
}

// loader reads the document. It is called by one goroutine at a time.
type loader func(ctx context.Context) (Document, *Error)

// String returns the directory or the URL.
func (s Source) String() string { return s.name }

const (
	defaultMaxAge = time.Minute
	unknownPause  = time.Minute
)

// FromFunc reads the keys with a function, such as one that reads them from a database. The function is called about as
// often as Document.MaxAge says, and after a token with an unknown key, at most once a minute.
func FromFunc(read func(context.Context) (Document, error)) Source {
	return Source{name: "a function", pause: unknownPause, open: func(environment) loader {
		return func(ctx context.Context) (Document, *Error) {
			d, err := read(ctx)
			var known *Error
			switch {
			case errors.As(err, &known):
				return Document{}, known
			case err != nil:
				return Document{}, outage(ReasonUnreachable, err, "the function that reads the keys failed")
			}
			return d, nil
		}
	}}
}

package admin

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The number of entries of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// Filter selects accounts. At most one of the first five is set: each uses an index of its own, and a page of any of
// them costs the same among a million accounts.
type Filter struct {
	ID             string
	Email          string
	Username       string
	EmailPrefix    string
	UsernamePrefix string

	// With none of these, accounts are listed in the order of their creation, the newest first. Suspended and
	// CreatedAfter select among them.
	Suspended    bool
	CreatedAfter time.Time
}

// keys returns the names of the parameters that are set, of those that exclude each other.
func (f Filter) keys() (names []string) {
	for _, key := range []struct{ name, value string }{
		{"id", f.ID}, {"email", f.Email}, {"username", f.Username},
		{"email_prefix", f.EmailPrefix}, {"username_prefix", f.UsernamePrefix},
	} {
		if key.value != "" {
			names = append(names, key.name)
		}
	}
	return names
}

func (f Filter) check() error {
	keys := f.keys()
	if f.Suspended {
		keys = append(keys, "state")
	}
	if !f.CreatedAfter.IsZero() {
		keys = append(keys, "created_after")
	}
	if len(f.keys()) > 0 && len(keys) > 1 {
		return invalid(keys[1], "cannot be combined with "+keys[0]+": give one of them")
	}
	for name, prefix := range map[string]string{"email_prefix": f.EmailPrefix, "username_prefix": f.UsernamePrefix} {
		if !isKey(prefix) {
			return invalid(name, "must be printable ASCII without spaces, as the addresses and usernames are that it is compared with")
		}
	}
	return nil
}

// isKey reports whether a text can be a canonical address or username, or a part of one.
func isKey(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func invalid(parameter, text string) error {
	return &identity.Error{
		Kind: identity.Invalid, Reason: identity.ReasonInvalidFields, Message: parameter + ": " + text,
		Fields: []identity.Problem{{Parameter: parameter, Fault: identity.Fault{Reason: identity.FieldMalformed, Text: text}}},
	}
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T
	Next  Cursor // of the next page; empty: this is the last one
}

// Users lists accounts. A limit of 0 is DefaultLimit.
func (s *Service) Users(ctx context.Context, f Filter, c Cursor, limit int) (Page[User], error) {
	if err := f.check(); err != nil {
		return Page[User]{}, err
	}
	limit, err := pageSize(limit)
	if err != nil {
		return Page[User]{}, err
	}
	at, err := c.open(f)
	if err != nil {
		return Page[User]{}, err
	}
	if f.ID != "" || f.Email != "" || f.Username != "" {
		return s.one(ctx, f)
	}
	var users []User
	switch {
	case f.EmailPrefix != "":
		users, err = s.store.ListUsersByEmail(ctx, Range{strings.ToLower(f.EmailPrefix), at.Key}, limit+1)
	case f.UsernamePrefix != "":
		users, err = s.store.ListUsersByUsername(ctx, Range{strings.ToLower(f.UsernamePrefix), at.Key}, limit+1)
	default:
		users, err = s.store.ListUsersByCreation(ctx, Before{at.At, at.ID, f.CreatedAfter}, f.Suspended, limit+1)
	}
	if err != nil {
		return Page[User]{}, err
	}
	return pageOf(users, limit, func(u User) Cursor {
		return newCursor(f, position{Key: u.Key, At: u.CreatedAt, ID: u.ID})
	}), nil
}

// one returns the account that a filter names, or none.
func (s *Service) one(ctx context.Context, f Filter) (page Page[User], err error) {
	var u User
	login, ok := identity.ParseLogin(f.Email + f.Username)
	switch {
	case f.ID != "":
		u, err = s.store.FindUserByID(ctx, f.ID)
	case f.Email != "" && ok && login.CanonicalEmail != "":
		u, err = s.store.FindUserByEmail(ctx, login.CanonicalEmail)
	case f.Username != "" && ok && login.CanonicalUsername != "":
		u, err = s.store.FindUserByUsername(ctx, login.CanonicalUsername)
	default:
		return page, nil // no account can have it
	}
	if identity.KindOf(translate(err)) == identity.NotFound {
		return page, nil
	}
	return Page[User]{Items: []User{u}}, err
}

// User returns an account.
func (s *Service) User(ctx context.Context, id string) (User, error) {
	u, err := s.store.FindUserByID(ctx, id)
	return u, translate(err)
}

func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return DefaultLimit, nil
	case limit < 0 || limit > MaxLimit:
		return 0, invalid("limit", "must be a number from 1 to 200")
	}
	return limit, nil
}

// pageOf returns the first limit items. There is a next page if there are more.
func pageOf[T any](items []T, limit int, cursor func(T) Cursor) Page[T] {
	if len(items) <= limit {
		return Page[T]{Items: items}
	}
	items = slices.Clone(items[:limit])
	return Page[T]{Items: items, Next: cursor(items[limit-1])}
}

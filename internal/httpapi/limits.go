package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// keepTo counts the call against the limit of its client address, before anything
// of its body is read, and tells the client of it. The trusted caller speaks for
// many people, and limits them itself.
func (c *call) keepTo(ctx context.Context, class identity.LimitClass) error {
	if c.server.callerKey != nil && c.server.trusts(c.http) {
		return nil
	}
	a, err := c.server.accounts.Admit(ctx, class)
	if a.Limit > 0 {
		c.tellLimit(class, a)
	}
	return err
}

// keepWrites counts a call of a session against a limit of its user; admit is one of
// Accounts. It comes after the parameters were read, because the token may be one of
// them. The trusted caller is not limited, as in keepTo.
func (c *call) keepWrites(ctx context.Context, token string, admit func(ctx context.Context, accessToken string) (identity.Allowance, error)) error {
	if c.server.callerKey != nil && c.server.trusts(c.http) {
		return nil
	}
	a, err := admit(ctx, token)
	if a.Limit > 0 {
		c.tellLimit(identity.LimitWrites, a)
	}
	return err
}

// tellLimit sets the fields of draft-ietf-httpapi-ratelimit-headers: the policy as
// a quota and its window, and how much of the quota is left until it is whole
// again. They are structured fields (RFC 9651): numbers are whole seconds, rounded
// up, so that nobody comes back too early.
func (c *call) tellLimit(class identity.LimitClass, a identity.Allowance) {
	h := &c.http.Response.Header
	// A route with two limits sends both: each field is a list.
	add := func(field, item string) {
		if before := h.Peek(field); len(before) > 0 {
			item = string(before) + ", " + item
		}
		h.Set(field, item)
	}
	add("RateLimit-Policy", fmt.Sprintf(`%q;q=%d;w=%d`, class, a.Limit, wholeSeconds(a.Window)))
	add("RateLimit", fmt.Sprintf(`%q;r=%d;t=%d`, class, a.Remaining, wholeSeconds(a.Reset)))
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

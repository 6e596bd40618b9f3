package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// enforceLimit counts a request with admit, and sets the fields of the limit. The trusted caller acts for many users and
// limits them itself.
func (x *exchange) enforceLimit(class identity.LimitClass, admit func() (identity.Allowance, error)) error {
	if x.server.callerKey != nil && x.server.trusts(x.http) {
		return nil
	}
	a, err := admit()
	if a.Limit > 0 {
		x.setLimitFields(class, a)
	}
	return err
}

// admitted returns the error of the parameters, which a handler has read. If they are valid, it counts the request
// against the limit of the user or session. admit is a method of Accounts.
func (x *exchange) admitted(
	ctx context.Context, token string, admit func(ctx context.Context, accessToken string) (identity.Allowance, error),
) error {
	if err := x.err(); err != nil {
		return err
	}
	return x.enforceLimit(identity.LimitWrites, func() (identity.Allowance, error) { return admit(ctx, token) })
}

// setLimitFields sets the fields of draft-ietf-httpapi-ratelimit-headers: the policy with its quota and
// window, and the remaining quota with the time until it is full again. They are structured fields
// (RFC 9651). Seconds are rounded up, so that clients do not retry too early.
func (x *exchange) setLimitFields(class identity.LimitClass, a identity.Allowance) {
	h := &x.http.Response.Header
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

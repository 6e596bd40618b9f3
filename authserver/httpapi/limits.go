package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
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

// tellLimit sets the fields of draft-ietf-httpapi-ratelimit-headers: the policy as
// a quota and its window, and how much of the quota is left until it is whole
// again. They are structured fields (RFC 9651): numbers are whole seconds, rounded
// up, so that nobody comes back too early.
func (c *call) tellLimit(class identity.LimitClass, a identity.Allowance) {
	h := &c.http.Response.Header
	h.Set("RateLimit-Policy", fmt.Sprintf(`%q;q=%d;w=%d`, class, a.Limit, wholeSeconds(a.Window)))
	h.Set("RateLimit", fmt.Sprintf(`%q;r=%d;t=%d`, class, a.Remaining, wholeSeconds(a.Reset)))
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

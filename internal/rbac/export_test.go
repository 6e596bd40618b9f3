package rbac

import "context"

// Check asks once, as Watch does.
func (r *Reviewer) Check(ctx context.Context) { r.check(ctx) }

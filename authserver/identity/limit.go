package identity

import "time"

// Rate is how often something may happen: Count times at once, and on average
// Count times in Per. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

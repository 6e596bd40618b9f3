package identitytest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestStoreInMemoryKeepsTheContract(t *testing.T) {
	TestStore(t, func(*testing.T) (identity.Store, func(time.Duration)) {
		var ahead atomic.Int64
		store := NewStore(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
		return store, func(d time.Duration) { ahead.Add(int64(d)) }
	})
}

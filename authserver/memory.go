package authserver

import (
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

const (
	// heapShare of a control group's limit is for what the runtime manages. The rest
	// is for the kernel's buffers and for the program itself.
	heapShare = 0.9

	// clientShare is the part of the memory that the connections of clients may hold.
	// The garbage collector needs about as much again for what they let go, and
	// keys, passwords and the database need some too.
	clientShare     = 4
	maxClientMemory = 1 << 30
)

// limitHeap tells the runtime the limit of the control group, unless GOMEMLIMIT has
// told it a smaller one. Without it the heap may grow to twice of what is in use, and
// the kernel ends the process before the garbage collector looks.
func limitHeap() {
	limit, err := memlimit.FromCgroup()
	if err != nil {
		return // there is no control group, or it has no limit
	}
	if share := int64(float64(limit) * heapShare); share < debug.SetMemoryLimit(-1) {
		debug.SetMemoryLimit(share)
	}
}

// usableMemory returns how many bytes the process may use: the smallest of the limit
// of its control group, what the runtime was told, and what the machine has.
func usableMemory() int64 {
	usable := debug.SetMemoryLimit(-1)
	for _, limit := range []func() (uint64, error){memlimit.FromCgroup, memlimit.FromSystem} {
		if n, err := limit(); err == nil && n > 0 && n < math.MaxInt64 {
			usable = min(usable, int64(n))
		}
	}
	return usable
}

// connectionMemory returns how many bytes the connections of clients may hold.
func connectionMemory(c config.Config, usable int64) int64 {
	if c.ConnectionMemory > 0 {
		return c.ConnectionMemory
	}
	return min(usable/clientShare, maxClientMemory)
}

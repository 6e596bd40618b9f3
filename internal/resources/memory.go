package resources

import (
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// heapShare is the share of a control group's limit for the Go runtime. The rest is for
	// the kernel's buffers and the program itself.
	heapShare = 0.9

	// Client connections may use one part in clientShare of the memory. The garbage collector needs about as much again
	// for what they release, and keys, passwords and the database need some too.
	clientShare     = 4
	maxClientMemory = 1 << 30

	// hashingShare is the share of the memory for hashes of passwords that need much: one of those that may be imported,
	// of 128 MiB, in a container of 256 MiB.
	hashingShare = 0.57
)

// LimitHeap sets the runtime's memory limit from the limit of the control group, unless
// GOMEMLIMIT is smaller. Without a limit, the heap may grow to twice the memory in use, and
// the kernel kills the process before the garbage collector runs.
func LimitHeap() {
	limit, err := memlimit.FromCgroup()
	if err != nil {
		return // there is no control group, or it has no limit
	}
	if share := int64(float64(limit) * heapShare); share < debug.SetMemoryLimit(-1) {
		debug.SetMemoryLimit(share)
	}
}

// Memory returns how many bytes the process may use: the smallest of the limit of its
// control group, the runtime's limit and the memory of the machine.
func Memory() int64 {
	usable := debug.SetMemoryLimit(-1)
	for _, limit := range []func() (uint64, error){memlimit.FromCgroup, memlimit.FromSystem} {
		if n, err := limit(); err == nil && n > 0 && n < math.MaxInt64 {
			usable = min(usable, int64(n))
		}
	}
	return usable
}

// ConnectionMemory returns how many bytes client connections may use: the configured
// number, or if it is 0, a share of the usable memory.
func ConnectionMemory(configured int64) int64 {
	if configured > 0 {
		return configured
	}
	return min(Memory()/clientShare, maxClientMemory)
}

// HashingMemory returns how many bytes the hashes of passwords that are computed at the same time may use.
func HashingMemory() int64 { return int64(hashingShare * float64(Memory())) }

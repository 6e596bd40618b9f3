package identity

import (
	"math"
	"runtime"
	"sync"
)

// memoryBudget bounds the memory of hashes that are computed at the same time. What a hash has used stays in the heap
// until the garbage collector runs, and counts until then: the runtime's own limit is not a hard one, and two hashes of
// half of the memory of a container, one after the other, would exceed it.
type memoryBudget struct {
	total int64

	mu            sync.Mutex
	freed         sync.Cond
	free, garbage int64
}

func newMemoryBudget(total int64) *memoryBudget {
	if total == 0 {
		total = math.MaxInt64
	}
	b := &memoryBudget{total: total, free: total}
	b.freed.L = &b.mu
	return b
}

// allows reports whether so much can be used at all.
func (b *memoryBudget) allows(bytes int64) bool { return bytes <= b.total }

// use waits until so much is free, and calls f, which uses it.
func (b *memoryBudget) use(bytes int64, f func()) {
	if bytes == 0 {
		f()
		return
	}
	b.take(bytes)
	defer b.put(bytes)
	f()
}

func (b *memoryBudget) take(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.free < bytes {
		garbage := b.garbage
		if garbage == 0 {
			b.freed.Wait()
			continue
		}
		b.garbage = 0
		b.mu.Unlock()
		runtime.GC()
		b.mu.Lock()
		b.free += garbage
		b.freed.Broadcast()
	}
	b.free -= bytes
}

func (b *memoryBudget) put(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.garbage += bytes
	b.freed.Broadcast()
}

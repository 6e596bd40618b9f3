package endings

import (
	"bytes"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// set holds the sessions that ended. It is made for a million of them in 28 bytes each: ids
// are random, so their first bits choose one of many short lists, which are sorted. Any
// goroutine may look up; one goroutine changes.
type set struct {
	shards [shardCount]shard
}

type sessionID = uuid.UUID

// shardCount is how many lists there are. With a million sessions a list has a thousand, so
// that an insertion moves a few kilobytes.
const shardCount = 1 << 10

func shardOf(id sessionID) int { return int(id[0])<<2 | int(id[1])>>6 }

// shard has a column for each part of an entry, so that an entry takes no padding.
type shard struct {
	mu           sync.RWMutex
	ids          []sessionID // in ascending order
	transactions []int64
	ended        []uint32 // Unix seconds, rounded up
}

// entry is an ended session.
type entry struct {
	id          sessionID
	transaction int64
	ended       uint32
}

// unixUp rounds up to a second, so that an ending never matters for too short a time.
func unixUp(t time.Time) uint32 {
	seconds := t.Unix()
	if t.Nanosecond() > 0 {
		seconds++
	}
	return uint32(min(max(seconds, 0), math.MaxUint32))
}

func compare(a, b sessionID) int { return bytes.Compare(a[:], b[:]) }

func (s *set) has(id sessionID) bool {
	sh := &s.shards[shardOf(id)]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	_, found := slices.BinarySearchFunc(sh.ids, id, compare)
	return found
}

// add adds an entry, or replaces the one with its id.
func (s *set) add(e entry) {
	sh := &s.shards[shardOf(e.id)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, found := slices.BinarySearchFunc(sh.ids, e.id, compare)
	if found {
		sh.transactions[i], sh.ended[i] = e.transaction, e.ended
		return
	}
	sh.ids = slices.Insert(room(sh.ids), i, e.id)
	sh.transactions = slices.Insert(room(sh.transactions), i, e.transaction)
	sh.ended = slices.Insert(room(sh.ended), i, e.ended)
}

// room makes room for one more element. append would double a short list; with so many
// lists, a sixteenth is enough.
func room[T any](list []T) []T {
	if len(list) < cap(list) {
		return list
	}
	grown := make([]T, len(list), len(list)+4+len(list)/16)
	copy(grown, list)
	return grown
}

// replace replaces all entries of one shard. They are in ascending order.
func (s *set) replace(number int, entries []entry) {
	ids := make([]sessionID, len(entries))
	transactions := make([]int64, len(entries))
	ended := make([]uint32, len(entries))
	for i, e := range entries {
		ids[i], transactions[i], ended[i] = e.id, e.transaction, e.ended
	}
	sh := &s.shards[number]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.ids, sh.transactions, sh.ended = ids, transactions, ended
}

// sweep removes the entries of one shard that ended before a time.
func (s *set) sweep(number int, before uint32) {
	sh := &s.shards[number]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !slices.ContainsFunc(sh.ended, func(ended uint32) bool { return ended < before }) {
		return
	}
	var ids []sessionID
	var transactions []int64
	var ended []uint32
	for i := range sh.ids {
		if sh.ended[i] >= before {
			ids = append(room(ids), sh.ids[i])
			transactions = append(room(transactions), sh.transactions[i])
			ended = append(room(ended), sh.ended[i])
		}
	}
	sh.ids, sh.transactions, sh.ended = ids, transactions, ended
}

// after appends to page, in ascending order, the entries that follow an id and are wanted,
// until the page has limit entries. If first is set, it begins with the id itself.
func (s *set) after(page []entry, id sessionID, first bool, limit int, wanted func(transaction int64) bool) []entry {
	for number := shardOf(id); number < shardCount && len(page) < limit; number++ {
		page = s.shards[number].after(page, id, first, limit, wanted)
	}
	return page
}

func (sh *shard) after(page []entry, id sessionID, first bool, limit int, wanted func(int64) bool) []entry {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	i, found := slices.BinarySearchFunc(sh.ids, id, compare)
	if found && !first {
		i++
	}
	for ; i < len(sh.ids) && len(page) < limit; i++ {
		if wanted(sh.transactions[i]) {
			page = append(page, entry{sh.ids[i], sh.transactions[i], sh.ended[i]})
		}
	}
	return page
}

// count returns the number of entries.
func (s *set) count() (n int) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		n += len(sh.ids)
		sh.mu.RUnlock()
	}
	return n
}

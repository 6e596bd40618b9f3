package verify

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sync/atomic"
)

// endedSet is a set of ended sessions, each until a time after which it may be forgotten. Lookups take no lock. There
// is one writer. A million sessions take about 23 MiB: sorted arrays of 20 bytes each.
//
// A session is stored under the first half of the SHA-256 of its ID, so any text can be one, and the shards are even.
type endedSet struct {
	shards [256]atomic.Pointer[endedShard]
	count  atomic.Int64
}

// endedShard never changes. A write replaces it: recent, which is small, each time, and main when recent has grown.
type endedShard struct {
	main, recent []endedEntry // sorted by ID
}

type endedEntry struct {
	id    endedID
	until uint32 // Unix seconds
}

type endedID [16]byte

func newEndedID(id string) endedID {
	var buffer [64]byte
	sum := sha256.Sum256(append(buffer[:0], id...))
	return endedID(sum[:16])
}

func compareID(e endedEntry, id endedID) int { return bytes.Compare(e.id[:], id[:]) }

func compareEntries(a, b endedEntry) int { return bytes.Compare(a.id[:], b.id[:]) }

// has reports whether a session has ended.
func (s *endedSet) has(session string) bool {
	if s.count.Load() == 0 {
		return false
	}
	id := newEndedID(session)
	shard := s.shards[id[0]].Load()
	if shard == nil {
		return false
	}
	if _, found := slices.BinarySearchFunc(shard.recent, id, compareID); found {
		return true
	}
	_, found := slices.BinarySearchFunc(shard.main, id, compareID)
	return found
}

func (s *endedSet) len() int { return int(s.count.Load()) }

// add adds entries, in any order. It sorts the given slice.
func (s *endedSet) add(entries []endedEntry, now uint32) {
	slices.SortFunc(entries, compareEntries)
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].id[0] == entries[0].id[0] {
			n++
		}
		s.addToShard(entries[:n], now)
		entries = entries[n:]
	}
}

// recentLimit is how many recent entries a shard may have. It grows with main, so each entry is copied a few times.
func recentLimit(main int) int { return max(32, main/8) }

func (s *endedSet) addToShard(entries []endedEntry, now uint32) {
	at := &s.shards[entries[0].id[0]]
	old := at.Load()
	if old == nil {
		old = &endedShard{}
	}
	// An entry that main has too would count twice.
	entries = slices.DeleteFunc(entries, func(e endedEntry) bool {
		i, found := slices.BinarySearchFunc(old.main, e.id, compareID)
		return found && old.main[i].until >= e.until
	})
	shard := &endedShard{main: old.main, recent: merge(old.recent, entries, 0)}
	if len(shard.recent) > recentLimit(len(shard.main)) {
		shard.main, shard.recent = merge(shard.main, shard.recent, now), nil
	}
	s.replace(at, old, shard)
}

func (s *endedSet) replace(at *atomic.Pointer[endedShard], old, shard *endedShard) {
	at.Store(shard)
	s.count.Add(int64(len(shard.main) + len(shard.recent) - len(old.main) - len(old.recent)))
}

// merge returns the union of two sorted slices without expired entries. The later until of an ID stays.
func merge(a, b []endedEntry, now uint32) []endedEntry {
	all := make([]endedEntry, 0, len(a)+len(b))
	put := func(e endedEntry) {
		switch last := len(all) - 1; {
		case e.until < now:
		case last >= 0 && all[last].id == e.id:
			all[last].until = max(all[last].until, e.until)
		default:
			all = append(all, e)
		}
	}
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && compareEntries(a[0], b[0]) <= 0 {
			put(a[0])
			a = a[1:]
		} else {
			put(b[0])
			b = b[1:]
		}
	}
	return all
}

// forget drops expired entries, one shard at a time. A shard with few of them waits for more.
func (s *endedSet) forget(now uint32) {
	for i := range s.shards {
		old := s.shards[i].Load()
		if old == nil {
			continue
		}
		expired := 0
		for _, entries := range [][]endedEntry{old.main, old.recent} {
			for _, e := range entries {
				if e.until < now {
					expired++
				}
			}
		}
		if all := len(old.main) + len(old.recent); expired > 0 && expired >= all/8 {
			s.replace(&s.shards[i], old, &endedShard{main: slices.Clip(merge(old.main, old.recent, now))})
		}
	}
}

package verify

import (
	"crypto/sha256"
	"sync"
)

// tokenCache holds checked tokens by the SHA-256 of their whole text. A memory dump then has no token, and a hit is
// exactly the token that was checked. The caller checks the times at each use.
//
// Each shard has two generations: when the young one is full, it becomes the old one and the former old one is dropped.
// A token that is used again moves to the young one.
type tokenCache struct {
	shards [cacheShards]cacheShard
	limit  int // of a generation of a shard
}

type cacheShard struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*Claims
}

const cacheShards = 16

func newTokenCache(size int) *tokenCache {
	return &tokenCache{limit: max(size/(2*cacheShards), 1)}
}

func (c *tokenCache) get(id [sha256.Size]byte) *Claims {
	s := &c.shards[id[0]%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if claims := s.young[id]; claims != nil {
		return claims
	}
	claims := s.old[id]
	if claims != nil {
		s.add(id, claims, c.limit)
	}
	return claims
}

func (c *tokenCache) add(id [sha256.Size]byte, claims *Claims) {
	s := &c.shards[id[0]%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(id, claims, c.limit)
}

func (s *cacheShard) add(id [sha256.Size]byte, claims *Claims, limit int) {
	if s.young == nil || len(s.young) >= limit {
		s.young, s.old = make(map[[sha256.Size]byte]*Claims), s.young
	}
	s.young[id] = claims
}

// len returns how many tokens are cached. A token in both generations counts twice.
func (c *tokenCache) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.young) + len(s.old)
		s.mu.Unlock()
	}
	return n
}

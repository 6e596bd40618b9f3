package verify_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
)

// manySessions is a million.
var manySessions = 1_000_000

// TestAMillionEndedSessionsTake32MiB adds them in pages, as the feed does.
func TestAMillionEndedSessionsTake32MiB(t *testing.T) {
	const page, limit = 20_000, 32 // limit is in bytes for each session
	sessions := manySessions
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	id := func(i int) string { return fmt.Sprintf("%08x-6f2d-7d9e-9b1a-0d6d3c1f5a77", i) }
	now := time.Now()
	before := heap()
	ended := &verify.Ended{}
	ids := make([]string, page)
	for i := 0; i < sessions; i += page {
		for j := range ids {
			ids[j] = id(i + j)
		}
		ended.Add(now.Add(15*time.Minute), now, ids...)
	}
	after := heap()
	t.Logf("%d sessions take %.1f MiB", ended.Len(), float64(after-before)/(1<<20))
	if ended.Len() != sessions || after-before > uint64(limit*sessions) {
		t.Errorf("%d sessions take %d bytes", ended.Len(), after-before)
	}
	for i := 0; i < sessions; i += 997 {
		if !ended.Has(id(i)) || ended.Has(id(i+sessions)) {
			t.Fatalf("session %d is wrong", i)
		}
	}
	runtime.KeepAlive(ended)
}

// TestEndedSessionsAgreeWithAMap compares random additions and expiries with a map, while others read.
func TestEndedSessionsAgreeWithAMap(t *testing.T) {
	ended, want := &verify.Ended{}, map[string]int{}
	at := func(second int) time.Time { return time.Unix(1_800_000_000+int64(second), 0) }
	ended.Add(at(1_000_000), at(0), "always")
	want["always"] = 1_000_000
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Add(1)
	go func() {
		defer readers.Done()
		for {
			select {
			case <-stop:
				return
			default:
				if !ended.Has("always") || ended.Has("never") {
					t.Error("a reader sees another set")
					return
				}
			}
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	for now := range 400 {
		for range random.IntN(40) {
			id, until := fmt.Sprintf("session %d", random.IntN(20_000)), now+random.IntN(200)
			ended.Add(at(until), at(now), id)
			want[id] = max(want[id], until)
		}
		if now%50 == 49 {
			ended.Forget(at(now))
		}
		for range 20 {
			id := fmt.Sprintf("session %d", random.IntN(20_000))
			if until, found := want[id]; found && until >= now && !ended.Has(id) {
				t.Fatalf("second %d: %s is forgotten, and ends at %d", now, id, until)
			} else if !found && ended.Has(id) {
				t.Fatalf("second %d: %s was never added", now, id)
			}
		}
	}
	close(stop)
	readers.Wait()
	ended.Forget(at(999_999))
	if n := ended.Len(); n > 40 { // shards keep a few
		t.Errorf("%d sessions are kept after all but one expired", n)
	}
	if !ended.Has("always") {
		t.Error("a session is forgotten too early")
	}
}

func BenchmarkEndedSessions(b *testing.B) {
	ended, now := &verify.Ended{}, time.Now()
	ids := make([]string, 1_000_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("%08x-6f2d-7d9e-9b1a-0d6d3c1f5a77", i)
	}
	ended.Add(now.Add(time.Hour), now, ids...)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if ended.Has(ids[i%len(ids)]) == (ids[i%len(ids)] == "") {
			b.Fatal("wrong")
		}
	}
}

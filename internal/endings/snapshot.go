package endings

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Snapshot says which transactions are visible: those below Next, except Running. The zero
// Snapshot sees none. See pg_current_snapshot.
type Snapshot struct {
	Next    int64   // the first transaction that has not begun
	Running []int64 // below Next, in ascending order
}

var errSnapshot = errors.New("not a snapshot of PostgreSQL")

// ParseSnapshot parses PostgreSQL's form: xmin:xmax:xip,xip.
func ParseSnapshot(text string) (Snapshot, error) {
	_, rest, _ := strings.Cut(text, ":")
	next, list, ok := strings.Cut(rest, ":")
	var s Snapshot
	var err error
	if s.Next, err = strconv.ParseInt(next, 10, 64); err != nil || !ok {
		return Snapshot{}, errSnapshot
	}
	if list == "" {
		return s, nil
	}
	for number := range strings.SplitSeq(list, ",") {
		running, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return Snapshot{}, errSnapshot
		}
		s.Running = append(s.Running, running)
	}
	slices.Sort(s.Running)
	return s, nil
}

// Sees reports whether a transaction is visible.
func (s Snapshot) Sees(transaction int64) bool {
	if transaction >= s.Next {
		return false
	}
	if len(s.Running) == 0 || transaction < s.Running[0] {
		return true
	}
	_, running := slices.BinarySearch(s.Running, transaction)
	return !running
}

// Covers reports whether the snapshot sees everything that another one of the same server
// sees. A visible transaction stays visible, so of two snapshots the later one covers the
// other.
func (s Snapshot) Covers(other Snapshot) bool {
	if s.Next != other.Next {
		return s.Next > other.Next
	}
	return len(s.Running) <= len(other.Running)
}

package endings

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// cursor is what a consumer has: everything that has sees; and of what upTo also sees, the
// sessions up to after, if the answer was longer than a page.
type cursor struct {
	incarnation [8]byte
	has         Snapshot
	upTo        Snapshot // zero: no page is to follow
	after       sessionID
}

// incarnationOf shortens the name of an incarnation.
func incarnationOf(name string) (short [8]byte) {
	sum := sha256.Sum256([]byte(name))
	return [8]byte(sum[:8])
}

const (
	cursorVersion = 1

	// maxCursor bounds the text of a cursor.
	maxCursor = 8 << 10

	// maxRunning bounds the transactions that a cursor lists. With more of them it claims to
	// have seen less, and some endings are sent again.
	maxRunning = 2000
)

// ErrCursor is the error of a text that cannot be a cursor.
var ErrCursor = errors.New("not a cursor")

func (c cursor) String() string {
	b := append(make([]byte, 0, 64), cursorVersion)
	b = append(b, c.incarnation[:]...)
	b = appendSnapshot(b, c.has)
	if c.upTo.Next != 0 {
		b = appendSnapshot(b, c.upTo)
		b = append(b, c.after[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func appendSnapshot(b []byte, s Snapshot) []byte {
	if len(s.Running) > maxRunning {
		s.Next, s.Running = s.Running[maxRunning], s.Running[:maxRunning]
	}
	b = binary.AppendUvarint(b, uint64(s.Next))
	b = binary.AppendUvarint(b, uint64(len(s.Running)))
	above := s.Next
	for i := len(s.Running) - 1; i >= 0; i-- {
		b = binary.AppendUvarint(b, uint64(above-s.Running[i]))
		above = s.Running[i]
	}
	return b
}

// parseCursor returns the zero cursor for the empty text, and for one that another release
// may have written. ErrCursor is for what no release writes.
func parseCursor(text string) (cursor, error) {
	if len(text) > maxCursor {
		return cursor{}, ErrCursor
	}
	encoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return cursor{}, ErrCursor
	}
	c, ok := decodeCursor(encoded)
	if !ok {
		return cursor{}, nil
	}
	return c, nil
}

func decodeCursor(encoded []byte) (c cursor, ok bool) {
	if len(encoded) < 1+len(c.incarnation) || encoded[0] != cursorVersion {
		return cursor{}, false
	}
	r := bytes.NewReader(encoded[1+copy(c.incarnation[:], encoded[1:]):])
	if c.has, ok = readSnapshot(r); !ok || r.Len() == 0 {
		return c, ok
	}
	if c.upTo, ok = readSnapshot(r); !ok || r.Len() != len(c.after) || c.upTo.Next == 0 {
		return cursor{}, false
	}
	_, err := r.Read(c.after[:])
	return c, err == nil
}

func readSnapshot(r *bytes.Reader) (s Snapshot, ok bool) {
	const most = 1<<63 - 1
	next, err := binary.ReadUvarint(r)
	if err != nil || next > most {
		return Snapshot{}, false
	}
	s.Next = int64(next)
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxRunning {
		return Snapshot{}, false
	}
	s.Running = make([]int64, n)
	above := s.Next
	for i := int(n) - 1; i >= 0; i-- {
		less, err := binary.ReadUvarint(r)
		if err != nil || less == 0 || less > uint64(above) {
			return Snapshot{}, false
		}
		above -= int64(less)
		s.Running[i] = above
	}
	return s, true
}

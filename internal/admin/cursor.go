package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Cursor says where the next page of a list begins. It is opaque to clients. One that was made for another filter is
// refused: the client would silently get a part of another list.
type Cursor string

// position is the key of the last entry of a page.
type position struct {
	Key    string    `json:"k,omitempty"`
	At     time.Time `json:"t,omitzero"`
	ID     string    `json:"i,omitempty"`
	Number int64     `json:"n,omitempty"`
	Filter string    `json:"f"` // a digest of the filter
}

// first is before every entry: lists by time begin with the newest.
var first = position{
	At: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), ID: "ffffffff-ffff-ffff-ffff-ffffffffffff", Number: math.MaxInt64,
}

func newCursor(filter any, at position) Cursor {
	at.Filter = digest(filter)
	text, err := json.Marshal(at)
	if err != nil {
		panic("admin: " + err.Error()) // plain data always marshals
	}
	return Cursor(base64.RawURLEncoding.EncodeToString(text))
}

// open returns the position of a cursor, or the first one if the cursor is empty.
func (c Cursor) open(filter any) (position, error) {
	if c == "" {
		return first, nil
	}
	var at position
	text, err := base64.RawURLEncoding.Strict().DecodeString(string(c))
	if err == nil {
		err = json.Unmarshal(text, &at)
	}
	if err != nil || !isKey(at.Key) {
		return at, invalid("cursor", "is not one that this list returned: begin again without it")
	}
	if at.Filter != digest(filter) {
		return at, invalid("cursor", "belongs to a list with other parameters: send the same ones, or begin again without it")
	}
	return at, nil
}

func digest(filter any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%T%+v", filter, filter))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

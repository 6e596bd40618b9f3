package console

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/keys"
)

// keyRow is a key on the page: a bar of the picture, and a row of the table, which says the same.
type keyRow struct {
	admin.SigningKey

	Short string // the beginning of its ID
	Next  string // what happens to it next; empty: not known
	Bar   []segment
}

// segment is a part of a bar, in thousandths of the width of the picture.
type segment struct {
	Phase    keys.Phase // empty: an earlier phase
	Expected bool       // it is in the future
	X, Width int
}

// shortKid is how many characters of a kid tell keys apart, for people.
const shortKid = 8

// timeline is the picture of the keys.
type timeline struct {
	From, Now, To time.Time
	NowX          int
	Rows          []keyRow
}

const pictureWidth = 1000

// newTimeline draws the phases of keys over time, as far as they are known: the one before a phase began, and what is
// expected if no person acts.
func newTimeline(all []admin.SigningKey, now time.Time) timeline {
	t := timeline{From: now, Now: now, To: now.Add(time.Hour)}
	for _, k := range all {
		t.From = earlier(earlier(t.From, k.Created), k.Since)
		t.To = later(t.To, k.NextAt)
	}
	t.To = t.To.Add(t.To.Sub(t.From) / 10) // so that what follows the last change is seen
	t.NowX = t.x(now)
	for _, k := range all {
		row := keyRow{SigningKey: k, Short: k.ID[:min(shortKid, len(k.ID))], Next: next(k)}
		row.Bar = t.bar("", false, k.Created, k.Since, row.Bar)
		row.Bar = t.bar(k.Phase, false, k.Since, now, row.Bar)
		end := k.NextAt
		if k.Phase == keys.Signing && k.Next == keys.None { // until its successor signs
			for _, o := range all {
				if o.Use == k.Use && o.Next == keys.Promote {
					end = o.NextAt
				}
			}
		}
		row.Bar = t.bar(k.Phase, true, later(now, k.Since), end, row.Bar)
		if k.Next == keys.Promote {
			row.Bar = t.bar(keys.Signing, true, later(now, end), t.To, row.Bar)
		}
		t.Rows = append(t.Rows, row)
	}
	slices.SortStableFunc(t.Rows, func(a, b keyRow) int { return cmp.Compare(a.Use, b.Use) })
	return t
}

// bar adds a segment, unless its times are not known or in the wrong order.
func (t timeline) bar(phase keys.Phase, expected bool, from, to time.Time, bar []segment) []segment {
	if from.IsZero() || !from.Before(to) {
		return bar
	}
	x := t.x(from)
	return append(bar, segment{phase, expected, x, max(t.x(to)-x, 4)}) // a short phase is still seen
}

func (t timeline) x(at time.Time) int {
	return int(pictureWidth * at.Sub(t.From).Seconds() / t.To.Sub(t.From).Seconds())
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// next says what happens to a key next.
func next(k admin.SigningKey) string {
	at := " " + when(k.NextAt) + " at the earliest"
	switch {
	case k.Next == keys.Promote:
		return "signs" + at
	case k.Next == keys.Generate:
		return "a successor is published " + when(k.NextAt)
	case k.Next == keys.Drop:
		return "is removed" + at
	case k.Phase == keys.Signing:
		return "is replaced by the published key"
	}
	return ""
}

func (o *Console) keys(v *visit) error {
	ring, err := o.Service.Ring(v.r.Context())
	if err != nil {
		return err
	}
	return v.show("keys", "Keys", map[string]any{
		"Ring": ring, "Timeline": newTimeline(ring.Keys, o.Now()), "Done": v.r.URL.Query().Get("done"),
		"Phases": []keys.Phase{keys.Published, keys.Signing, keys.Retiring, keys.Revoked}, "Short": shortKid,
		"MayUpdate": ring.Instead == "" && v.may(admin.SigningKeys, admin.Update),
	})
}

func (o *Console) rotate(v *visit) error {
	_, change, err := v.change()
	if err != nil {
		return err
	}
	_, changed, err := o.Service.Rotate(v.r.Context(), change)
	return v.keysChanged(changed, err, "rotated", "rotating")
}

func (o *Console) revoke(v *visit) error {
	_, change, err := v.change()
	if err != nil {
		return err
	}
	kid, confirm := v.r.PostFormValue("kid"), strings.TrimSpace(v.r.PostFormValue("confirm"))
	if len(confirm) < shortKid || !strings.HasPrefix(kid, confirm) {
		return &problem{
			status: http.StatusBadRequest, title: "The key was not revoked",
			text: "The text that you typed is not the beginning of the kid of the key that you chose. Go back, and look again.",
		}
	}
	_, changed, err := o.Service.RevokeKey(v.r.Context(), kid, change)
	return v.keysChanged(changed, err, "revoked", "unchanged")
}

// keysChanged returns to the keys, and says what was done, or why nothing was.
func (v *visit) keysChanged(changed bool, err error, did, not string) error {
	switch {
	case err != nil:
		return err
	case !changed:
		did = not
	}
	return v.redirect("/keys?done=" + did)
}

package console

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Every bar lies in the picture, from left to right, and shows the present phase where now is.
func TestTimelineShowsWhatTheTableSays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	at := func(hours int) time.Time { return now.Add(time.Duration(hours) * time.Hour) }
	signing := admin.SigningKey{ID: "signing-key", Use: keys.Access, Phase: keys.Signing, Created: at(-60), Since: at(-48), Next: keys.None}
	published := admin.SigningKey{
		ID: "published-key", Use: keys.Access, Phase: keys.Published, Created: at(-1), Since: at(-1), Next: keys.Promote, NextAt: at(2),
	}
	rotates := signing
	rotates.Next, rotates.NextAt = keys.Generate, at(24)
	unknown := signing // as the published state has it
	unknown.Created = time.Time{}
	retiring := admin.SigningKey{
		ID: "old", Use: keys.Access, Phase: keys.Retiring, Created: at(-100), Since: at(-24), Until: at(6), Next: keys.Drop, NextAt: at(6),
	}
	overdue := retiring
	overdue.NextAt = at(-1)
	ahead := signing // its phase begins in the future: the clock went back
	ahead.Since = at(1)
	for name, tc := range map[string]struct {
		keys []admin.SigningKey
		bars string // of the first key, in its order
		next string
	}{
		"a key that rotates":             {[]admin.SigningKey{rotates}, "earlier Signing Signing…", "a successor is published 30 Nov 2026, 12:00 UTC"},
		"a key with a successor":         {[]admin.SigningKey{signing, published}, "earlier Signing Signing…", "is replaced by the published key"},
		"a successor":                    {[]admin.SigningKey{published, signing}, "Published Published… Signing…", "signs 29 Nov 2026, 14:00 UTC at the earliest"},
		"a successor of another use":     {[]admin.SigningKey{signing, {Use: keys.Refresh, Next: keys.Promote, NextAt: at(2)}}, "earlier Signing", "is replaced by the published key"},
		"a key whose birth is unknown":   {[]admin.SigningKey{unknown}, "Signing", "is replaced by the published key"},
		"a key that retires":             {[]admin.SigningKey{retiring}, "earlier Retiring Retiring…", "is removed 29 Nov 2026, 18:00 UTC at the earliest"},
		"a key that is removed soon":     {[]admin.SigningKey{overdue}, "earlier Retiring", "is removed 29 Nov 2026, 11:00 UTC at the earliest"},
		"a phase that has not begun":     {[]admin.SigningKey{ahead}, "earlier", "is replaced by the published key"},
		"a key of which little is known": {[]admin.SigningKey{{ID: "x"}}, "", ""},
	} {
		line := newTimeline(tc.keys, now)
		var bars []string
		x := 0
		for _, s := range line.Rows[0].Bar {
			if s.X < x || s.Width <= 0 || s.X+s.Width > pictureWidth+4 {
				t.Errorf("%s: the segment %+v after %d", name, s, x)
			}
			x = s.X
			text := string(s.Phase)
			if text == "" {
				text = "earlier"
			}
			if s.Expected {
				text += "…"
			}
			if s.Expected && s.X < line.NowX {
				t.Errorf("%s: %s is expected in the past", name, text)
			}
			bars = append(bars, text)
		}
		if got := strings.Join(bars, " "); got != tc.bars {
			t.Errorf("%s: the bar is %q, want %q", name, got, tc.bars)
		}
		if got := line.Rows[0].Next; got != tc.next {
			t.Errorf("%s: next it %q, want %q", name, got, tc.next)
		}
		if line.NowX < 0 || line.NowX > pictureWidth {
			t.Errorf("%s: now is at %d", name, line.NowX)
		}
	}
	if line := newTimeline(nil, now); len(line.Rows) > 0 || fmt.Sprint(line.From) != fmt.Sprint(now) {
		t.Errorf("without keys: %+v", line)
	}
}

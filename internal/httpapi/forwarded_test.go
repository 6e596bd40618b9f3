package httpapi

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzForwardedAddress checks that no field of a client decides its address: the address is the one that the trusted
// proxy saw or, if the two fields differ, that of the proxy.
func FuzzForwardedAddress(f *testing.F) {
	for _, seed := range []string{
		"", "6.6.6.6", "for=6.6.6.6", `for="6.6.6.6`, `for="`, `for="[::1]:80";by=_x`, "unknown, _hidden", ",", `\`, `for=198.51.100.7;host="`, "198.51.100.7",
	} {
		f.Add(seed, "", byte(0))
		f.Add("", seed, byte(1))
		f.Add(seed, seed, byte(2))
	}
	peer := netip.MustParseAddr("10.0.0.9")
	client := netip.MustParseAddr("198.51.100.7")
	f.Fuzz(func(t *testing.T, forwarded, xForwardedFor string, inner byte) {
		hops := int(inner%3) + 1
		// The outermost proxy adds the client, and each inner one adds the proxy before it.
		theirs := strings.TrimPrefix(forwarded+", for=198.51.100.7;proto=https", ", ") + strings.Repeat(`, for="[fd00::1]:80"`, hops-1)
		theirsX := strings.TrimPrefix(xForwardedFor+", 198.51.100.7", ", ") + strings.Repeat(", fd00::1", hops-1)
		for _, tc := range []struct {
			name                     string
			forwarded, xForwardedFor string
			orPeer                   bool
		}{
			{"the proxies write Forwarded", theirs, "", false},
			{"the proxies write X-Forwarded-For", "", theirsX, false},
			{"the proxies write both", theirs, theirsX, false},
			{"the proxies write Forwarded and pass the other on", theirs, xForwardedFor, true},
			{"the proxies write X-Forwarded-For and pass the other on", forwarded, theirsX, true},
		} {
			got := forwardedAddress(peer, hops, tc.forwarded, tc.xForwardedFor)
			if got != client && !(tc.orPeer && got == peer) {
				t.Errorf("%s: %q and %q give %s", tc.name, tc.forwarded, tc.xForwardedFor, got)
			}
		}
		if got := forwardedAddress(peer, hops, forwarded, xForwardedFor); got.Zone() != "" || got.Is4In6() || !got.IsValid() {
			t.Errorf("%q and %q give %s", forwarded, xForwardedFor, got)
		}
	})
}

package httpapi_test

import (
	"context"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Row H10. The peer is the last proxy.
func TestClientAddressIsTheOneThatTheOutermostTrustedProxySaw(t *testing.T) {
	t.Parallel()
	const peer = "127.0.0.1"
	for _, tc := range []struct {
		name   string
		field  string // "" is any
		hops   int
		fields []string
		want   string
	}{
		{"no proxy is trusted", "", 0, []string{"X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1"}, peer},
		{"no field", "", 1, nil, peer},
		{"empty fields", "", 1, []string{"X-Forwarded-For:", "Forwarded:"}, peer},
		{"another field", "", 1, []string{"X-Real-IP: 192.0.2.1", "X-Forwarded: for=192.0.2.1", "X-Forwarded-Host: 192.0.2.1"}, peer},

		{"one proxy", "", 1, []string{"X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		{"one proxy, by the standard", "", 1, []string{"Forwarded: for=192.0.2.1"}, "192.0.2.1"},
		{"fields in other case", "", 1, []string{"x-forwarded-for: 192.0.2.1", "FORWARDED: FOR=192.0.2.1"}, "192.0.2.1"},
		{"both, and they agree", "", 1, []string{"Forwarded: for=192.0.2.1;proto=https", "X-Forwarded-For: 6.6.6.6, 192.0.2.1"}, "192.0.2.1"},
		{"both, and they differ", "", 1, []string{"Forwarded: for=6.6.6.6", "X-Forwarded-For: 192.0.2.1"}, peer},
		{"both, and one is malformed", "", 1, []string{"Forwarded: 192.0.2.1", "X-Forwarded-For: 192.0.2.1"}, peer},
		{"both, and one is too short", "", 2, []string{"Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1, 10.0.0.1"}, peer},

		{"what the client wrote", "", 1, []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.1"}, "192.0.2.1"},
		{"what the client wrote, by the standard", "", 1, []string{"Forwarded: for=6.6.6.6, for=192.0.2.1;by=10.0.0.1"}, "192.0.2.1"},
		{"nonsense that the client wrote", "", 1, []string{"X-Forwarded-For: \", ;,,é,[, 192.0.2.1"}, "192.0.2.1"},
		{"a quote that the client left open", "", 1, []string{`Forwarded: for="6.6.6.6, for=192.0.2.1`}, "192.0.2.1"},
		{"two proxies", "", 2, []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.1"}, "192.0.2.1"},
		{"two proxies, by the standard", "", 2, []string{"Forwarded: for=6.6.6.6,for=192.0.2.1 \t,\tfor=10.0.0.1;host=a"}, "192.0.2.1"},
		{"a line of each proxy", "", 2, []string{"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1", "Accept: */*", "X-Forwarded-For: 10.0.0.1"}, "192.0.2.1"},
		{"a line of each proxy, by the standard", "", 2, []string{"Forwarded: for=6.6.6.6", "Forwarded: for=192.0.2.1", "Forwarded: for=10.0.0.1"}, "192.0.2.1"},
		{"as many as there are", "", 3, []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.1, 10.0.0.2"}, "192.0.2.1"},
		{"more than there are", "", 4, []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.1, 10.0.0.2"}, peer},
		{"a proxy that hides the one before it", "", 2, []string{"Forwarded: for=192.0.2.1, for=_edge"}, "192.0.2.1"},
		{"a proxy that does not know the one before it", "", 2, []string{"X-Forwarded-For: 192.0.2.1, unknown"}, "192.0.2.1"},

		{"a port", "", 1, []string{"X-Forwarded-For: 192.0.2.1:4711"}, "192.0.2.1"},
		{"a port, by the standard", "", 1, []string{`Forwarded: for="192.0.2.1:4711"`}, "192.0.2.1"},
		{"IPv6", "", 1, []string{"X-Forwarded-For: 2001:db8::0:1"}, "2001:db8::1"},
		{"IPv6 in brackets", "", 1, []string{"X-Forwarded-For: [2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 in brackets with a port", "", 1, []string{"X-Forwarded-For: [2001:db8::1]:4711"}, "2001:db8::1"},
		{"IPv6, by the standard", "", 1, []string{`Forwarded: for="[2001:DB8::1]"`}, "2001:db8::1"},
		{"IPv6 with a port, by the standard", "", 1, []string{`Forwarded: proto=https;For="[2001:db8::1]:4711"`}, "2001:db8::1"},
		{"IPv4 in IPv6", "", 1, []string{"X-Forwarded-For: ::ffff:192.0.2.1"}, "192.0.2.1"},
		{"both, in other words", "", 1, []string{`Forwarded: for="[::ffff:192.0.2.1]:80"`, "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},

		{"a hidden name", "", 1, []string{"Forwarded: for=_hidden"}, peer},
		{"a hidden name with a port", "", 1, []string{`Forwarded: for="_hidden:4711"`}, peer},
		{"an unknown address", "", 1, []string{"Forwarded: for=unknown"}, peer},
		{"a name of a host", "", 1, []string{"X-Forwarded-For: client.example"}, peer},
		{"an address that cannot be", "", 1, []string{"X-Forwarded-For: 192.0.2.256"}, peer},
		{"an octal address", "", 1, []string{"X-Forwarded-For: 192.0.02.1"}, peer},
		{"a short address", "", 1, []string{"X-Forwarded-For: 192.1"}, peer},
		{"a network", "", 1, []string{"X-Forwarded-For: 192.0.2.0/24"}, peer},
		{"a zone", "", 1, []string{"X-Forwarded-For: fe80::1%eth0"}, peer},
		{"a port that cannot be", "", 1, []string{"X-Forwarded-For: 192.0.2.1:65536"}, peer},
		{"IPv4 in brackets", "", 1, []string{"X-Forwarded-For: [192.0.2.1]"}, peer},
		{"half a bracket", "", 1, []string{"X-Forwarded-For: [2001:db8::1"}, peer},
		{"quotes that are not of this field", "", 1, []string{`X-Forwarded-For: "192.0.2.1"`}, peer},
		{"two addresses with a space", "", 1, []string{"X-Forwarded-For: 6.6.6.6 192.0.2.1"}, peer},
		{"a comma at the end", "", 1, []string{"X-Forwarded-For: 192.0.2.1,"}, peer},
		{"an element of nothing", "", 2, []string{"X-Forwarded-For: 192.0.2.1,,10.0.0.1"}, peer},
		{"an empty line at the end", "", 1, []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For:"}, peer},

		{"no for", "", 1, []string{"Forwarded: by=192.0.2.1"}, peer},
		{"no for at the proxy between", "", 2, []string{"Forwarded: for=192.0.2.1, by=10.0.0.1"}, peer},
		{"for twice", "", 1, []string{"Forwarded: for=192.0.2.1;for=6.6.6.6"}, peer},
		{"an empty for", "", 1, []string{`Forwarded: for=""`}, peer},
		{"an address without for", "", 1, []string{"Forwarded: 192.0.2.1"}, peer},
		{"IPv6 without quotes", "", 1, []string{"Forwarded: for=[2001:db8::1]"}, peer},
		{"a port without quotes", "", 1, []string{"Forwarded: for=192.0.2.1:4711"}, peer},
		{"half a quote", "", 1, []string{`Forwarded: for="192.0.2.1`}, peer},
		{"a quote within quotes", "", 1, []string{`Forwarded: for=192.0.2.1;host="a"b"`}, peer},
		{"only a quote", "", 1, []string{`Forwarded: for="`}, peer},
		{"an escape", "", 1, []string{`Forwarded: for="192.0.2.\1"`}, peer},
		{"a host with a comma that the client chose", "", 1, []string{`Forwarded: for=192.0.2.1;host="a, for=6.6.6.6"`}, peer},
		{"a host with a semicolon that the client chose", "", 1, []string{`Forwarded: for=192.0.2.1;host="a;for=6.6.6.6"`}, peer},
		{"a host with quotes that the client chose", "", 1, []string{`Forwarded: for=192.0.2.1;host="a\", for=6.6.6.6;b=\""`}, peer},

		// A proxy that writes one of the two fields passes the other one on as the client sent it. TRUSTED_PROXY_FIELD names
		// the proxy's field, so the client cannot make the two differ.
		{"either, the one", "any", 1, []string{"Forwarded: for=192.0.2.1"}, "192.0.2.1"},
		{"either, the other", "any", 1, []string{"X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		{"either, and they differ", "any", 1, []string{"Forwarded: for=6.6.6.6", "X-Forwarded-For: 192.0.2.1"}, peer},
		{"its field", "X-Forwarded-For", 1, []string{"X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		{"its field, by the standard", "Forwarded", 1, []string{"Forwarded: for=192.0.2.1"}, "192.0.2.1"},
		{"the client wrote the other", "X-Forwarded-For", 1, []string{"Forwarded: for=6.6.6.6", "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		{"the client wrote the other, by the standard", "Forwarded", 1, []string{"Forwarded: for=192.0.2.1", "X-Forwarded-For: 6.6.6.6"}, "192.0.2.1"},
		{"the client wrote nonsense", "X-Forwarded-For", 1, []string{`Forwarded: for="`, "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		{"only the other", "X-Forwarded-For", 1, []string{"Forwarded: for=6.6.6.6"}, peer},
		{"only the other, by the standard", "Forwarded", 1, []string{"X-Forwarded-For: 6.6.6.6"}, peer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(o *httpapi.Options) { o.ProxyHops, o.ProxyField = tc.hops, tc.field })
			got := address(s)
			wire := "GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n" + strings.Join(append(tc.fields, "\r\n"), "\r\n")
			replies, _ := exchange(t, s, wire, 1)
			if len(replies) != 1 || replies[0].Status != 200 || *got != tc.want {
				t.Errorf("got %q (%v), not %s", *got, replies, tc.want)
			}
		})
	}
}

// address returns where the next call of the domain stores the client's address.
func address(s *running) *string {
	var got string
	s.accounts.do = func(ctx context.Context, _ string) error {
		got = identity.CallerOf(ctx).Address.String()
		return nil
	}
	return &got
}

// A proxy that forwards trailers has written its own fields before them.
func TestClientAddressInATrailerIsIgnored(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.ProxyHops = 1 })
	for field, want := range map[string]string{
		"Forwarded: for=192.0.2.1\r\n": "192.0.2.1", "X-Forwarded-For: 192.0.2.1\r\n": "192.0.2.1", "": "127.0.0.1",
	} {
		got := address(s)
		replies, _ := exchange(t, s, "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+field+
			"Transfer-Encoding: chunked\r\n\r\n15\r\n{\"refresh_token\":\"r\"}\r\n0\r\nForwarded: for=6.6.6.6\r\n\r\n", 1)
		if len(replies) != 1 || replies[0].Status != 200 || *got != want {
			t.Errorf("%q: got %q (%v), not %s", field, *got, replies, want)
		}
	}
}

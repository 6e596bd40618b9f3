// Package verify verifies the access tokens of an Auth Gateway, without a call for each token.
//
//	v, err := verify.New(ctx, verify.FromURL("https://auth.example.com"), verify.Audience("https://shop.example.com"))
//	if err != nil {
//		return err // a mistake in the configuration, which the message names
//	}
//	defer v.Close()
//	http.Handle("/orders", v.Require("orders:read")(orders)) // in orders: verify.FromContext(r.Context()).Subject
//
// The package needs only the standard library. Its middleware for gRPC and Fiber, grpcauth and fiberauth, are modules
// of their own. Tests of a service use verifytest.
//
// # Where the keys come from
//
//	FromDir(path)    the ConfigMap NAME-public-keys, mounted as a directory. It needs no network
//	FromURL(issuer)  the gateway's metadata and JWK Set
//	FromFunc(read)   anything else
//
// A source is read in the background: a directory every five seconds, a URL as its max-age says, about once a minute.
// The keys in use are one immutable set behind one pointer, so verifications do not wait for reads or for each other. A
// read that fails, or that has no usable keys, leaves the last good set in place. A key that is missing in a new set is
// gone at once.
//
// The gateway publishes a key long before the key signs, so a source is usually ahead of the tokens. If the key of a
// token is unknown nevertheless, the source is read at once: one read for all such tokens, at most once a minute (a
// directory: once a second), and only those tokens wait, for three seconds at most.
//
// A service may start before its gateway: see New. Stats has the age and generation of the keys, for metrics.
//
// # How a token is verified
//
//	text ─▶ at most 8 KiB, three parts of strict base64url
//	     ─▶ cached? (only with the option Cache) ───────── yes ──┐
//	     ─▶ header: strict JSON without crit; typ is at+jwt      │
//	     ─▶ kid selects the key; alg must be that of the key     │
//	     ─▶ signature: ES256, RS256 (2048 bits or more) or EdDSA │
//	     ─▶ payload: strict JSON; iss and aud, byte for byte     │
//	     ─▶ exp, iat and nbf against the clock ◀─────────────────┘
//	     ─▶ ended sessions and revoked keys (only with WithRevocations)
//	     ─▶ scopes, auth_time and acr, if they are required
//
// JSON is strict if no member occurs twice, no known claim is spelled in another case, and text is valid UTF-8: another
// reader of the token would otherwise see other claims. Signatures are verified by the standard library.
//
// # Errors
//
// Every error of a token is an *Error. It matches a Check, the step that failed, and a Reason, the likely mistake:
//
//	errors.Is(err, verify.ErrExpired)          // the client must renew the token
//	errors.Is(err, verify.ErrUnavailable)      // not the fault of the client: answer 503
//	errors.Is(err, verify.ReasonRefreshToken)  // the client sent its refresh token
//
// The message names the mistake for logs and developers, and never contains the token. The middleware answers clients
// with less, as RFC 6750 says; see Verifier.Require.
//
// # Ended sessions
//
// A token that is verified offline stays valid until it expires, even after its user has signed out. WithRevocations
// closes this gap. It follows a feed of the gateway, a long poll:
//
//	GET ISSUER/sessions/ended?after=CURSOR&wait=25
//	{"ended": [{"kind": "sid", "id": "…", "until": 1795915000}], "next": "CURSOR", "more": false}
//
// Without a cursor the answer begins with everything that still matters. Entries are only ever added, in any order and
// perhaps twice, and are forgotten after until, when no token of the session can be valid any more. The cursor moves
// only with a whole page, so a consumer that was cut off continues where it stopped. MaxLag and the mode decide what
// happens meanwhile. A million ended sessions take about 20 MiB.
package verify

// Package token issues and verifies the two JSON Web Tokens of the gateway. It
// is the one importer of golang-jwt, which signs and verifies; the keys come
// from package keys.
//
//	           access                                refresh
//	typ        at+jwt (RFC 9068, section 2.1)        rt+jwt
//	signed by  the access key                        the refresh key
//	aud        the configured audiences              the issuer itself
//	says       who, in which session, with which     which session, which generation
//	           scope
//	jti        random                                session and generation
//
// The two can never stand in for each other: they differ in key, typ and aud
// (RFC 8725, section 3.12).
//
// # How a token is verified
//
//	text ─▶ at most 8 KiB, base64url alphabet, two dots
//	     ─▶ signature checked before? ──────────────── yes ──┐
//	     ─▶ header: strict JSON, exactly alg, typ, kid       │
//	     ─▶ kid finds the key in a map; alg must be its own  │
//	     ─▶ signature                                        │
//	     ─▶ payload: strict JSON, iss, aud, sub, sid, ...    │
//	     ─▶ remembered under SHA-256 of the text ◀───────────┤
//	     ─▶ exp, iat, nbf against the clock, each time ◀─────┘
//
// What the token says about itself selects nothing but an entry in that map:
// no algorithm, no key, no address to fetch one from. Nothing is told about a
// token's content, its expiry included, before its signature was found good.
//
// The memory of checked tokens belongs to the set of keys with which they were
// checked and goes with it, so a revoked key is revoked at once.
//
// Signatures are deterministic (RFC 6979 for ES256; RS256 and EdDSA are so by
// nature): the same refresh token is issued again as the same bytes, which is
// how a client whose reply was lost gets the very successor that it missed. RFC
// 8725, section 3.2, recommends it for ECDSA anyway.
package token

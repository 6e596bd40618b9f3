// Package token issues and verifies the two JSON Web Tokens of the gateway. It is the only
// importer of golang-jwt, which signs and verifies. The keys come from package keys.
//
//	           access                                refresh
//	typ        at+jwt (RFC 9068, section 2.1)        rt+jwt
//	           or JWT, as configured
//	signed by  the access key                        the refresh key
//	aud        the configured audiences, an array    the issuer itself
//	client_id  the gateway itself                    none
//	identifies the user, session and scope           the session and its generation
//	jti        random                                session and generation
//
// A token of one kind is never accepted as the other: they differ in key, typ and aud (RFC 8725, section 3.12).
//
// During an update, replicas of two versions verify each other's tokens. The verifier therefore
// accepts what an earlier version issued (no client_id, an aud that is a string) and both types
// of access tokens. A later version may require client_id.
//
// # How a token is verified
//
//	text ─▶ at most 8 KiB, base64url alphabet, two dots
//	     ─▶ cached? ────────────────────────────────── yes ──┐
//	     ─▶ header: strict JSON, only alg, typ, kid          │
//	     ─▶ kid selects the key; alg must match the key      │
//	     ─▶ signature                                        │
//	     ─▶ payload: strict JSON, iss, aud, sub, sid, ...    │
//	     ─▶ cached under the SHA-256 of the text ◀───────────┤
//	     ─▶ exp, iat, nbf against the clock, each time ◀─────┘
//
// The header only selects one of our keys. It does not choose an algorithm, contain a key, or refer to one. Errors
// reveal nothing about the content of a token, including its expiry, before its signature is verified.
//
// The cache of verified tokens belongs to the key set that verified them, and is dropped
// with it, so that revoking a key takes effect immediately.
//
// Signatures are deterministic (RFC 6979 for ES256; RS256 and EdDSA always are). Issuing the
// same refresh token again results in the same bytes, so a client whose reply was lost gets
// the successor that it missed. RFC 8725, section 3.2, recommends this for ECDSA anyway.
package token

package verify

import (
	"slices"
	"strings"
	"time"
)

// These functions name the mistake behind a refusal. They run only after a check has failed.

// wrongForm names what a text is that is not header.payload.signature.
func wrongForm(token string) *Error {
	dots := strings.Count(token, ".")
	switch {
	case token == "":
		return refuse(ErrForm, ReasonNoToken, "the token is empty")
	case len(token) > 6 && strings.EqualFold(token[:6], "bearer"):
		return refuse(ErrForm, ReasonBearerInToken, `the text begins with "Bearer"; pass only what follows it`)
	case strings.Trim(token, "\"' \t\r\n") != token:
		return refuse(ErrForm, ReasonQuoted, "the token is surrounded by quotes, spaces or line breaks")
	case strings.ContainsAny(token, "\r\n\t "):
		return refuse(ErrForm, ReasonQuoted, "the token contains spaces or line breaks; it was probably wrapped by a program")
	case dots == 0:
		return refuse(ErrForm, ReasonOpaque, "the token has no dots, so it is an opaque token or an API key, not a JWT")
	case dots == 1:
		return refuse(ErrForm, ReasonTruncated, "the token has two parts of three; was it truncated?")
	case dots == 4:
		return refuse(ErrForm, ReasonEncrypted, "the token has five parts, so it is encrypted (JWE); the gateway's are signed (JWS)")
	}
	return refuse(ErrForm, ReasonOpaque, "the token is not header.payload.signature")
}

func notBase64URL(what, part string) *Error {
	switch {
	case len(part) > 6 && strings.EqualFold(part[:6], "bearer"):
		return refuse(ErrForm, ReasonBearerInToken, `the text begins with "Bearer"; pass only what follows it`)
	case strings.Trim(part, "\"' \t") != part:
		return refuse(ErrForm, ReasonQuoted, "the token is surrounded by quotes or spaces")
	case strings.ContainsAny(part, "+/="):
		return refuse(ErrForm, ReasonNotBase64URL, what+" is base64 with + / or =; a JWT has base64url without padding")
	}
	return refuse(ErrForm, ReasonNotBase64URL, what+" is not base64url; was the token changed or truncated?")
}

func wrongAlgorithm(algorithm string) *Error {
	switch {
	case algorithm == es256, algorithm == rs256, algorithm == eddsa:
		return nil
	case strings.EqualFold(algorithm, "none"):
		return refuse(ErrAlgorithm, ReasonUnsigned, "the token says alg none: it is unsigned, and so a forgery or a mistake in a test")
	case strings.HasPrefix(algorithm, "HS"):
		return refuse(ErrAlgorithm, ReasonHMAC, "the token is signed with "+quote(algorithm)+
			", a shared secret; signing with the public key as the secret is a well-known forgery")
	}
	return refuse(ErrAlgorithm, ReasonOtherAlgorithm, "the algorithm "+quote(algorithm)+" is not ES256, RS256 or EdDSA")
}

// idTokenClaims are claims of ID tokens (OpenID Connect Core, section 2) that access tokens do not have.
var idTokenClaims = []string{"nonce", "at_hash", "c_hash", "azp"}

// wrongType names the kind of a token that is no access token. The claims are not verified, and may be nil.
func (v *Verifier) wrongType(typ string, c *Claims) *Error {
	switch {
	case typ == "rt+jwt":
		return refuse(ErrType, ReasonRefreshToken, "this is a refresh token; send the access token, which was issued with it")
	case (typ == "" || typ == "JWT") && c != nil && slices.ContainsFunc(idTokenClaims, func(name string) bool { return c.Raw(name) != nil }):
		return refuse(ErrType, ReasonIDToken, "this is an ID token, which is for the client that requested it; send the access token")
	case typ == "JWT":
		return refuse(ErrType, ReasonPlainJWT, "the typ is JWT, and "+quote(strings.Join(v.types, " "))+
			" is required; if the gateway's ACCESS_TOKEN_TYP is JWT, use the option TokenType")
	case typ == defaultType:
		return refuse(ErrType, ReasonOtherType, "the typ is at+jwt, and the option TokenType is "+quote(strings.Join(v.types, " "))+
			"; it must be the gateway's ACCESS_TOKEN_TYP")
	}
	return refuse(ErrType, ReasonOtherType, "the typ is "+quote(typ)+", and "+quote(strings.Join(v.types, " "))+" is required")
}

// unknownKey names why a set does not have the key of a token. The claims are not verified, and may be nil.
func (v *Verifier) unknownKey(set *keySet, id string, c *Claims) *Error {
	if why, found := set.unusable[id]; found {
		reason := ReasonUnusableKey
		if slices.Contains(set.document.Revoked, id) {
			reason = ReasonKeyRevoked
		}
		return refuse(ErrKey, reason, "the key of the token is not used: "+why)
	}
	switch {
	case c != nil && c.Issuer != set.issuer:
		_, hint := compareIssuers(c.Issuer, set.issuer)
		return refuse(ErrKey, ReasonOtherGateway, "the token is of another gateway: its key is unknown, and it names the issuer "+
			quote(c.Issuer)+", not "+quote(set.issuer)+hint)
	case c != nil && v.now().Unix() >= c.exp:
		return refuse(ErrKey, ReasonUnknownKey, "the key of the token is unknown, and the token has expired; the key was probably removed since")
	}
	message := "the key of the token is unknown: it was revoked, or another gateway with the same issuer signed the token"
	if age := v.keeper.age(v.now()); age > 2*time.Minute {
		message += "; the keys were last confirmed " + about(age) + " ago, so it may be a newer one"
	}
	return refuse(ErrKey, ReasonUnknownKey, message)
}

// wrongSignature names why a signature of a known key does not match.
func (k *key) wrongSignature(signature []byte) *Error {
	switch size := k.signatureSize(); {
	case k.ecdsa != nil && len(signature) > size && signature[0] == 0x30:
		return refuse(ErrSignature, ReasonDERSignature, "the signature is in DER; a JWT has R and S, 32 bytes each (RFC 7518, section 3.4)")
	case len(signature) < size:
		return refuse(ErrSignature, ReasonTruncated, "the signature is too short; was the token truncated?")
	}
	return refuse(ErrSignature, ReasonSignature, "the signature does not match: the token was changed, or another key with this kid signed it")
}

func wrongIssuer(got, want string) *Error {
	reason, hint := compareIssuers(got, want)
	return refuse(ErrIssuer, reason, "the token names the issuer "+quote(got)+", and "+quote(want)+" is configured"+hint)
}

// wrongAudience names the difference between the audiences of a token and that of this service.
func (v *Verifier) wrongAudience(got []string) *Error {
	message := "the token is for " + quote(strings.Join(got, " ")) + ", and this service is " + quote(strings.Join(v.audiences, " "))
	for _, a := range got {
		for _, want := range v.audiences {
			switch {
			case strings.TrimSuffix(a, "/") == strings.TrimSuffix(want, "/"):
				return refuse(ErrAudience, ReasonAudiencePrefix, message+"; only the slash at the end differs")
			case strings.EqualFold(a, want):
				return refuse(ErrAudience, ReasonAudiencePrefix, message+"; only upper and lower case differ")
			case strings.HasPrefix(a, want) || strings.HasPrefix(want, a):
				return refuse(ErrAudience, ReasonAudiencePrefix, message+"; one is a prefix of the other, and they must be equal")
			}
		}
	}
	return refuse(ErrAudience, ReasonOtherAudience, message+"; name this service in the gateway's AUDIENCE, or use its name here")
}

func (v *Verifier) issuedInTheFuture(c *Claims, now time.Time) *Error {
	return refuse(ErrNotYet, ReasonClock, "the token was issued in the future: the clock of this machine differs from the gateway's: it is "+
		about(c.IssuedAt.Sub(now))+" behind; synchronise both")
}

func (v *Verifier) expired(c *Claims, now time.Time) *Error {
	message := "the token expired " + about(now.Sub(c.ExpiresAt)) + " ago"
	if hint := v.keeper.clockHint(); hint != "" {
		return refuse(ErrExpired, ReasonClock, message+hint)
	}
	if age := now.Sub(c.IssuedAt); wholeHours(age) {
		return refuse(ErrExpired, ReasonClock, message+"; if it is new, the clock of this machine is "+about(age)+" ahead of the gateway's")
	}
	return refuse(ErrExpired, ReasonExpired, message+"; the client must renew it")
}

// clockHint describes a difference between the clocks that the source has shown, if it is large.
func (k *keeper) clockHint() string {
	skew := k.skew.Load()
	if skew == nil || skew.Abs() < 30*time.Second {
		return ""
	}
	if *skew < 0 {
		return "; the clock of this machine differs from the gateway's: it is " + about(*skew) + " behind"
	}
	return "; the clock of this machine differs from the gateway's: it is " + about(*skew) + " ahead"
}

// unavailable returns an error that the client does not cause.
func (k *keeper) unavailable(reason Reason, message string) *Error {
	e := refuse(ErrUnavailable, reason, message)
	if cause := k.failure.Load(); cause != nil {
		e.Message, e.cause = message+": "+cause.Message, cause
	}
	return e
}

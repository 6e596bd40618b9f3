package verify

import (
	"fmt"
	"strings"
	"time"
)

// Check is the check that failed. Every error of this package matches one with errors.Is:
//
//	if errors.Is(err, verify.ErrExpired) { … }
type Check string

// The checks of a token.
const (
	ErrNoToken   Check = "no access token"     // the request has no token
	ErrRequest   Check = "invalid request"     // the request has several tokens, or one in the wrong place
	ErrForm      Check = "malformed token"     // not the compact form of a signed JWT
	ErrHeader    Check = "unacceptable header" // malformed, or with crit
	ErrAlgorithm Check = "wrong algorithm"     // not that of the key
	ErrType      Check = "wrong type"          // typ
	ErrKey       Check = "unknown key"         // kid
	ErrSignature Check = "wrong signature"
	ErrClaims    Check = "malformed claims" // a claim is missing, occurs twice or has the wrong type
	ErrIssuer    Check = "wrong issuer"     // iss
	ErrAudience  Check = "wrong audience"   // aud
	ErrExpired   Check = "expired"          // exp
	ErrNotYet    Check = "not valid yet"    // nbf, iat
	ErrEnded     Check = "ended"            // the session has ended, or the key was revoked; see WithRevocations
	ErrAuthTime  Check = "sign-in too old"  // auth_time; see MaxAge
	ErrACR       Check = "wrong acr"        // see ACR
	ErrScope     Check = "missing scope"    // see Scopes and Require
)

// The other failures. The token may be valid.
const (
	ErrUnavailable Check = "cannot verify tokens now"      // no keys yet, keys older than MaxStale, or revocations older than MaxLag
	ErrSource      Check = "the source has no usable keys" // a mistake in the configuration, or a source that does not answer
	ErrOptions     Check = "invalid options"               // of New
)

// Error returns the name of the check.
func (c Check) Error() string { return "verify: " + string(c) }

// Reason is the mistake that a check found. A Reason is more exact than a Check, and new ones may be added.
type Reason string

// The reasons.
const (
	ReasonNoToken           Reason = "no_token"
	ReasonTokenInQuery      Reason = "token_in_query"
	ReasonSeveralTokens     Reason = "several_tokens"
	ReasonOtherScheme       Reason = "other_scheme"
	ReasonBearerInToken     Reason = "bearer_in_token"
	ReasonQuoted            Reason = "quoted"
	ReasonTooLong           Reason = "too_long"
	ReasonOpaque            Reason = "opaque_token"
	ReasonEncrypted         Reason = "encrypted_token"
	ReasonTruncated         Reason = "truncated"
	ReasonNotBase64URL      Reason = "not_base64url"
	ReasonMalformedHeader   Reason = "malformed_header"
	ReasonCritical          Reason = "critical_header"
	ReasonUnsigned          Reason = "alg_none"
	ReasonHMAC              Reason = "hmac"
	ReasonOtherAlgorithm    Reason = "other_algorithm"
	ReasonRefreshToken      Reason = "refresh_token"
	ReasonIDToken           Reason = "id_token"
	ReasonPlainJWT          Reason = "typ_jwt"
	ReasonOtherType         Reason = "other_type"
	ReasonNoKeyID           Reason = "no_kid"
	ReasonUnknownKey        Reason = "unknown_key"
	ReasonOtherGateway      Reason = "other_gateway"
	ReasonUnusableKey       Reason = "unusable_key"
	ReasonSignature         Reason = "signature"
	ReasonDERSignature      Reason = "der_signature"
	ReasonMalformedClaims   Reason = "malformed_claims"
	ReasonDuplicateClaim    Reason = "duplicate_claim"
	ReasonMissingClaim      Reason = "missing_claim"
	ReasonMilliseconds      Reason = "milliseconds"
	ReasonHTTPIssuer        Reason = "http_issuer"
	ReasonIssuerSlash       Reason = "issuer_slash"
	ReasonOtherIssuer       Reason = "other_issuer"
	ReasonAudiencePrefix    Reason = "audience_prefix"
	ReasonOtherAudience     Reason = "other_audience"
	ReasonExpired           Reason = "expired"
	ReasonClock             Reason = "clock"
	ReasonNotYet            Reason = "not_yet"
	ReasonSessionEnded      Reason = "session_ended"
	ReasonKeyRevoked        Reason = "key_revoked"
	ReasonSignInTooOld      Reason = "sign_in_too_old"
	ReasonOtherACR          Reason = "other_acr"
	ReasonMissingScope      Reason = "missing_scope"
	ReasonNoKeys            Reason = "no_keys"
	ReasonStaleKeys         Reason = "stale_keys"
	ReasonStaleRevocations  Reason = "stale_revocations"
	ReasonClosed            Reason = "closed"
	ReasonOptions           Reason = "options"
	ReasonUnreachable       Reason = "unreachable"
	ReasonNoDirectory       Reason = "no_directory"
	ReasonNotADirectory     Reason = "not_a_directory"
	ReasonSubPath           Reason = "sub_path"
	ReasonNoKeyFile         Reason = "no_key_file"
	ReasonNoIssuer          Reason = "no_issuer"
	ReasonNotIssuerURL      Reason = "not_issuer_url"
	ReasonNoMetadata        Reason = "no_metadata"
	ReasonRedirect          Reason = "redirect"
	ReasonTooLarge          Reason = "too_large"
	ReasonHTML              Reason = "html"
	ReasonPEM               Reason = "pem"
	ReasonNotAKeySet        Reason = "not_a_key_set"
	ReasonEmptyKeySet       Reason = "empty_key_set"
	ReasonNoUsableKey       Reason = "no_usable_key"
	ReasonPrivateKey        Reason = "private_key"
	ReasonRefreshKeys       Reason = "refresh_keys"
	ReasonAmbiguousKeySet   Reason = "ambiguous_key_set"
	ReasonMalformedFeed     Reason = "malformed_feed"
	ReasonMalformedMetadata Reason = "malformed_metadata"
)

// Error returns the reason, so that errors.Is accepts one.
func (r Reason) Error() string { return "verify: " + string(r) }

// Error says which check failed and which mistake is the likely cause. Its text is for logs and developers, not for
// clients; Verifier.Challenge returns what a client may know. It never contains the token.
type Error struct {
	Check   Check
	Reason  Reason
	Message string // a sentence that names the mistake and what to do

	cause      error
	mistake    bool          // of a source: time does not repair it
	retryAfter time.Duration // of a source: when to ask again, at the earliest
	wanted     requirements  // for the challenge
}

// Error returns the message.
func (e *Error) Error() string { return "verify: " + e.Message }

// Is reports whether the target is the Check or the Reason of the error.
func (e *Error) Is(target error) bool { return target == e.Check || target == e.Reason }

// Unwrap returns the cause, such as an error of the network. It is nil for most errors.
func (e *Error) Unwrap() error { return e.cause }

// refuse returns an error of a token.
func refuse(check Check, reason Reason, message string) *Error {
	return &Error{Check: check, Reason: reason, Message: message}
}

// mistake returns an error of a source that only a person can repair.
func mistake(reason Reason, format string, args ...any) *Error {
	return &Error{Check: ErrSource, Reason: reason, Message: fmt.Sprintf(format, args...), mistake: true}
}

// outage returns an error of a source that may pass.
func outage(reason Reason, cause error, format string, args ...any) *Error {
	e := mistake(reason, format, args...)
	e.mistake, e.cause = false, cause
	if cause != nil {
		e.Message += ": " + cause.Error()
	}
	return e
}

// quote returns text from outside for a message: short, and on one line.
func quote(text string) string {
	if len(text) > 100 {
		text = strings.ToValidUTF8(text[:100], "") + "…"
	}
	return fmt.Sprintf("%q", text)
}

// about returns a duration for people, rounded to two digits or so.
func about(d time.Duration) string {
	if d < 0 {
		d = -d
	}
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Round(24*time.Hour)/(24*time.Hour)))
	case wholeHours(d):
		if n := int(d.Round(time.Hour) / time.Hour); n > 1 {
			return fmt.Sprintf("about %d hours", n)
		}
		return "about an hour"
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Round(time.Minute)/time.Minute))
	}
	return fmt.Sprintf("%d seconds", int(d/time.Second))
}

// wholeHours reports whether a difference between clocks looks like a wrong time zone.
func wholeHours(d time.Duration) bool {
	if d < 0 {
		d = -d
	}
	nearest := d.Round(time.Hour)
	return nearest >= time.Hour && nearest <= 14*time.Hour && (d-nearest).Abs() <= 3*time.Minute
}

package token_test

import (
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

func TestJ10J11NumbersThatAreNoDates(t *testing.T) {
	f, s, _ := setup(t)
	for _, name := range []string{"exp", "iat"} {
		refused(t, s, f.es256(f.header(""), f.claims(name, "")))
	}
	exp := start.Add(accessTTL).Unix()
	for _, name := range []string{"exp", "iat", "nbf", "auth_time"} {
		for _, value := range []string{
			fmt.Sprintf(`"%d"`, exp), "null", "-1", "1e300", "1e400", "-1e400", "1.5", fmt.Sprintf("%d.5", exp), "true", "[]", "{}",
			"NaN", "Infinity", "9223372036854775807", "9223372036854775808", "18446744073709551617", "-0", "01", "0x10", "253402300800",
		} {
			refused(t, s, f.es256(f.header(""), f.claims(name, value)))
		}
	}
	refused(t, s, f.es256(f.header(""), f.claims("exp", fmt.Sprint(exp+1)))) // longer than AccessTTL
	refused(t, s, f.es256(f.header(""), f.claims("iat", "0")))
	refused(t, s, f.es256(f.header(""), f.claims("exp", fmt.Sprint(start.Unix()-1)))) // before iat
	refused(t, s, f.es256(f.header(""), f.claims("email_verified", `"true"`)))
	refused(t, s, f.es256(f.header(""), f.claims("email_verified", "1")))
}

func TestJ12LeewayIsThirtySecondsBothWays(t *testing.T) {
	f, s, c := setup(t)
	text := f.es256(f.header(""), f.claims())
	notBefore := f.es256(f.header(""), f.claims("nbf", fmt.Sprint(start.Add(time.Minute).Unix())))
	exp := start.Add(accessTTL)
	for _, tt := range []struct {
		name string
		text string
		now  time.Time
		want error
	}{
		{"now is exp", text, exp, nil},
		{"one second before the leeway ends", text, exp.Add(leeway - time.Second), nil},
		{"the leeway ends", text, exp.Add(leeway), token.ErrExpired},
		{"one second after", text, exp.Add(leeway + time.Second), token.ErrExpired},
		{"issued just within the leeway", text, start.Add(-leeway), nil},
		{"issued in the future", text, start.Add(-leeway - time.Second), token.ErrInvalid},
		{"not before, within the leeway", notBefore, start.Add(leeway), nil},
		{"not before", notBefore, start.Add(leeway - time.Second), token.ErrInvalid},
	} {
		for _, how := range []string{"checked", "remembered"} {
			if how == "checked" {
				s.Use(ring(t, keys.ES256))
			}
			c.Set(tt.now)
			if _, err := s.VerifyAccess(tt.text); !errors.Is(err, tt.want) || errors.Is(err, token.ErrExpired) != (tt.want == token.ErrExpired) {
				t.Errorf("%s, %s: err = %v, want %v", tt.name, how, err, tt.want)
			}
		}
	}
}

func TestJ13Audiences(t *testing.T) {
	f, s, _ := setup(t)
	for _, aud := range []string{`["https://wrong.example","` + audience + `"]`, `["` + audience + `"]`, `"https://other.example"`} {
		accepted(t, s, f.es256(f.header(""), f.claims("aud", aud)))
	}
	for _, aud := range []string{``, `""`, `[]`, `[""]`, `"https://wrong.example"`, `"` + audience + `/"`, `"` + audience + ` x"`, `[["` + audience + `"]]`,
		`{"aud":"` + audience + `"}`, `null`, `1`, `[null]`, `["` + audience + `",1]`, `"` + issuer + `"`, `"` + strings.ToUpper(audience) + `"`} {
		refused(t, s, f.es256(f.header(""), f.claims("aud", aud)))
	}
}

func TestJ14Issuers(t *testing.T) {
	f, s, c := setup(t)
	for _, iss := range []string{``, `""`, `null`, `7`, `["` + issuer + `"]`, `"` + issuer + `/"`, `"HTTPS://auth.example"`, `"https://AUTH.example"`, `" ` + issuer + `"`} {
		refused(t, s, f.es256(f.header(""), f.claims("iss", iss)))
	}
	// Another gateway has other keys, so the kid is unknown here.
	refused(t, s, mustAccess(t, service(ring(t, keys.EdDSA), c)))
	// Another gateway has the same keys.
	other := token.New(token.Config{Issuer: "https://other-gateway.example", Audience: []string{audience}, AccessTTL: accessTTL, Now: c.Now})
	other.Use(ring(t, keys.ES256))
	refused(t, s, mustAccess(t, other))
	refused(t, s, mustRefresh(t, other))
}

func TestJ15Subjects(t *testing.T) {
	f, s, _ := setup(t)
	for _, name := range []string{"sub", "sid"} {
		for _, id := range []string{``, `""`, `null`, `42`, `[]`, `["` + subject + `"]`, `"admin"`, `"` + strings.ToUpper(subject) + `"`,
			`"{` + subject + `}"`, `"urn:uuid:` + subject + `"`, `"` + strings.ReplaceAll(subject, "-", "") + `"`, `"` + subject + ` "`, `"` + subject[:35] + `g"`} {
			refused(t, s, f.es256(f.header(""), f.claims(name, id)))
		}
	}
}

func TestJ16MembersGivenTwice(t *testing.T) {
	f, s, _ := setup(t)
	other := `"0190c5d2-0000-7000-8000-000000000000"`
	for _, payload := range []string{
		strings.Replace(f.claims(), "{", `{"sub":`+other+`,`, 1),
		strings.TrimSuffix(f.claims(), "}") + `,"sub":` + other + `}`,
		strings.TrimSuffix(f.claims(), "}") + `,"SUB":` + other + `}`,
		strings.TrimSuffix(f.claims(), "}") + `,"Sub":` + other + `}`,
		strings.TrimSuffix(f.claims(), "}") + `,"\u0073ub":` + other + `}`,
		strings.TrimSuffix(f.claims(), "}") + `,"ſub":` + other + `}`, // folds to "sub"
		strings.TrimSuffix(f.claims(), "}") + `,"x":{"y":1,"y":2}}`,
	} {
		refused(t, s, f.es256(f.header(""), payload))
	}
	for _, head := range []string{
		fmt.Sprintf(`{"alg":"none","alg":"ES256","typ":"at+jwt","kid":%q}`, f.signer.ID),
		fmt.Sprintf(`{"alg":"ES256","alg":"none","typ":"at+jwt","kid":%q}`, f.signer.ID),
		fmt.Sprintf(`{"alg":"ES256","ALG":"none","typ":"at+jwt","kid":%q}`, f.signer.ID),
		fmt.Sprintf(`{"alg":"ES256","typ":"at+jwt","kid":"x","kid":%q}`, f.signer.ID),
	} {
		refused(t, s, f.es256(head, f.claims()))
	}
	// Unknown claims that do not resemble a known one are left to newer versions.
	accepted(t, s, f.es256(f.header(""), f.claims("amr", `["pwd",{"a":[1.5e3]}]`)))
}

func TestJ17OneSpellingForEachToken(t *testing.T) {
	f, s, _ := setup(t)
	text := f.es256(f.header(""), f.claims())
	accepted(t, s, text)
	parts := strings.Split(text, ".")
	for i := range parts {
		for _, insert := range []string{"\n", "\r\n", " ", "\t", "=", "+", "/", "\x00", "é", "%"} {
			changed := append([]string{}, parts...)
			changed[i] = parts[i][:5] + insert + parts[i][5:]
			refused(t, s, strings.Join(changed, "."))
			changed[i] = parts[i] + insert
			refused(t, s, strings.Join(changed, "."))
		}
	}
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		if c != text[len(text)-1] { // four bits of the last of 86 characters are unused
			refused(t, s, text[:len(text)-1]+string(c))
		}
	}
	refused(t, s, " "+text)
	refused(t, s, "Bearer "+text)
}

// If (r, s) verifies, so does (r, n-s), as ECDSA defines it. Both are the same token,
// because tokens are never revoked by their text.
func TestJ17TheOtherSignatureIsTheSameToken(t *testing.T) {
	f, s, _ := setup(t)
	text := f.es256(f.header(""), f.claims())
	dot := strings.LastIndexByte(text, '.')
	signature, _ := base64.RawURLEncoding.DecodeString(text[dot+1:])
	n := elliptic.P256().Params().N
	other := new(big.Int).Sub(n, new(big.Int).SetBytes(signature[32:]))
	twin := text[:dot+1] + b64(append(signature[:32:32], other.FillBytes(make([]byte, 32))...))
	a, err1 := s.VerifyAccess(text)
	b, err2 := s.VerifyAccess(twin)
	if err1 != nil || err2 != nil || a != b {
		t.Errorf("the token: %+v, %v; with the other signature: %+v, %v", a, err1, b, err2)
	}
}

func TestJ18SignaturesThatAreNone(t *testing.T) {
	f, s, _ := setup(t)
	text := f.es256(f.header(""), f.claims())
	dot := strings.LastIndexByte(text, '.')
	good, _ := base64.RawURLEncoding.DecodeString(text[dot+1:])
	r, ss := new(big.Int).SetBytes(good[:32]), new(big.Int).SetBytes(good[32:])
	n, zero := elliptic.P256().Params().N, new(big.Int)
	der, _ := asn1.Marshal(struct{ R, S *big.Int }{r, ss})
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	for name, signature := range map[string][]byte{
		"nothing": {}, "r=0": rs(zero, ss), "s=0": rs(r, zero), "zeros": rs(zero, zero), "r=n": rs(n, ss), "s=n": rs(r, n),
		"r+n":     rs(new(big.Int).Mod(new(big.Int).Add(r, n), new(big.Int).Lsh(big.NewInt(1), 256)), ss),
		"2^256-1": rs(most, most), "r and s exchanged": rs(ss, r), "DER": der, "63 bytes": good[:63], "65 bytes": append(append([]byte{}, good...), 0),
		"65 bytes in front": append([]byte{0}, good...), "96 bytes": make([]byte, 96), "one byte": {1},
	} {
		t.Run(name, func(t *testing.T) { refused(t, s, text[:dot+1]+b64(signature)) })
	}
}

func TestJ20LengthIsCheckedBeforeAnythingElse(t *testing.T) {
	f, s, _ := setup(t)
	head, payload := b64([]byte(f.header(""))), b64([]byte(f.claims()))
	for _, text := range []string{
		strings.Repeat("a", 8<<20), strings.Repeat(".", 4<<20), strings.Repeat("a.", 4<<20),
		head + "." + strings.Repeat("A", 8<<20) + ".AAAA",
		b64([]byte(`{"alg":"ES256"`+strings.Repeat(`,"a":[[[[[`, 100000))) + "." + payload + ".AAAA",
		f.es256(f.header(""), f.claims("name", `"`+strings.Repeat("n", 9000)+`"`)),
	} {
		begin := time.Now()
		refused(t, s, text)
		if d := time.Since(begin); d > 250*time.Millisecond {
			t.Errorf("%d bytes took %v", len(text), d)
		}
	}
	allocated := testing.AllocsPerRun(10, func() { _, _ = s.VerifyAccess(longToken) })
	if allocated > 5 {
		t.Errorf("%v allocations for a token over the limit", allocated)
	}
}

var longToken = strings.Repeat("a", 8<<20)

func TestJ21OtherFormats(t *testing.T) {
	f, s, _ := setup(t)
	good := f.es256(f.header(""), f.claims())
	parts := strings.Split(good, ".")
	for _, text := range []string{
		"", ".", "..", "...", "....", "a.b.c", parts[0], parts[0] + "." + parts[1], good + ".", "." + good, good + "." + parts[2], good + "." + parts[1] + "." + parts[2],
		`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		`{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
		parts[0] + ".." + parts[2], "." + parts[1] + "." + parts[2],
	} {
		refused(t, s, text)
	}
	for _, payload := range []string{
		``, `null`, `[]`, `"x"`, `7`, `true`, `{`, `{}`, f.claims() + `{}`, f.claims() + `x`, "\xef\xbb\xbf" + f.claims(),
		"\x00{\x00}", f.claims("name", "\"\xff\""), f.claims("name", `"\ud800"`), strings.Repeat("[", 5000), "[" + f.claims() + "]",
		f.claims("x", strings.Repeat("[", 2000)),
	} {
		refused(t, s, f.es256(f.header(""), payload))
	}
	for _, head := range []string{``, `null`, `[]`, `"ES256"`, `{`, `{}`, f.header("") + `{}`, "\xef\xbb\xbf" + f.header(""), f.header(",")} {
		refused(t, s, f.es256(head, f.claims()))
	}
}

func TestJ22AForgedTokenThatExpiredIsJustForged(t *testing.T) {
	f, s, c := setup(t)
	text := f.es256(f.header(""), f.claims())
	forged := text[:strings.LastIndexByte(text, '.')+1] + b64(make([]byte, 64))
	_, before := s.VerifyAccess(forged)
	c.Set(start.Add(time.Hour))
	refused(t, s, forged)
	if _, after := s.VerifyAccess(forged); after.Error() != before.Error() {
		t.Errorf("the error of a forged token reveals its expiry: %q, then %q", before, after)
	}
	if _, err := s.VerifyAccess(text); !errors.Is(err, token.ErrExpired) {
		t.Errorf("the genuine token: err = %v, want ErrExpired", err)
	}
}

func TestJ23TokensLiveAndDieWithTheirKey(t *testing.T) {
	c := testenv.NewClock(start)
	old := opened(t, keys.ES256)
	s := service(old, c)
	access, refresh := mustAccess(t, s), mustRefresh(t, s)

	p := policy(keys.ES256)
	p.Rotate = "now"
	ring := old.Ring()
	step := func(now time.Time) {
		t.Helper()
		ring = keystest.Advance(t, ring, p, passphrases, now)
		var err error
		if old, err = old.Reopen(ring, passphrases); err != nil {
			t.Fatal(err)
		}
		s.Use(old)
	}
	for !ring.Honoured("now") { // until the old keys are Retiring
		step(c.Now())
		c.Advance(2 * time.Minute)
		if a, err := s.VerifyAccess(access); err != nil && !errors.Is(err, token.ErrExpired) {
			t.Fatalf("VerifyAccess = %+v, %v", a, err)
		}
	}
	if _, err := s.VerifyRefresh(refresh); err != nil {
		t.Errorf("a refresh token of a retiring key: %v", err)
	}
	fromNew := mustRefresh(t, s)
	p.Revoked = []string{ring.Keys[0].ID, ring.Keys[1].ID, ring.Keys[2].ID, ring.Keys[3].ID}
	for range p.Revoked {
		step(c.Now())
	}
	refused(t, s, access)
	refused(t, s, refresh)
	refused(t, s, fromNew)
}

func TestJ25PiecesOfTokens(t *testing.T) {
	f, s, _ := setup(t)
	text := f.es256(f.header(""), f.claims())
	for n := range len(text) {
		refused(t, s, text[:n])
	}
	other := f.es256(f.header(""), f.claims("jti", `"other"`))
	a, b := strings.Split(text, "."), strings.Split(other, ".")
	refused(t, s, a[0]+"."+a[1]+"."+b[2])
	refused(t, s, a[0]+"."+b[1]+"."+a[2])
	for i := range 200 { // flips one bit
		raw := []byte(text)
		raw[i*len(raw)/200] ^= 1
		refused(t, s, string(raw))
	}
}

// The first verification reads the claims itself, and later ones do without the signature.
func TestClaimsAreTheSameFromTheCache(t *testing.T) {
	f, s, _ := setup(t)
	text := f.es256(f.header(""), f.claims())
	if s.Verified(text) {
		t.Error("a token is remembered before it was verified")
	}
	first := testenv.Must(s.VerifyClaims(text))(t)
	if first.Username != "ada" || first.Email != "ada@example.org" || first.Name != "Ada" || !first.AuthTime.Equal(start) ||
		first.Subject == "" || first.SessionID == "" || first.Scope == "" || len(first.Audience) == 0 {
		t.Errorf("the first time: %+v", first)
	}
	if again := testenv.Must(s.VerifyClaims(text))(t); !reflect.DeepEqual(again, first) {
		t.Errorf("the second time: %+v, not %+v", again, first)
	}
	if !s.Verified(text) || s.Verified(text[:len(text)-1]) {
		t.Error("exactly the token that was verified is remembered")
	}
}

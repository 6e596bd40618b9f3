package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"slices"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Project Wycheproof's vectors are known attacks on JWS implementations. They are not tokens of this gateway, so the
// test calls the part of the verifier that runs before the claims are checked. The file omits vectors for RS256 whose
// keys the gateway does not accept.
func TestWycheproofSignatures(t *testing.T) {
	raw, err := os.ReadFile("testdata/wycheproof_jws.json")
	testenv.NoError(t, err)
	var file struct {
		TestGroups []struct {
			Public struct{ Alg, X, Y, N, E string }
			Tests  []struct {
				TcID         int
				Comment, JWS string
				Result       string
			}
		}
	}
	testenv.NoError(t, json.Unmarshal(raw, &file))
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		testenv.NoError(t, err)
		return new(big.Int).SetBytes(b)
	}
	valid, invalid := 0, 0
	for _, g := range file.TestGroups {
		v := verifier{algorithm: g.Public.Alg, method: methodOf(keys.Algorithm(g.Public.Alg))}
		switch g.Public.Alg {
		case "ES256":
			point := slices.Concat([]byte{4}, number(g.Public.X).FillBytes(make([]byte, 32)), number(g.Public.Y).FillBytes(make([]byte, 32)))
			key := testenv.Must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point))(t)
			v.key = key
		case "RS256":
			v.key = &rsa.PublicKey{N: number(g.Public.N), E: int(number(g.Public.E).Int64())}
		}
		for _, tt := range g.Tests {
			err := verifyAlone(v, tt.JWS)
			switch {
			case tt.Result == "valid" && err == nil:
				valid++
			case tt.Result == "valid" && !errors.Is(err, errForm): // except for header members that the gateway never writes
				t.Errorf("%d %s: refused: %v", tt.TcID, tt.Comment, err)
			case tt.Result == "invalid" && err == nil:
				t.Errorf("%d %s: accepted", tt.TcID, tt.Comment)
			case tt.Result == "invalid":
				invalid++
			}
		}
	}
	t.Logf("%d accepted, %d refused", valid, invalid)
	if valid < 5 || invalid < 100 {
		t.Error("too few vectors were read")
	}
}

func verifyAlone(v verifier, text string) error {
	first, last, err := split(text)
	if err != nil {
		return err
	}
	encoded, err := strict.DecodeString(text[:first])
	if err != nil {
		return err
	}
	h, err := parseHeader(encoded)
	if err != nil {
		return err
	}
	return v.verify(h, text, last)
}

package token_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

const clientID = "shop"

// typed returns a service that issues access tokens of a type.
func typed(o *keys.Opened, c *testenv.Clock, typ string) *token.Service {
	s := token.New(token.Config{
		Issuer: issuer, Audience: []string{audience}, ClientID: clientID, AccessType: typ,
		AccessTTL: accessTTL, Leeway: leeway, Now: c.Now,
	})
	s.Use(o)
	return s
}

// testdata/without_client_id.json has a ring and its tokens, written by the last version that
// issued access tokens without client_id, and with a string as aud.
func TestTokensOfAnEarlierVersionStayValid(t *testing.T) {
	text := testenv.Must(os.ReadFile("testdata/without_client_id.json"))(t)
	var fixtures map[keys.Algorithm]struct {
		Ring               map[string]string
		Access             string
		AccessTwoAudiences string `json:"access_two_audiences"`
		Refresh            string
	}
	testenv.NoError(t, json.Unmarshal(text, &fixtures))
	for _, algorithm := range algorithms {
		old := fixtures[algorithm]
		files := map[string][]byte{}
		for name, content := range old.Ring {
			files[name] = []byte(content)
		}
		stored := testenv.Must(keys.FromFiles(files))(t)
		opened := keystest.Open(t, stored, passphrases)
		for _, typ := range []string{"", token.TypeAccess, token.TypeJWT} {
			s := typed(opened, testenv.NewClock(start), typ)
			for name, text := range map[string]string{"one audience": old.Access, "two audiences": old.AccessTwoAudiences} {
				got, err := s.VerifyAccess(text)
				want := token.Access{
					Subject: subject, SessionID: sessionID, Scope: "profile email", IssuedAt: start, ExpiresAt: start.Add(accessTTL),
				}
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("%s, typ %q, %s: %v (-want +got):\n%s", algorithm, typ, name, err, diff)
				}
				if d, err := s.Details(text); err != nil || d.ClientID != clientID || d.Audience[0] != audience {
					t.Errorf("%s, typ %q, %s: details %+v, %v", algorithm, typ, name, d, err)
				}
			}
			if got, err := s.VerifyRefresh(old.Refresh); err != nil || got != refresh() {
				t.Errorf("%s, typ %q: refresh claims %+v, %v", algorithm, typ, got, err)
			}
			// A client whose reply was lost gets the same successor from either version.
			if again := mustRefresh(t, s); again != old.Refresh {
				t.Errorf("%s, typ %q: the refresh token is now\n%s, and was\n%s", algorithm, typ, again, old.Refresh)
			}
		}
	}
}

func TestAccessTokensStayValidWhenTheirTypeChanges(t *testing.T) {
	for _, algorithm := range algorithms {
		c, o := testenv.NewClock(start), ring(t, algorithm)
		for _, issues := range []string{token.TypeAccess, token.TypeJWT} {
			text := mustAccess(t, typed(o, c, issues))
			if header, _ := decode(t, text); header["typ"] != issues {
				t.Errorf("%s: typ is %v, want %s", algorithm, header["typ"], issues)
			}
			for _, verifies := range []string{token.TypeAccess, token.TypeJWT} {
				s := typed(o, c, verifies)
				accepted(t, s, text)
				if _, err := s.VerifyRefresh(text); err == nil {
					t.Errorf("%s: an access token of type %s is accepted as a refresh token", algorithm, issues)
				}
			}
		}
		for _, typ := range []string{token.TypeAccess, token.TypeJWT} {
			text := mustRefresh(t, typed(o, c, typ))
			if header, _ := decode(t, text); header["typ"] != token.TypeRefresh {
				t.Errorf("%s: typ of a refresh token is %v", algorithm, header["typ"])
			}
			if _, err := typed(o, c, typ).VerifyAccess(text); err == nil {
				t.Errorf("%s: a refresh token is accepted as an access token", algorithm)
			}
		}
	}
}

func TestAccessTokensHaveTheClaimsOfRFC9068(t *testing.T) {
	c := testenv.NewClock(start)
	for _, s := range []*token.Service{typed(ring(t, keys.ES256), c, ""), service(ring(t, keys.ES256), c)} {
		_, claims := decode(t, mustAccess(t, s))
		for _, name := range []string{"iss", "exp", "aud", "sub", "client_id", "iat", "jti"} {
			if claims[name] == nil || claims[name] == "" {
				t.Errorf("no %s in %v", name, claims)
			}
		}
		if list, is := claims["aud"].([]any); !is || len(list) == 0 {
			t.Errorf("aud is %v, want an array", claims["aud"])
		}
	}
	text := mustAccess(t, typed(ring(t, keys.ES256), c, ""))
	payload := testenv.Must(base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1]))(t)
	var raw map[string]json.RawMessage
	testenv.NoError(t, json.Unmarshal(payload, &raw))
	for _, name := range []string{"exp", "iat", "auth_time"} {
		if strings.ContainsAny(string(raw[name]), `.eE"`) {
			t.Errorf("%s is %s, want an integer", name, raw[name])
		}
	}
	if string(raw["client_id"]) != `"`+clientID+`"` {
		t.Errorf("client_id is %s", raw["client_id"])
	}
	d, err := typed(ring(t, keys.ES256), c, "").Details(text)
	if err != nil || d.ClientID != clientID {
		t.Errorf("details %+v, %v", d, err)
	}
}

func TestClientIDMustBeText(t *testing.T) {
	f, s, _ := setup(t)
	accepted(t, s, f.es256(f.header(""), f.claims("client_id", `"another"`)))
	for _, value := range []string{"null", "7", `["shop"]`, "{}"} {
		refused(t, s, f.es256(f.header(""), f.claims("client_id", value)))
	}
	refused(t, s, f.es256(f.header(""), f.claims("Client_ID", `"shop"`)))
}

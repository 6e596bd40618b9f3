package load

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// gateway is a server that replies correctly unless spoil replies instead.
type gateway struct {
	t     *testing.T
	url   string
	key   *ecdsa.PrivateKey
	spoil func(w http.ResponseWriter, r *http.Request, n int64) bool
	asked atomic.Int64
}

func (g *gateway) set() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: g.key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}}
}

func (g *gateway) token(user string) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: g.key},
		(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "k1"))
	if err != nil {
		g.t.Error(err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: g.url, Audience: jwt.Audience{g.url}, Subject: user, IssuedAt: jwt.NewNumericDate(now),
		Expiry: jwt.NewNumericDate(now.Add(time.Minute)),
	}).Serialize()
	if err != nil {
		g.t.Error(err)
	}
	return token
}

// The name of a user is also the user's id, code and refresh token.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body map[string]string
	_ = json.NewDecoder(r.Body).Decode(&body)
	say := func(status int, content any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(content)
	}
	tokens := func(user string) {
		say(http.StatusOK, map[string]string{"access_token": g.token(user), "refresh_token": user})
	}
	route := r.Method + " " + r.URL.Path
	if route == string(kindProfile) || route == string(kindRenew) || route == string(kindSignIn) {
		if g.spoil != nil && g.spoil(w, r, g.asked.Add(1)) {
			return
		}
	}
	switch route {
	case "GET /.well-known/jwks.json":
		say(http.StatusOK, g.set())
	case "POST /users":
		say(http.StatusCreated, map[string]string{"id": body["username"], "code": body["username"]})
	case "POST /users/verify-user":
		tokens(body["code"])
	case string(kindRenew):
		tokens(body["refresh_token"])
	case string(kindSignIn):
		tokens(body["username"])
	case string(kindProfile):
		parsed, owner, err := read(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil || parsed.kid != "k1" {
			g.t.Errorf("the token is %v, %v", parsed, err)
		}
		say(http.StatusOK, map[string]string{"id": owner, "username": owner})
	default:
		say(http.StatusNotFound, map[string]string{})
	}
}

// The report must show every planted fault.
func TestALoadSeesWhatIsAmiss(t *testing.T) {
	t.Parallel()
	everyTenth := func(status int) func(http.ResponseWriter, *http.Request, int64) bool {
		return func(w http.ResponseWriter, _ *http.Request, n int64) bool {
			if n%10 == 0 {
				w.WriteHeader(status)
			}
			return n%10 == 0
		}
	}
	for _, tc := range []struct {
		about   string
		spoil   func(http.ResponseWriter, *http.Request, int64) bool
		retries int
		other   bool // the mounted keys are those of another gateway
		want    func(Report) bool
	}{
		{"nothing", nil, 0, false, func(r Report) bool {
			return r.Failed == 0 && r.Wrong == 0 && r.Good == r.Sent && r.Refused() == 0 &&
				r.Checks["mounted"].Verified >= users && r.Checks[Fetching].Verified >= users && r.Surprises == 0 && len(r.Tokens) == 1
		}},
		{"a 401 for a good token", everyTenth(http.StatusUnauthorized), tryAgain, false,
			func(r Report) bool { return r.Wrong > 0 && r.Failed == 0 }},
		{"a 404", everyTenth(http.StatusNotFound), tryAgain, false, func(r Report) bool { return r.Wrong > 0 }},
		{"an empty 200", everyTenth(http.StatusOK), tryAgain, false, func(r Report) bool { return r.Wrong > 0 }},
		{"a 503 for who does not try again", everyTenth(http.StatusServiceUnavailable), 0, false, func(r Report) bool {
			return r.Failed > 0 && r.Wrong == 0 && r.Answers["503"] == r.Failed
		}},
		{"a 503 for who tries again", everyTenth(http.StatusServiceUnavailable), tryAgain, false, func(r Report) bool {
			return r.Failed == 0 && r.Good == r.Sent && r.Retried > 0
		}},
		{"a 500 for who tries again", everyTenth(http.StatusInternalServerError), tryAgain, false,
			func(r Report) bool { return r.Failed > 0 && r.Wrong == 0 }},
		{"no answer", func(http.ResponseWriter, *http.Request, int64) bool { panic(http.ErrAbortHandler) }, 0, false, func(r Report) bool {
			return r.Failed == r.Sent && r.Good == 0 && r.Answers["none"] == r.Sent && r.LongestGap > time.Second
		}},
		{"keys that were not mounted in time", nil, 0, true, func(r Report) bool {
			mounted := r.Checks["mounted"]
			return r.Wrong == 0 && mounted.Verified == 0 && mounted.Refused > 0 && r.Checks[Fetching].Refused == 0
		}},
	} {
		t.Run(tc.about, func(t *testing.T) {
			t.Parallel()
			key := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
			g := &gateway{t: t, key: key, spoil: tc.spoil}
			server := httptest.NewServer(g)
			defer server.Close()
			g.url = server.URL
			set := g.set()
			if tc.other {
				set.Keys[0].KeyID = "k0"
			}
			mounted := testenv.Must(json.Marshal(set))(t)
			dir := t.TempDir()
			testenv.NoError(t, os.WriteFile(filepath.Join(dir, "jwks.json"), mounted, 0o600))
			keys := NewDirectory(dir, time.Second)
			l := testenv.Must(Start(t.Context(), Order{Gateway: g.url, Rate: 100, Retries: tc.retries, Keep: time.Minute},
				Consumer{"mounted", func(token string) error {
					_, err := Verify(token, g.url, keys)
					return err
				}}))(t)
			testenv.Until(t, 20*time.Second, "enough is sent", func() bool { return l.Report().Sent >= 150 })
			r := l.Stop()
			if r.Sent < 150 || !tc.want(r) {
				t.Errorf("the report is %s\n%s", r, r.Details())
			}
			if text := fmt.Sprint(r, r.Details()); strings.Contains(text, "eyJ") {
				t.Errorf("a token is visible in %s", text)
			}
		})
	}
}

const tryAgain = 5

package judges

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/nodejs"
)

// judgment is a library that verifies access tokens, with the algorithms that it knows.
type judgment struct {
	name       string
	algorithms string
	command    []string // of a program in this folder, or
	start      func(ctx context.Context, issuer, audience string) (judgeFunc, error)
}

// judgeFunc returns the subject of a valid token.
type judgeFunc func(token string) (subject string, err error)

var judgments = []judgment{
	{name: "verify", algorithms: "ES256 RS256 EdDSA", start: verifyModule},
	{name: "go-oidc", algorithms: "ES256 RS256 EdDSA", start: goOIDC},
	{name: "go-jose", algorithms: "ES256 RS256 EdDSA", start: goJOSE},
	{name: "jwx", algorithms: "ES256 RS256 EdDSA", start: jwxLibrary},
	{name: "keyfunc", algorithms: "ES256 RS256 EdDSA", start: keyfuncLibrary},
	{name: "jose", algorithms: "ES256 RS256 EdDSA", command: []string{"node", "node/jose.mjs"}},
	{name: "oauth4webapi", algorithms: "ES256 RS256 EdDSA", command: []string{"node", "node/oauth4webapi.mjs"}},
	{name: "express-jwt", algorithms: "ES256 RS256", command: []string{"node", "node/express.mjs"}},
	{name: "PyJWT", algorithms: "ES256 RS256 EdDSA", command: []string{"/usr/bin/python3", "python/pyjwt.py"}},
	{name: "Authlib", algorithms: "ES256 RS256 EdDSA", command: []string{"/usr/bin/python3", "python/authlib_jwt.py"}},
	{name: "ruby-jwt", algorithms: "ES256 RS256", command: []string{"ruby", "ruby/judge.rb"}},
	{name: "Crypt::JWT", algorithms: "ES256 RS256 EdDSA", command: []string{"perl", "perl/judge.pl"}},
}

// judge is a running judgment.
type judge struct {
	name   string
	verify judgeFunc
}

// startJudges starts all judges that know an algorithm.
func startJudges(t *testing.T, g *gateway, algorithm string) (judges []judge) {
	t.Helper()
	for _, j := range judgments {
		if !slices.Contains(strings.Fields(j.algorithms), algorithm) {
			continue
		}
		var verify judgeFunc
		if j.start != nil {
			var err error
			if verify, err = j.start(t.Context(), g.issuer, g.issuer); err != nil {
				t.Errorf("%s: %v", j.name, err)
				continue
			}
		} else if verify = startProgram(t, g, j); verify == nil {
			continue
		}
		judges = append(judges, judge{j.name, verify})
	}
	return judges
}

// startProgram starts a judge that is a program. It returns nil if its language is not installed.
func startProgram(t *testing.T, g *gateway, j judgment) judgeFunc {
	t.Helper()
	path := os.Getenv("PATH")
	if j.command[0] == "node" {
		path = nodejs.Path(t)
		nodejs.Install(t, "node")
	} else if _, err := exec.LookPath(j.command[0]); err != nil {
		t.Logf("%s is not tried: %v", j.name, err)
		return nil
	}
	// A shell looks the program up in the new PATH.
	command := exec.Command("/bin/sh", "-c", `exec "$@"`, "sh")
	command.Args = append(command.Args, j.command...)
	command.Env = append(os.Environ(), "PATH="+path, "ISSUER="+g.issuer, "AUDIENCE="+g.issuer, "PYTHONDONTWRITEBYTECODE=1")
	said := &testenv.Output{}
	command.Stderr = said
	in := testenv.Must(command.StdinPipe())(t)
	out := testenv.Must(command.StdoutPipe())(t)
	testenv.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = in.Close() // the judge ends
		if err := command.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", j.name, err, said)
		}
	})
	lines := bufio.NewReader(out)
	var mu sync.Mutex
	return func(token string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := io.WriteString(in, token+"\n"); err != nil {
			return "", fmt.Errorf("%w\n%s", err, said)
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("%w\n%s", err, said)
		}
		var verdict struct{ Subject, Error string }
		switch err := json.Unmarshal(line, &verdict); {
		case err != nil:
			return "", fmt.Errorf("%w: %s", err, line)
		case verdict.Error != "":
			return "", errors.New(verdict.Error)
		}
		return verdict.Subject, nil
	}
}

// part returns a member of a token's header (0) or claims (1), unverified.
func part(t *testing.T, token string, index int, member string) any {
	t.Helper()
	decoded := testenv.Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[index]))(t)
	var members map[string]any
	testenv.NoError(t, json.Unmarshal(decoded, &members))
	return members[member]
}

func kid(t *testing.T, token string) string {
	t.Helper()
	return part(t, token, 0, "kid").(string)
}

// TestLibrariesVerifyTokens has each library verify tokens before, during and after a rotation, and reject them after
// their key was revoked.
func TestLibrariesVerifyTokens(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, "SIGNING_ALGORITHM="+algorithm)
			judges := startJudges(t, g, algorithm)
			old := g.accessToken()
			subject := part(t, old, 1, "sub").(string)
			accept := func(when string, tokens ...string) {
				t.Helper()
				for _, j := range judges {
					for _, token := range tokens {
						if got, err := j.verify(token); err != nil || got != subject {
							t.Errorf("%s: %s: subject %q, want %q: %v", when, j.name, got, subject, err)
						}
					}
				}
			}
			accept("before the rotation", old)
			rejectMistakes(t, g, judges)

			before := testenv.Must(g.keys())(t)
			g.command("keys", "rotate")
			testenv.Until(t, time.Minute, "the next key is published", func() bool {
				now, err := g.keys()
				return err == nil && len(now) > len(before)
			})
			// The next key signs when it has been published for twice the lead and the difference of clocks.
			var next string
			testenv.Until(t, 5*time.Minute, "the next key signs", func() bool {
				next = g.accessToken()
				accept("during the rotation", old, next)
				time.Sleep(100 * time.Millisecond) // leave the processors to the server
				return kid(t, next) != kid(t, old)
			})
			accept("after the rotation", old, next)

			g.command("keys", "revoke", kid(t, next))
			testenv.Until(t, time.Minute, "another key signs", func() bool {
				return kid(t, g.accessToken()) != kid(t, next)
			})
			third := g.accessToken()
			testenv.Until(t, time.Minute, "the revoked key is withdrawn", func() bool {
				ids, err := g.keys()
				return err == nil && !slices.Contains(ids, kid(t, next))
			})
			for _, j := range judges {
				// The third key signs before verifiers have seen it: that is the price of a revocation.
				testenv.Eventually(t, time.Minute, j.name+" accepts tokens of the third key", func() error {
					_, err := j.verify(third)
					return err
				})
				testenv.Eventually(t, time.Minute, j.name+" rejects tokens of the revoked key", func() error {
					if _, err := j.verify(next); err == nil {
						return errors.New("it accepts one")
					}
					return nil
				})
			}
			accept("after the revocation", old, third)
		})
	}
}

// rejectMistakes checks that the judges really judge.
func rejectMistakes(t *testing.T, g *gateway, judges []judge) {
	t.Helper()
	good := g.accessToken()
	parts := strings.Split(good, ".")
	changed := strings.Split(g.signIn().Access, ".")
	for name, token := range map[string]string{
		"a refresh token":               g.refresh,
		"the claims of another token":   parts[0] + "." + changed[1] + "." + parts[2],
		"no signature":                  parts[0] + "." + parts[1] + ".",
		"a token without an algorithm":  base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + ".",
		"something that is not a token": "token",
	} {
		for _, j := range judges {
			if subject, err := j.verify(token); err == nil {
				t.Errorf("%s accepts %s as one of %s", j.name, name, subject)
			}
		}
	}
}

// TestOpenIDClient renews and revokes tokens with openid-client, which finds the routes in the metadata.
func TestOpenIDClient(t *testing.T) {
	t.Parallel()
	g := startGateway(t)
	dir := "node"
	nodejs.Install(t, dir)
	command := exec.CommandContext(t.Context(), "/bin/sh", "-c", `exec node openid-client.mjs "$1"`, "sh", g.signIn().Refresh)
	command.Dir, command.Env = dir, append(os.Environ(), "PATH="+nodejs.Path(t), "ISSUER="+g.issuer)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

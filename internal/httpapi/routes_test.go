package httpapi_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// These are whole replies.
const (
	tokensText = `{"access_token":"a.b.c","token_type":"Bearer","expires_in":900,"refresh_token":"d.e.f",` +
		`"refresh_expires_in":604800,"scope":"profile email"}`
	userText = `{"id":"` + userID + `","username":"ada","email":"ada@example.com","first_name":"Ada","last_name":"Lovelace",` +
		`"name":"Ada Lovelace","scope":"profile email","is_verified":true,"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05.6Z"}`
	idCodeText = `{"id":"` + userID + `","code":"` + codeText + `","expires_in":900}`
	justCode   = `{"code":"` + codeText + `","expires_in":900}`
)

func TestRoutesCallTheDomainAndReplyAsDocumented(t *testing.T) {
	t.Parallel()
	bearer := testenv.Bearer(goodToken)
	for _, tc := range []struct {
		name         string
		method, path string
		header       map[string][]string
		body         any
		call         string
		status       int
		reply        string
	}{
		{"sign up", "POST", "/users", nil, signUpBody(), "SignUp(ada, ada@example.com, Ada, Lovelace, correct horse, )", 201, idCodeText},
		{"sign up with a scope", "POST", "/users", nil, signUpBody("scope", "read write"),
			"SignUp(ada, ada@example.com, Ada, Lovelace, correct horse, read write)", 201, idCodeText},
		{"verify", "POST", "/users/verify-user", nil, object("code", codeText), "VerifyUser(" + codeText + ")", 200, tokensText},
		{"verify, with a password and a username", "POST", "/users/verify-user", nil, object("code", codeText, "password",
			"secret", "username", "ada"), "VerifyUser(" + codeText + ", secret, ada)", 200, tokensText},
		{"new code", "POST", "/users/verification-code", nil, object("email", "a@b.c"), "NewVerificationCode(a@b.c)", 200, justCode},
		{"profile", "GET", "/users", bearer, nil, "Profile(" + goodToken + ")", 200, userText},
		{"profile by body", "GET", "/users", nil, object("access_token", "in.the.body"), "Profile(in.the.body)", 200, userText},
		{"update all", "PUT", "/users", bearer, object("username", "u", "first_name", "f", "last_name", "l"),
			"UpdateProfile(" + goodToken + ", u, f, l)", 200, userText},
		{"update one", "PUT", "/users", bearer, object("last_name", ""), "UpdateProfile(" + goodToken + ", -, -, )", 200, userText},
		{"delete", "DELETE", "/users", bearer, nil, "DeleteUser(" + goodToken + ")", 204, ""},
		{"delete by body", "DELETE", "/users", nil, object("access_token", goodToken), "DeleteUser(" + goodToken + ")", 204, ""},
		{
			"data", "GET", "/users/data", bearer, nil, "Export(" + userID + ")", 200,
			`{"user":{"id":"` + userID + `","username":"ada","email":"ada@example.com","first_name":"","last_name":"","scope":"","roles":[],` +
				`"metadata":{},"language":"","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05.6Z"},` +
				`"sessions":[],"codes":[],"networks":[],"mails":[],"events":[]}`,
		},
		{
			"sessions", "GET", "/users/sessions", bearer, nil, "Sessions(" + goodToken + ")", 200,
			`{"sessions":[{"id":"` + userID + `","created_at":"2026-01-02T03:04:05Z","renewed_at":"2026-01-02T03:04:05.6Z",` +
				`"expires_at":"2026-01-02T04:04:05Z","user_agent":"curl/8","current":true}]}`,
		},
		{"end a session", "DELETE", "/users/sessions/" + userID, bearer, nil, "EndSession(" + goodToken + ", " + userID + ")", 204, ""},
		{"end a session by body", "DELETE", "/users/sessions/" + userID, nil, object("access_token", goodToken),
			"EndSession(" + goodToken + ", " + userID + ")", 204, ""},
		{"forgot", "POST", "/users/forgot-password", nil, object("email", "a@b.c"), "ForgotPassword(a@b.c)", 200, justCode},
		{"reset", "POST", "/users/change-password", nil, object("code", "c", "password", "p"), "ResetPassword(c, , p)", 204, ""},
		{"reset with id", "POST", "/users/change-password", nil, object("code", "c", "id", userID, "password", "p"),
			"ResetPassword(c, " + userID + ", p)", 204, ""},
		{"reset with a token in the header", "POST", "/users/change-password", bearer, object("code", "c",
			"password", "p", "access_token", "t"), "ResetPassword(c, , p)", 204, ""},
		{"change password", "POST", "/users/change-password", bearer, object("old_password", "o", "password", "p"),
			"ChangePassword(" + goodToken + ", o, p)", 204, ""},
		{"request email change", "POST", "/users/change-email-request", bearer, nil, "RequestEmailChange(" + goodToken + ", )", 200, justCode},
		{"request email change to", "POST", "/users/change-email-request", bearer, object("email", "n@b.c"),
			"RequestEmailChange(" + goodToken + ", n@b.c)", 200, justCode},
		{"change email", "POST", "/users/change-email", bearer, object("code", "c", "email", "n@b.c"),
			"ChangeEmail(" + goodToken + ", c, n@b.c)", 200, userText},
		{"sign in", "POST", "/tokens/signin", nil, object("username", "ada", "password", "p"), "SignIn(ada, p)", 200, tokensText},
		{"renew", "POST", "/tokens", nil, object("refresh_token", "d.e.f"), "Renew(d.e.f)", 200, tokensText},
		{"renew as OAuth does", "POST", "/tokens", nil, url.Values{"grant_type": {"refresh_token"},
			"refresh_token": {"d.e.f"}, "client_id": {"x"}, "scope": {""}}, "Renew(d.e.f)", 200, tokensText},
		{"sign out", "DELETE", "/tokens", nil, object("refresh_token", "d.e.f"), "SignOut(d.e.f)", 204, ""},
		{"sign out by form", "DELETE", "/tokens", nil, url.Values{"refresh_token": {"d.e.f"}}, "SignOut(d.e.f)", 204, ""},
		{
			"introspect", "POST", "/tokens/introspect", nil, url.Values{"token": {"a.b.c"},
				"token_type_hint": {"access_token"}}, "Introspect(a.b.c)", 200,
			`{"active":true,"scope":"profile","client_id":"shop","username":"ada","token_type":"Bearer","token_use":"access_token","exp":1767226500,"iat":1767225600,` +
				`"sub":"` + userID + `","aud":["https://api.example"],"iss":"https://auth.example","jti":"unique","sid":"` + userID + `"}`,
		},
		{
			"introspect a refresh token", "POST", "/tokens/introspect", nil, object("token", "refresh"), "Introspect(refresh)", 200,
			`{"active":true,"scope":"profile","client_id":"shop","token_use":"refresh_token","exp":1767226500,"iat":1767225600,` +
				`"sub":"` + userID + `","aud":["https://auth.example"],"iss":"https://auth.example","jti":"session.3","sid":"` + userID + `"}`,
		},
		{"introspect one that is dead", "POST", "/tokens/introspect", nil, object("token", "dead"), "Introspect(dead)", 200, `{"active":false}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			reply := s.Do(tc.method, tc.path, tc.header, tc.body)
			if reply.Status != tc.status || string(reply.Body) != tc.reply {
				t.Errorf("got %v\nwant %d %s", reply, tc.status, tc.reply)
			}
			s.wantCall(t, tc.call)
		})
	}
}

func TestRoutesAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	documented := testenv.Must(apitest.Operations())(t)
	var served []string
	for _, r := range httpapi.Routes() {
		if !strings.Contains(r, " /docs/") { // the assets of the page
			served = append(served, r)
		}
	}
	slices.Sort(served)
	if !slices.Equal(served, documented) {
		t.Errorf("served     %q\ndocumented %q", served, documented)
	}
}

func TestOpenAPIDocumentIsGeneratedFromYAML(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "openapi.json")
	if out, err := exec.Command("go", "run", "./internal/openapigen", "openapi.yaml", made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := testenv.Must(os.ReadFile(made))(t)
	reply := start(t).Do("GET", "/openapi.json", nil, nil)
	if string(reply.Body) != string(want) {
		t.Error("openapi.json is out of date: run go generate")
	}
	if !json.Valid(reply.Body) {
		t.Error("the document is not JSON")
	}
}

// The code, the reference and the OpenAPI document have the same reasons. Package authserver tests that a server returns
// each of them.
func TestReasonsAreThoseOfTheDocumentAndTheReference(t *testing.T) {
	t.Parallel()
	var document struct {
		Components struct {
			Schemas map[string]struct{ Enum []string }
		}
	}
	testenv.NoError(t, json.Unmarshal(httpapi.OpenAPI(), &document))
	rows, fieldRows := httpapi.DocumentedReasons()
	for _, tc := range []struct {
		schema, goType string
		rows           []string
	}{{"Reason", "Reason", rows}, {"FieldReason", "FieldReason", fieldRows}} {
		if enum := document.Components.Schemas[tc.schema].Enum; !slices.Equal(enum, tc.rows) {
			t.Errorf("openapi.yaml lists %q\nreasons.go documents %q", enum, tc.rows)
		}
		constants := slices.Sorted(slices.Values(constantsOf(t, tc.goType)))
		if documented := slices.Sorted(slices.Values(tc.rows)); !slices.Equal(constants, documented) {
			t.Errorf("the constants of type %s are %q\nreasons.go documents %q", tc.goType, constants, documented)
		}
	}
	page := testenv.Must(os.ReadFile("../../docs/reference/errors.md"))(t)
	if string(page) != httpapi.ErrorsReference() {
		t.Error("docs/reference/errors.md is out of date: run go generate")
	}
}

// Programs cannot use an error without a reason.
func TestReasonIsSetOnEveryErrorOfTheDomain(t *testing.T) {
	t.Parallel()
	seen := 0
	inspect(t, "..", func(file *token.FileSet, n ast.Node) {
		literal, ok := n.(*ast.CompositeLit)
		if !ok || !isNamed(literal.Type, "Error") {
			return
		}
		seen++
		for _, element := range literal.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok && isNamed(pair.Key, "Reason") {
				return
			}
		}
		t.Errorf("%v: this error has no Reason", file.Position(literal.Pos()))
	})
	if seen < 10 {
		t.Errorf("only %d errors were found", seen)
	}
}

// constantsOf returns the values of all constants of a type.
func constantsOf(t *testing.T, name string) (values []string) {
	inspect(t, "..", func(_ *token.FileSet, n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || !isNamed(spec.Type, name) {
			return
		}
		for _, value := range spec.Values {
			literal, ok := value.(*ast.BasicLit)
			if !ok {
				continue
			}
			text := testenv.Must(strconv.Unquote(literal.Value))(t)
			values = append(values, text)
		}
	})
	return values
}

// isNamed reports whether an expression is a name, qualified or not.
func isNamed(e ast.Expr, name string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == name
	case *ast.SelectorExpr:
		pkg, ok := e.X.(*ast.Ident)
		return ok && pkg.Name == "identity" && e.Sel.Name == name
	}
	return false
}

// inspect visits the code below a directory that is in package identity or imports it.
func inspect(t *testing.T, dir string, visit func(*token.FileSet, ast.Node)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil || !strings.Contains(path, "identity") && !strings.Contains(string(source), "internal/identity\"") {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if n != nil {
				visit(files, n)
			}
			return true
		})
		return nil
	})
	testenv.NoError(t, err)
}

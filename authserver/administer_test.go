package authserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// terminal runs commands of an administrator against a real server.
type terminal struct {
	t    *testing.T
	node *node
	env  env
	keys map[string]string // files of keys, by name
}

func newTerminal(t *testing.T, changes ...env) *terminal {
	t.Helper()
	file, keys := administrators(t, map[string][]string{
		"viewer": {"viewer"}, "editor": {"editor"}, "expired": {"editor"}, "getter": {"users:get"},
	})
	_, n := single(t, append([]env{{"ADMIN_PORT": "3", "ADMIN_KEYS": file}}, changes...)...)
	files := map[string]string{}
	for name, key := range keys {
		files[name] = filepath.Join(t.TempDir(), name)
		testenv.NoError(t, os.WriteFile(files[name], []byte(key+"\n"), 0o600))
	}
	return &terminal{t: t, node: n, keys: files, env: env{
		"AUTHSERVER_ADMIN_SERVER": n.Admin, "AUTHSERVER_ADMIN_KEY_FILE": files["editor"],
	}}
}

// answer runs a command with a standard input.
func (c *terminal) answer(input string, args ...string) outcome {
	c.t.Helper()
	var out, err bytes.Buffer
	code := authserver.Command{
		Args: args, LookupEnv: c.env.Lookup, ReadFile: os.ReadFile, In: strings.NewReader(input), Out: &out, Err: &err, Version: "test",
	}.Run(c.t.Context())
	return outcome{code, out.String(), err.String()}
}

func (c *terminal) run(args ...string) outcome {
	c.t.Helper()
	return c.answer("", args...)
}

// must runs a command that succeeds and writes no error.
func (c *terminal) must(args ...string) string {
	c.t.Helper()
	got := c.run(args...)
	if got.code != 0 || got.err != "" {
		c.t.Errorf("%v: %+v", args, got)
	}
	return got.out
}

// refused checks that a command fails, with all of the texts in its error.
func (c *terminal) refused(got outcome, code int, texts ...string) {
	c.t.Helper()
	if got.code != code || got.out != "" {
		c.t.Errorf("exit code %d instead of %d: %+v", got.code, code, got)
	}
	for _, text := range texts {
		if !strings.Contains(got.err, text) {
			c.t.Errorf("the error lacks %q: %s", text, got.err)
		}
	}
}

var columns = regexp.MustCompile(` {2,}`)

// rows returns the cells of a table.
func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		all = append(all, columns.Split(strings.TrimSpace(line), -1))
	}
	return all
}

func TestCommandLineFindsSuspendsAndDeletes(t *testing.T) {
	t.Parallel()
	c := newTerminal(t)
	u := c.node.newUser()
	email := strings.ToLower(u.email)

	for _, args := range [][]string{
		{u.id}, {strings.ToUpper(u.id)}, {u.username}, {u.username[:len(u.username)-1]}, {email}, {strings.ToUpper(email)},
		{"--email", email}, {"--username", u.username}, {"--email-prefix", email[:10]}, {"--username-prefix", u.username}, {},
	} {
		table := rows(c.must(append([]string{"users", "find"}, args...)...))
		if len(table) != 2 || table[0][0] != "ID" || table[1][0] != u.id || table[1][1] != u.username || table[1][4] != "active" {
			t.Errorf("%v: %q", args, table)
		}
	}
	for _, user := range []string{u.id, u.username, email} {
		if text := c.must("users", "show", user); !strings.Contains(text, "ID:        "+u.id) || !strings.Contains(text, "(verified)") {
			t.Errorf("show %s: %s", user, text)
		}
	}
	second := c.node.signIn(u)
	sessions := rows(c.must("sessions", "list", u.username))
	if len(sessions) != 3 {
		t.Errorf("the sessions are %q", sessions)
	}
	c.must("sessions", "end", u.username, strings.ToUpper(sidOf(t, second.access)), "--reason", "a lost phone")
	want(t, 401, c.node.profile(second.access))
	if text := c.must("users", "sign-out", u.username); !strings.Contains(text, "1 sessions have ended") {
		t.Errorf("sign-out: %s", text)
	}
	want(t, 401, c.node.profile(u.access))
	if text := c.must("users", "suspend", email, "--reason", "spam"); text != u.username+" ("+u.id+") is suspended\n" {
		t.Errorf("suspend: %s", text)
	}
	want(t, 401, c.node.trySignIn(u.username, u.password))
	if table := rows(c.must("users", "find", "--suspended")); len(table) != 2 || table[1][4] != "suspended" {
		t.Errorf("the suspended ones are %q", table)
	}
	c.must("users", "unsuspend", u.id)
	c.node.signIn(u)

	events := c.must("events", u.username, "--event", string(admin.EventSuspended))
	if !strings.Contains(events, "key:editor") || !strings.Contains(events, "reason=spam") || len(rows(events)) != 2 {
		t.Errorf("the events are %s", events)
	}
	for _, answer := range []string{"", "no\n", "n\n", "delete\n"} {
		got := c.answer(answer, "users", "delete", u.username)
		c.refused(got, 1, "ID:", u.id, "Delete this account?", "nothing was changed")
	}
	c.must("users", "show", u.id)
	if got := c.answer("yes\n", "users", "delete", u.username); got.code != 0 || !strings.Contains(got.out, "is deleted") {
		t.Errorf("delete: %+v", got)
	}
	c.refused(c.run("users", "show", u.id), 1, "no account has the ID "+u.id)
	c.refused(c.run("users", "show", u.username), 1, "no account has the username", "users find")
	if text := c.must("events", u.id, "--event", string(admin.EventDeleted)); len(rows(text)) != 2 {
		t.Errorf("the events of a deleted account are %s", text)
	}
}

// An account that is changed while the question is asked is not deleted.
func TestCommandLineDeletesOnlyWhatItHasShown(t *testing.T) {
	t.Parallel()
	c := newTerminal(t)
	u := c.node.newUser()
	var out, stderr bytes.Buffer
	code := authserver.Command{
		Args: []string{"users", "delete", u.id}, LookupEnv: c.env.Lookup, ReadFile: os.ReadFile, Out: &out, Err: &stderr, Version: "test",
		In: readerFunc(func(p []byte) (int, error) {
			want(t, 200, c.node.changeProfile(u.access, body{"username": u.username, "first_name": "Other", "last_name": "Name"}))
			return copy(p, "yes\n"), nil
		}),
	}.Run(t.Context())
	c.refused(outcome{code, out.String(), stderr.String()}, 1, "has changed")
	c.must("users", "show", u.id)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCommandLineMakesAndInvites(t *testing.T) {
	t.Parallel()
	c := newTerminal(t)
	password := filepath.Join(t.TempDir(), "password")
	testenv.NoError(t, os.WriteFile(password, []byte("note G of 1843\nnot this line\n"), 0o600))
	create := []string{"users", "create", "--email", "ada@example.com", "--username", "ada", "--first-name", "Ada", "--last-name", "Lovelace",
		"--role", "support", "--role", "billing", "--metadata", `{"plan": "gold"}`, "--scope", "profile", "--idempotency-key", "first"}
	text := c.must(append(create, "--password-file", password)...)
	for _, line := range []string{"ada@example.com (verified)", "Ada Lovelace", "support billing", `{"plan":"gold"}`} {
		if !strings.Contains(text, line) {
			t.Errorf("create lacks %q: %s", line, text)
		}
	}
	want(t, 200, c.node.trySignIn("ada", "note G of 1843"))
	again := c.answer("\ufeffnote G of 1843\r\n", append(create, "--password-file", "-")...)
	if again.code != 0 || again.out != text {
		t.Errorf("again with the same key: %+v", again)
	}
	text = c.must("users", "invite", "--email", "grace@example.com", "--username", "grace", "--first-name", "Grace", "--last-name", "Hopper")
	code := regexp.MustCompile(`sets a password, within [^:]+: (\S+)\n`).FindStringSubmatch(text)
	if code == nil || !strings.Contains(text, "invited") {
		t.Fatalf("invite: %s", text)
	}
	want(t, 204, c.node.resetPassword(code[1], "a password of her own"))
	want(t, 200, c.node.trySignIn("grace", "a password of her own"))

	latin := password + ".latin1"
	testenv.NoError(t, os.WriteFile(latin, []byte("p\xe4ssword of hers\n"), 0o600))
	for _, tc := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"users", "create", "--email", "x@example.com", "--password-file", latin}, 1, "not UTF-8"},
		{[]string{"users", "create", "--username", "x", "--password-file", password}, 2, `"email" not set`},
		{[]string{"users", "create", "--email", "x@example.com"}, 2, `"password-file" not set`},
		{[]string{"users", "create", "--email", "x@example.com", "--password-file", password + ".missing"}, 1, "no such file"},
		{[]string{"users", "create", "--email", "x@example.com", "--password-file", os.DevNull}, 1, "the first line is empty"},
		{[]string{"users", "invite", "--email", "x@example.com", "--metadata", "[]"}, 2, "--metadata is not a JSON object"},
		{[]string{"users", "invite", "--email", "ada@example.com", "--username", "x", "--first-name", "A", "--last-name", "B"}, 1, "email"},
		{[]string{"users", "invite", "--email", "x"}, 1, "email: "},
	} {
		got := c.run(tc.args...)
		if got.code != tc.code || !strings.Contains(got.err, tc.text) || got.out != "" {
			t.Errorf("%v: %+v", tc.args, got)
		}
	}
}

// A list says when it has more, and the flags that it names continue it without a gap or a repetition.
func TestCommandLinePages(t *testing.T) {
	t.Parallel()
	c := newTerminal(t)
	all := map[string]bool{}
	for i := range 7 {
		c.must("users", "invite", "--email", fmt.Sprintf("p%d@example.com", i), "--username", fmt.Sprintf("paged.%d", i),
			"--first-name", "P", "--last-name", "Q")
	}
	found := regexp.MustCompile(`The next ones: (.*)\. All of them: --all\.`)
	for _, first := range [][]string{{"users", "find"}, {"users", "find", "paged"}, {"users", "find", "p0@"}, {"events"}} {
		clear(all)
		args := append(append([]string{}, first...), "--limit", "3")
		pages := 0
		for {
			got := c.run(args...)
			if got.code != 0 {
				t.Fatalf("%v: %+v", args, got)
			}
			pages++
			for _, row := range rows(got.out)[1:] {
				id := strings.Join(row, " ")
				if all[id] && first[0] == "users" {
					t.Errorf("%v repeats %s", args, id)
				}
				all[id] = true
			}
			next := found.FindStringSubmatch(got.err)
			if next == nil {
				break
			}
			args = append(append([]string{}, first[:min(len(first), 2)]...), strings.Fields(next[1])...)
			args = append(args, "--limit", "3")
			if first[0] == "events" {
				args = append([]string{"events"}, append(strings.Fields(next[1]), "--limit", "3")...)
			}
		}
		whole := c.run(append(append([]string{}, first...), "--all")...)
		if whole.code != 0 || whole.err != "" {
			t.Errorf("%v --all: %+v", first, whole)
		}
		if want := len(rows(whole.out)) - 1; first[0] == "users" && len(all) != want {
			t.Errorf("%v: %d entries on %d pages, and %d with --all", first, len(all), pages, want)
		}
		if first[0] == "users" && len(first) == 2 && pages != 3 {
			t.Errorf("%v: %d pages of 3", first, pages)
		}
	}
	var list struct {
		Items []struct{ Username string }
		Next  string
	}
	got := c.run("users", "find", "paged", "--limit", "5", "-o", "json")
	testenv.NoError(t, json.Unmarshal([]byte(got.out), &list))
	if len(list.Items) != 5 || list.Next == "" || !strings.Contains(got.err, "--cursor "+list.Next) {
		t.Errorf("json: %+v", got)
	}
	if yaml := c.run("users", "find", "paged", "--limit", "5", "-o", "yaml"); !strings.Contains(yaml.out, "username: paged.0") {
		t.Errorf("yaml: %+v", yaml)
	}
}

func TestCommandLineErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	c := newTerminal(t)
	u := c.node.newUser()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved/admin/users" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		fmt.Fprint(w, "<html>another program</html>")
	}))
	defer page.Close()
	closed := testenv.FreeAddress(t)
	for _, tc := range []struct {
		args  []string
		code  int
		texts []string
	}{
		{[]string{"users"}, 2, []string{"create, delete, export, find, import, invite", "see authserver users --help"}},
		{[]string{"users", "dance"}, 2, []string{`unknown command "dance"`}},
		{[]string{"sessions"}, 2, []string{"end, list"}},
		{[]string{"users", "show"}, 2, []string{"USER is missing", "see authserver users show --help"}},
		{[]string{"users", "show", "a", "b"}, 2, []string{"write only USER"}},
		{[]string{"users", "find", "a", "b"}, 2, []string{"write one"}},
		{[]string{"users", "find", "--limit", "0"}, 2, []string{"--limit must be at least 1"}},
		{[]string{"users", "find", "--limit", "3", "--all"}, 2, []string{"exclude each other"}},
		{[]string{"users", "find", "ada", "--suspended"}, 2, []string{"exclude each other"}},
		{[]string{"users", "find", "-o", "xml"}, 2, []string{"write table, json or yaml"}},
		{[]string{"users", "find", "--color"}, 2, []string{"unknown flag: --color"}},
		{[]string{"users", "find", "--email", "a@b.c", "--username", "x"}, 1, []string{"cannot be combined"}},
		{[]string{"users", "find", "--created-after", "yesterday"}, 1, []string{"must be a time such as"}},
		{[]string{"users", "find", "--cursor", "x"}, 1, []string{"begin again without it"}},
		{[]string{"users", "show", "unknown@example.com"}, 1, []string{`no account has the address "unknown@example.com"`}},
		{[]string{"users", "suspend", u.id, "--reason", strings.Repeat("x", 201)}, 1, []string{"reason"}},
		{[]string{"sessions", "end", u.id, "x"}, 2, []string{"SESSION is not an ID"}},
		{[]string{"users", "find", "--key-file", c.keys["getter"]}, 1, []string{"users:list"}},
		{[]string{"users", "find", "--key-file", c.keys["expired"]}, 1, []string{"unknown or has expired"}},
		{[]string{"users", "suspend", u.id, "--key-file", c.keys["viewer"]}, 1, []string{"lacks the right users:update"}},
		{[]string{"users", "find", "--key-file", c.keys["viewer"] + ".missing"}, 1, []string{"no such file"}},
		{[]string{"users", "find", "--key-file", os.DevNull}, 1, []string{"give a key of an administrator"}},
		{[]string{"users", "find", "--server", "localhost:8081"}, 1, []string{"write one such as http://localhost:8081"}},
		{[]string{"users", "find", "--server", "http://" + closed}, 1, []string{"does not answer", "connection refused"}},
		{[]string{"users", "find", "--server", c.node.API}, 1, []string{"is its URL that of ADMIN_PORT"}},
		{[]string{"users", "find", "--server", page.URL}, 1, []string{"is its URL that of ADMIN_PORT"}},
		{[]string{"users", "find", "--server", page.URL + "/moved"}, 1, []string{"302", "is its URL that of ADMIN_PORT"}},
	} {
		c.refused(c.run(tc.args...), tc.code, tc.texts...)
	}
	delete(c.env, "AUTHSERVER_ADMIN_KEY_FILE")
	c.refused(c.run("users", "find"), 2, "--key-file FILE", "AUTHSERVER_ADMIN_KEY_FILE", "authserver admin-key")
}

func TestCommandLineHelpListsEveryCommand(t *testing.T) {
	t.Parallel()
	help := call(t, env{}, "users", "--help")
	for _, name := range []string{"find", "show", "create", "invite", "suspend", "unsuspend", "sign-out", "delete", "import", "export"} {
		if help.code != 0 || !regexp.MustCompile(`(?m)^  `+name+` +[A-Z]`).MatchString(help.out) {
			t.Errorf("the help lacks %s: %+v", name, help)
		}
	}
	for _, args := range [][]string{{"users", "find", "-h"}, {"sessions", "--help"}, {"events", "--help"}, {"users", "import", "--help"}} {
		if got := call(t, env{}, args...); got.code != 0 || got.err != "" || !strings.Contains(got.out, "Usage:") {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

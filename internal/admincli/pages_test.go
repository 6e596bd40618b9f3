package admincli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"pgregory.net/rapid"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

// lister is a server with accounts. It has pages that are shorter than asked for, and may fail at one of them.
type lister struct {
	ids     []string
	largest int // entries of a page
	fails   int // the page that fails; 0: none
	pages   int
	refused []string // requests that are not as documented
}

func (l *lister) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit, err := strconv.Atoi(query.Get("limit"))
	from, _ := strconv.Atoi(query.Get("cursor"))
	if err != nil || limit < 1 || limit > adminapi.MaxLimit ||
		query.Get("state") != "suspended" || r.URL.Path != "/admin/users" {
		l.refused = append(l.refused, r.URL.String())
	}
	w.Header().Set("Content-Type", "application/json")
	if l.pages++; l.pages == l.fails {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"error_description": "the database cannot be reached", "reason": "database_unavailable"}`)
		return
	}
	to := min(from+min(limit, l.largest), len(l.ids))
	page := map[string]any{}
	items := []map[string]any{}
	for _, id := range l.ids[from:to] {
		items = append(items, map[string]any{"id": id, "username": "u" + id})
	}
	if page["items"] = items; to < len(l.ids) {
		page["next"] = strconv.Itoa(to)
	}
	_ = json.NewEncoder(w).Encode(page)
}

// runAt runs a command against a server.
func runAt(base string, args ...string) (code int, out, stderr string) {
	var written, noted bytes.Buffer
	users, _, _ := Commands(Options{Program: "test", Connect: func(context.Context) (*adminapi.Client, func(), error) {
		client, err := adminapi.NewClient(base, "key")
		return client, func() {}, err
	}})
	root := &cobra.Command{Use: "test"}
	root.AddCommand(users)
	root.SetOut(&written)
	root.SetErr(&noted)
	code = Run(context.Background(), root, args)
	return code, written.String(), noted.String()
}

// listed returns the IDs that a list has, and the cursor that it names, in a form of output.
func listed(t *rapid.T, form, out, stderr string) (ids []string, next string) {
	if form == "json" {
		var page struct {
			Items []struct{ ID string }
			Next  string
		}
		if err := json.Unmarshal([]byte(out), &page); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, item := range page.Items {
			ids = append(ids, item.ID)
		}
		next = page.Next
	} else if lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n"); out != "" {
		for _, line := range lines[1:] {
			ids = append(ids, strings.Fields(line)[0])
		}
	}
	_, flags, more := strings.Cut(stderr, "There are more. The next ones: ")
	if more {
		fields := strings.Fields(strings.TrimSuffix(flags, ". All of them: --all.\n"))
		if !slices.Contains(fields, "--suspended") {
			t.Fatalf("the flags that continue the list lack --suspended: %s", stderr)
		}
		named := fields[slices.Index(fields, "--cursor")+1]
		if form == "json" && named != next {
			t.Fatalf("the cursor is %s as JSON and %s for people", next, named)
		}
		next = named
	} else if next != "" {
		t.Fatalf("the list has a cursor that is not announced: %s", next)
	}
	return ids, next
}

// A list has as many entries as a person wants, whatever the pages of the server are: each once, complete, in order. If
// a page fails, the command does.
func TestListsHaveWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &lister{largest: rapid.IntRange(1, 300).Draw(t, "entries of a page")}
		for n := range rapid.IntRange(0, 700).Draw(t, "accounts") {
			l.ids = append(l.ids, fmt.Sprintf("%08d-0000-4000-8000-%012d", n, n))
		}
		server := httptest.NewServer(l)
		defer server.Close()
		form := rapid.SampledFrom([]string{"table", "json"}).Draw(t, "form")
		limit := rapid.IntRange(1, 500).Draw(t, "limit")
		all := rapid.Bool().Draw(t, "all")
		if l.fails = rapid.IntRange(0, 6).Draw(t, "the page that fails"); l.fails > 3 {
			l.fails = 0
		}
		args := []string{"users", "find", "--suspended", "-o", form}
		if all {
			args = append(args, "--all")
			limit = len(l.ids)
		} else {
			args = append(args, "--limit", strconv.Itoa(limit))
		}
		code, out, stderr := runAt(server.URL, args...)
		if len(l.refused) > 0 {
			t.Fatalf("%v sends %q", args, l.refused)
		}
		if l.fails > 0 && l.pages >= l.fails {
			if code != 1 || !strings.Contains(stderr, "the database cannot be reached") || l.pages > l.fails ||
				form == "json" && out != "" {
				t.Fatalf("page %d of %d fails, and the exit code is %d: %s", l.fails, l.pages, code, stderr)
			}
			return
		}
		want := l.ids[:min(limit, len(l.ids))]
		ids, next := listed(t, form, out, stderr)
		if code != 0 || !slices.Equal(ids, want) || (next == "") != (len(want) == len(l.ids)) {
			t.Fatalf("%v: exit code %d, %d entries of %d, the next cursor is %q", args, code, len(ids), len(want), next)
		}
		if next == "" {
			return
		}
		l.fails = 0
		code, out, stderr = runAt(server.URL, "users", "find", "--suspended", "-o", form, "--cursor", next, "--all")
		if rest, _ := listed(t, form, out, stderr); code != 0 || !slices.Equal(rest, l.ids[len(want):]) {
			t.Fatalf("the list continues with %d entries instead of %d", len(rest), len(l.ids)-len(want))
		}
	})
}

// A command fails if the server refuses, answers with something else, or stops in the middle of its reply.
func TestCommandsFailIfTheServerDoes(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error_description": "key:ada lacks the right", "reason": "right_missing"}`)
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"moved":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusTemporaryRedirect) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"items": []}`)
		},
		"an empty reply": func(http.ResponseWriter, *http.Request) {},
		"unknown status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
	} {
		server := httptest.NewServer(answer)
		for _, args := range [][]string{
			{"users", "find"}, {"users", "find", "-o", "json"}, {"users", "show", "ada"}, {"users", "suspend", "ada"},
			{"users", "delete", "ada", "--yes"}, {"users", "sign-out", "ada"}, {"users", "invite", "--email", "ada@example.com"},
		} {
			if code, out, stderr := runAt(server.URL, args...); code != 1 || out != "" || stderr == "" {
				t.Errorf("%s: %v ends with %d, %q and %q", name, args, code, out, stderr)
			}
		}
		server.Close()
	}
}

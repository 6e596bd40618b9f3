package admin_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

var now = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

func TestKeysGiveExactlyTheirRights(t *testing.T) {
	t.Parallel()
	clock := testenv.NewClock(now)
	owners := map[string][]string{"eve": {"viewer"}, "ada": {"editor"}, "bot": {"users:get", "events:list"}}
	var entries, keys []string
	for name, rights := range owners {
		key, entry, err := admin.NewKey(name, rights, now.Add(time.Hour))
		testenv.NoError(t, err)
		if !strings.HasPrefix(key, admin.KeyPrefix) || strings.Contains(string(entry), key) {
			t.Errorf("the key of %s is not a key, or is in its entry", name)
		}
		keys, entries = append(keys, name+" "+key), append(entries, string(entry))
	}
	file := testenv.Must(admin.ParseKeys([]byte("["+strings.Join(entries, ",")+"]"), clock.Now))(t)
	for _, pair := range keys {
		name, key, _ := strings.Cut(pair, " ")
		allowed, unknown := admin.ParseRights(owners[name])
		if unknown != "" {
			t.Fatal(unknown)
		}
		for _, right := range admin.Rights {
			actor, err := file.Authorize(t.Context(), key, right)
			if slices.Contains(allowed, right) != (err == nil) || err != nil && !errors.Is(err, admin.ErrForbidden) {
				t.Errorf("%s, %s: %v", name, right, err)
			}
			if err == nil && actor.Name != "key:"+name {
				t.Errorf("the actor is %q", actor.Name)
			}
			for _, wrong := range []string{"", key + "x", key[:len(key)-1], strings.ToLower(key), admin.KeyPrefix} {
				if _, err := file.Authorize(t.Context(), wrong, right); !errors.Is(err, admin.ErrUnauthenticated) {
					t.Errorf("%q: %v", wrong, err)
				}
			}
		}
		clock.Set(now.Add(time.Hour))
		if _, err := file.Authorize(t.Context(), key, allowed[0]); !errors.Is(err, admin.ErrUnauthenticated) {
			t.Errorf("an expired key: %v", err)
		}
		clock.Set(now)
	}
}

func TestKeyFilesThatAreWrongAreNamed(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab", 32)
	entry := func(name, digest, rights, expires string) string {
		return fmt.Sprintf(`{"name":%q,"sha256":%q,"rights":%s,"expires":%q}`, name, digest, rights, expires)
	}
	const never = "2031-01-01T00:00:00Z"
	for _, tc := range []struct{ content, want string }{
		{``, "is not a JSON array of keys"},
		{`[]`, "has no keys"},
		{`{}`, "is not a JSON array of keys"},
		{`[{"nam":"ada"}]`, "is not a JSON array of keys"},
		{`[` + entry("", digest, `["viewer"]`, never) + `]`, "key 1: the name must"},
		{`[` + entry("a b", digest, `["viewer"]`, never) + `]`, "key 1: the name must"},
		{`[` + entry("ada", "abcd", `["viewer"]`, never) + `]`, "key 1: sha256 must"},
		{`[` + entry("ada", digest, `[]`, never) + `]`, "write viewer, editor"},
		{`[` + entry("ada", digest, `["viewer","root"]`, never) + `]`, `rights has "root"`},
		{`[{"name":"ada","sha256":"` + digest + `","rights":["viewer"]}]`, "expires is missing"},
		{`[` + entry("ada", digest, `["viewer"]`, never) + `,` + entry("ada", digest, `["viewer"]`, never) + `]`, `key 2: the name "ada" occurs twice`},
	} {
		_, err := admin.ParseKeys([]byte(tc.content), time.Now)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), digest) {
			t.Errorf("%s: %v; want %q", tc.content, err, tc.want)
		}
	}
}

// listing is a Store that has accounts.
type listing struct {
	admin.Store
	users []admin.User
}

func (l *listing) ListUsersByCreation(_ context.Context, b admin.Before, _ bool, limit int) (page []admin.User, _ error) {
	for _, u := range l.users {
		if len(page) < limit && (u.CreatedAt.Before(b.At) || u.CreatedAt.Equal(b.At) && u.ID < b.ID) {
			page = append(page, u)
		}
	}
	return page, nil
}

func TestCursorsOfOtherListsAreRefused(t *testing.T) {
	t.Parallel()
	store := &listing{}
	for i := range 10 {
		store.users = append(store.users, admin.User{User: identity.User{
			ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", 9-i), CreatedAt: now.Add(-time.Duration(i/3) * time.Second),
		}})
	}
	s := admin.New(admin.Config{Store: store, Now: time.Now})
	page := testenv.Must(s.Users(t.Context(), admin.Filter{}, "", 3))(t)
	if len(page.Items) != 3 || page.Next == "" {
		t.Fatalf("the page is %+v", page)
	}
	seen := len(page.Items)
	for c := page.Next; c != ""; {
		next := testenv.Must(s.Users(t.Context(), admin.Filter{}, c, 3))(t)
		seen, c = seen+len(next.Items), next.Next
	}
	if seen != 10 {
		t.Errorf("the pages have %d accounts", seen)
	}
	for _, tc := range []struct {
		f admin.Filter
		c admin.Cursor
	}{
		{admin.Filter{Suspended: true}, page.Next},
		{admin.Filter{CreatedAfter: now}, page.Next},
		{admin.Filter{EmailPrefix: "a"}, page.Next},
		{admin.Filter{}, page.Next + "A"},
		{admin.Filter{}, page.Next[:len(page.Next)-1]},
		{admin.Filter{}, "%%%"},
		{admin.Filter{}, admin.Cursor(base64.RawURLEncoding.EncodeToString([]byte("{}")))},
	} {
		if _, err := s.Users(t.Context(), tc.f, tc.c, 3); identity.KindOf(err) != identity.Invalid {
			t.Errorf("%+v, %s: %v", tc.f, tc.c, err)
		}
	}
	if _, err := s.Events(t.Context(), admin.EventFilter{}, page.Next, 3); identity.KindOf(err) != identity.Invalid {
		t.Errorf("a cursor of accounts for events: %v", err)
	}
}

func TestFiltersThatNoIndexAnswersAreRefused(t *testing.T) {
	t.Parallel()
	s := admin.New(admin.Config{Store: &listing{}, Now: time.Now})
	for _, f := range []admin.Filter{
		{ID: "x", Email: "y"}, {EmailPrefix: "a", UsernamePrefix: "b"}, {EmailPrefix: "a", Suspended: true},
		{UsernamePrefix: "a", CreatedAfter: now}, {Email: "a@b.c", Suspended: true},
	} {
		if _, err := s.Users(t.Context(), f, "", 0); identity.KindOf(err) != identity.Invalid || !strings.Contains(err.Error(), "combined") {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, limit := range []int{-1, 201, 1 << 40} {
		if _, err := s.Users(t.Context(), admin.Filter{}, "", limit); identity.KindOf(err) != identity.Invalid {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// exporting is a Store with the data of one person.
type exporting struct {
	admin.Store
	export admin.Export
}

func (e exporting) Export(context.Context, string, int) (admin.Export, error) { return e.export, nil }

// A code or a mail for another address shows that no other account has that address.
func TestOwnExportHasNothingAboutOtherAddresses(t *testing.T) {
	t.Parallel()
	const own, other = "ada@example.com", "other@example.com"
	all := admin.Export{
		User:   admin.ExportedUser{Email: own},
		Codes:  []admin.ExportedCode{{Purpose: "recovery"}, {Email: other}, {Email: own}},
		Mails:  []admin.ExportedMail{{Recipient: other}, {Recipient: own}},
		Events: []admin.ExportedEvent{{Event: identity.EventCodeIssued}, {Event: identity.EventSignedIn}},
	}
	s := admin.New(admin.Config{Store: exporting{export: all}, Now: time.Now})
	e := testenv.Must(s.ExportOwn(t.Context(), "1"))(t)
	if len(e.Codes) != 2 || e.Codes[0].Purpose != "recovery" || e.Codes[1].Email != own || len(e.Mails) != 1 ||
		e.Mails[0].Recipient != own || len(e.Events) != 1 || e.Events[0].Event != identity.EventSignedIn {
		t.Errorf("a person exports %+v", e)
	}
}

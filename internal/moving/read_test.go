package moving

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const password = "correct horse battery"

// readAll reads a file of testdata, checks its entries as an import does, and returns the accounts and the refused ones.
func readAll(t *testing.T, from, file string) (accounts map[string]identity.MovedAccount, refused []string, err error) {
	t.Helper()
	r := &Reader{From: from, Files: []string{filepath.Join("testdata", file)}}
	if from == "firebase" {
		f := testenv.Must(os.Open("testdata/firebase.config"))(t)
		defer f.Close()
		r.Firebase = testenv.Must(ParseFirebaseConfig(f))(t)
	}
	testenv.NoError(t, r.Check())
	rules := identity.New(identity.Policy{SignUpScopes: "profile email"}, identity.Dependencies{Now: time.Now})
	i := Import{Check: rules.CheckMovedAccount, Cost: 4}
	accounts = map[string]identity.MovedAccount{}
	seen := newNames()
	for e, err := range r.Entries() {
		if err != nil {
			return accounts, refused, err
		}
		if e.Refused == nil {
			e.Refused = i.checkOne(&e)
		}
		if e.Refused == nil {
			e.Refused = seen.add(&e.Account)
		}
		if e.Refused != nil {
			refused = append(refused, fmt.Sprint(e.Number, " ", e.Refused))
			continue
		}
		accounts[e.Account.Email] = e.Account
	}
	if share := r.Share(); share != 1 {
		t.Errorf("%.2f of the file is read", share)
	}
	return accounts, refused, nil
}

func TestFilesOfOtherSystemsAreRead(t *testing.T) {
	for _, tc := range []struct {
		from, file string
		accounts   []string // address, username, first name, last name, and whether there is a password and a suspension
		refused    []string // how the reasons begin
	}{
		{"supabase", "supabase.csv", []string{
			"Grace@csv.example||Grace|Hopper, Admiral|true|false", "banned@csv.example||Edsger|Wybe Dijkstra|true|true",
		}, []string{"3 email: is not verified", "4 the account is deleted"}},
		{"supabase", "supabase-copy.sql", []string{`grace@copy.example||Grace|"Amazing" Hopper|true|false`}, []string{"2 email: is empty"}},
		{"supabase", "supabase-insert.sql", []string{
			"alan@insert.example||||true|false", "grace@insert.example||Grace|O'Hopper; (VALUES)|true|false",
		}, nil},
		{"keycloak", "keycloak.json", []string{
			"kc-argon2@keycloak.example|kc-argon2|Grace|Hopper|true|false", "kc-sha1@keycloak.example|kc-sha1|Grace|Hopper|true|false",
			"kc-sha256@keycloak.example|kc-sha256|Grace|Hopper|true|false", "kc-sha512@keycloak.example|kc-sha512|Grace|Hopper|true|false",
		}, []string{"5 credentials: secretData is not Base64", "6 it is the account of a service"}},
		{"auth0", "auth0.ndjson", []string{
			"alan@auth0.example|auth0-alan|||true|false", "grace@auth0.example||||true|false",
		}, []string{"3 email: is not verified"}},
		{"firebase", "firebase.json", []string{
			"google@firebase.example||||false|true", "grace@firebase.example||Grace|Brewster Hopper|true|false",
		}, []string{"3 email: is empty"}},
		{"kratos", "kratos.json", []string{
			"argon2@kratos.example||Grace|Hopper|true|false", "bcrypt@kratos.example||Grace|Hopper|true|false",
			"inactive@kratos.example||Grace|Hopper|true|true", "scrypt@kratos.example||Grace|Hopper|true|false",
		}, []string{"5 email: is not verified"}},
	} {
		t.Run(tc.file, func(t *testing.T) {
			accounts, refused, err := readAll(t, tc.from, tc.file)
			testenv.NoError(t, err)
			var got []string
			for _, a := range accounts {
				has := a.PasswordHash != hashes.None
				got = append(got, fmt.Sprintf("%s|%s|%s|%s|%v|%v", a.Email, a.Username, a.FirstName, a.LastName, has, a.SuspendedAt != nil))
				if has && !testenv.Must(hashes.Parse(a.PasswordHash))(t).Matches(password) {
					t.Errorf("the hash of %s does not match its password", a.Email)
				}
				if strings.HasPrefix(a.PasswordHash, "$2a$") {
					t.Errorf("the hash of %s passes for an own one", a.Email)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.accounts) {
				t.Errorf("the accounts are\n%s\nand not\n%s", strings.Join(got, "\n"), strings.Join(tc.accounts, "\n"))
			}
			beginsWith(t, refused, tc.refused)
		})
	}
}

func beginsWith(t *testing.T, got, want []string) {
	t.Helper()
	for i, text := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], text) {
			t.Fatalf("refused are %q; want %q", got, want)
		}
	}
	if len(got) != len(want) {
		t.Errorf("refused are %q; want %q", got, want)
	}
}

func TestNativeLinesAreReadOrRefused(t *testing.T) {
	accounts, refused, err := readAll(t, "native", "native.ndjson")
	testenv.NoError(t, err)
	if len(accounts) != 16 {
		t.Errorf("%d accounts", len(accounts))
	}
	for _, a := range accounts {
		if a.Username != "nopassword" && !testenv.Must(hashes.Parse(a.PasswordHash))(t).Matches(password) {
			t.Errorf("the hash of %s does not match its password", a.Username)
		}
	}
	beginsWith(t, refused, []string{
		"17 password_hash: $2x$ is the bcrypt of a faulty program", "18 password_hash: argon2d is not supported",
		"19 password_hash: its cost is 20; at most 15", "20 password_hash: the hash is of no supported kind", "21 username: may hold only",
		"22 username: is twice in the files", "23 email: is not verified", "24 pasword_hash: no such member",
		"26 username: must not be a JSON number", "27 it is not valid JSON",
	})
	// No reason has a hash or a password in it.
	for _, line := range refused {
		if strings.Contains(line, password) || strings.Contains(line, "$argon2d$") || len(line) > 250 {
			t.Errorf("%s", line)
		}
	}
	full := accounts["bcrypt-2y@native.example"]
	if *full.Scope != "profile email orders:read" || full.CreatedAt.Nanosecond() != 123456000 ||
		full.ID != "00000000-0000-4000-8000-000000000003" {
		t.Errorf("%+v", full)
	}
	if scope := *accounts["argon2id@native.example"].Scope; scope != "profile email" {
		t.Errorf("without a scope it is %q", scope)
	}
}

func TestIDsOfOtherSystemsAreAlwaysTheSame(t *testing.T) {
	first, _, err := readAll(t, "firebase", "firebase.json")
	testenv.NoError(t, err)
	again, _, err := readAll(t, "firebase", "firebase.json")
	testenv.NoError(t, err)
	for name, a := range first {
		if a.ID != again[name].ID || !identity.IsUUID(a.ID) {
			t.Errorf("%s has the ids %s and %s", name, a.ID, again[name].ID)
		}
	}
	kept, _, err := readAll(t, "supabase", "supabase.csv")
	testenv.NoError(t, err)
	if id := kept["Grace@csv.example"].ID; id != "a1d4c5b0-1111-4222-8333-000000000001" {
		t.Errorf("a UUID became %s", id)
	}
}

// entries reads a text as a file of a system.
func entries(t *testing.T, from, text string) (all []Entry) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	testenv.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	r := &Reader{From: from, Files: []string{path}}
	testenv.NoError(t, r.Check())
	for e, err := range r.Entries() {
		testenv.NoError(t, err)
		all = append(all, e)
	}
	return all
}

// A spreadsheet or an editor on Windows writes a byte order mark. As a part of the name of the first column, it would
// give every account another id.
func TestByteOrderMarkIsNoPartOfTheFile(t *testing.T) {
	const id = "a1d4c5b0-1111-4222-8333-000000000001"
	for from, text := range map[string]string{
		"supabase": "id,email,encrypted_password\r\n" + id + ",ada@example.com,\r\n",
		"native":   `{"id": "` + id + `", "email": "ada@example.com"}` + "\r\n",
		"keycloak": `{"users": [{"id": "` + id + `", "email": "ada@example.com"}]}`,
		"auth0":    `{"user_id": "` + id + `", "email": "ada@example.com"}`,
	} {
		read := entries(t, from, byteOrderMark+text)
		if len(read) != 1 || read[0].Refused != nil || read[0].Account.ID != id || read[0].Account.Email != "ada@example.com" {
			t.Errorf("%s: %+v", from, read)
		}
	}
}

func TestLineThatIsTooLongIsRefusedAlone(t *testing.T) {
	long := `{"email": "long@example.com", "metadata": {"x": "` + strings.Repeat("y", 10*maxLine) + `"}}`
	read := entries(t, "native", `{"email": "1@example.com"}`+"\n"+long+"\n"+`{"email": "3@example.com"}`+"\n"+long)
	if len(read) != 4 || read[0].Refused != nil || !errors.Is(read[1].Refused, errLongLine) || read[1].Account.Email != "" ||
		read[2].Account.Email != "3@example.com" || read[2].Number != 3 || !errors.Is(read[3].Refused, errLongLine) {
		t.Errorf("%+.300v", read)
	}
	most := `{"email": "most@example.com"}`
	most += strings.Repeat(" ", maxLine-len(most)-1) + "\n"
	if read := entries(t, "native", most+most); len(read) != 2 || read[0].Refused != nil || read[1].Refused != nil {
		t.Errorf("%+.300v", read)
	}
}

// A decoder of JSON replaces what is not UTF-8, so a name in Latin-1 would be stored as another one.
func TestAccountThatIsNotUTF8IsRefused(t *testing.T) {
	for from, text := range map[string]string{
		"supabase": "id,email,encrypted_password,raw_user_meta_data\n1,ada@example.com,,\"{\"\"full_name\"\": \"\"Zo\xeb\"\"}\"\n",
		"native":   `{"email": "ada@example.com", "first_name": "Zo` + "\xeb" + `"}`,
		"keycloak": `{"users": [{"id": "1", "email": "ada@example.com", "firstName": "Zo` + "\xeb" + `"}]}`,
		"kratos":   `{"id": "1", "traits": {"email": "ada@example.com", "name": "Zo` + "\xeb" + `"}}`,
	} {
		if read := entries(t, from, text); len(read) != 1 || !errors.Is(read[0].Refused, errNotUTF8) {
			t.Errorf("%s: %+v", from, read)
		}
	}
}

func TestReasonNamesNoUsernameThatAnAccountLacks(t *testing.T) {
	taken := Taken{ID: true, Username: true, Email: true}
	if reason := taken.reason(identity.MovedAccount{}).Error(); reason != "id: another account has it; email: another account has it" {
		t.Error(reason)
	}
	if reason := taken.reason(identity.MovedAccount{Username: "ada"}).Error(); !strings.Contains(reason, "username: ") {
		t.Error(reason)
	}
}

func TestFileThatCannotBeReadSaysWhy(t *testing.T) {
	if _, _, err := readAll(t, "keycloak", "keycloak-realm.json"); err == nil || !strings.Contains(err.Error(), "--users realm_file") {
		t.Errorf("a realm without users: %v", err)
	}
	dir := t.TempDir()
	for _, tc := range []struct{ from, text, want string }{
		{"auth0", "", "no users"}, {"auth0", `{"email":`, "not valid JSON"}, {"auth0", `7`, "neither JSON objects"},
		{"firebase", `{"users": 7}`, "users is not an array"}, {"kratos", `[{"id":`, "not valid JSON"},
		{"supabase", "SELECT 1;\n", "no rows of auth.users"}, {"supabase", "id,email,encrypted_password\n\"1\n", "line"},
		{"supabase", "COPY auth.users (id, email) FROM stdin;\n1\n", "another number of columns"},
		{"supabase", "COPY auth.users (id, email) FROM stdin;\n1\t2\n", "ends within"},
		{"supabase", "INSERT INTO auth.users (id, email) VALUES ('1', 'x", "ends within"},
		{"supabase", "INSERT INTO auth.users (id, email) VALUES ('1');", "another number of values"},
		{"auth0", "\x1f\x8b\x08\x00", "gunzip"}, {"firebase", "PK\x03\x04", "unpack it"},
		{"native", "\xff\xfe{\x00", "UTF-16"}, {"native", "{\x00}\x00", "UTF-16"}, {"supabase", "\xfe\xff\x00i", "UTF-16"},
	} {
		path := filepath.Join(dir, "file")
		testenv.NoError(t, os.WriteFile(path, []byte(tc.text), 0o600))
		r := &Reader{From: tc.from, Files: []string{path}, Firebase: &FirebaseConfig{}}
		testenv.NoError(t, r.Check())
		var failed error
		for _, err := range r.Entries() {
			failed = err
		}
		if failed == nil || !strings.Contains(failed.Error(), tc.want) {
			t.Errorf("%s %.30q: %v; want %s", tc.from, tc.text, failed, tc.want)
		}
	}
	for want, r := range map[string]*Reader{
		"--from is one of native": {From: "other"}, "--firebase-config": {From: "firebase"}, "no such file": {From: "native", Files: []string{dir + "/none"}},
	} {
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	if _, err := ParseFirebaseConfig(strings.NewReader("hash_config {\n  algorithm: SCRYPT,\n}")); err == nil {
		t.Error("parameters that are missing are not noticed")
	}
}

package moving

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// maxLine is the longest line of a file that is read by lines, in bytes.
const maxLine = 1 << 20

// Reader reads the files of one system.
type Reader struct {
	From     string
	Files    []string
	Firebase *FirebaseConfig // of the project, for From "firebase"

	read, size atomic.Int64 // bytes
}

// format reads one file.
type format func(r *Reader, file io.Reader, yield func(Entry, error) bool) bool

var formats = map[string]format{
	"native": readNative, "supabase": readSupabase, "keycloak": readKeycloak,
	"auth0": objects("users", auth0Account), "firebase": objects("users", firebaseAccount), "kratos": objects("identities", kratosAccount),
}

// Formats returns the names of the formats.
func Formats() []string {
	return []string{"native", "supabase", "keycloak", "auth0", "firebase", "kratos"}
}

// Check returns an error if the reader cannot read its files.
func (r *Reader) Check() error {
	if formats[r.From] == nil {
		return fmt.Errorf("--from is one of %s", strings.Join(Formats(), ", "))
	}
	if r.From == "firebase" && r.Firebase == nil {
		return errors.New("hashes of Firebase need the parameters of the project: save them from the console (Authentication, " +
			"Users, Password hash parameters) to a file, and name it with --firebase-config")
	}
	for _, path := range r.Files {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a file that can be read twice, as an import does: write its content to a file", path)
		}
		r.size.Add(info.Size())
		if err := CheckManifest(path); err != nil {
			return err
		}
	}
	return nil
}

// Share is how much of the files has been read, from 0 to 1.
func (r *Reader) Share() float64 {
	return float64(r.read.Load()) / float64(max(r.size.Load(), 1))
}

// Entries reads the files.
func (r *Reader) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, path := range r.Files {
			if !r.readFile(path, yield) {
				return
			}
		}
	}
}

func (r *Reader) readFile(path string, yield func(Entry, error) bool) bool {
	f, err := os.Open(path)
	if err != nil {
		return yield(Entry{}, err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	counted := bufio.NewReaderSize(&counter{f, &r.read}, 1<<18)
	if err := skipMark(counted); err != nil {
		return yield(Entry{}, fmt.Errorf("%s: %w", path, err))
	}
	return formats[r.From](r, counted, func(e Entry, err error) bool {
		if err != nil {
			yield(Entry{}, fmt.Errorf("%s: %w", path, err))
			return false
		}
		e.File = path
		return yield(e, nil)
	})
}

// byteOrderMark is what Windows and its spreadsheets write before text in UTF-8.
const byteOrderMark = "\xef\xbb\xbf"

// skipMark skips the byte order mark of a file, which would otherwise belong to the name of the first column or to the
// first JSON object. It returns an error if the file is no text in UTF-8 but something that can be converted to it.
func skipMark(file *bufio.Reader) error {
	start, _ := file.Peek(4) // an error returns with the next read
	begins := func(magic string) bool { return bytes.HasPrefix(start, []byte(magic)) }
	switch {
	case begins(byteOrderMark):
		_, err := file.Discard(len(byteOrderMark))
		return err
	case begins("\x1f\x8b"):
		return errors.New("it is compressed: unpack it first, for example with gunzip")
	case begins("PK\x03\x04"):
		return errors.New("it is a ZIP archive: unpack it first")
	case begins("\xff\xfe"), begins("\xfe\xff"), len(start) > 1 && (start[0] == 0) != (start[1] == 0):
		return errors.New("it is not UTF-8 but UTF-16: convert it first, for example with iconv -f UTF-16 -t UTF-8")
	}
	return nil
}

// counter counts the bytes that are read.
type counter struct {
	io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// readNative reads an account a line.
func readNative(_ *Reader, file io.Reader, yield func(Entry, error) bool) bool {
	lines := bufio.NewReaderSize(file, 1<<16)
	var buffer []byte
	for n := 1; ; n++ {
		text, err := readLine(lines, buffer[:0])
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return yield(Entry{}, err)
		}
		buffer = text
		line := bytes.TrimSpace(text)
		if len(line) == 0 {
			continue
		}
		e := Entry{Number: n}
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err != nil {
			e.Refused = err
		} else if !utf8.Valid(line) {
			e.Refused = errNotUTF8
		} else if err := decoder.Decode(&e.Account); err != nil {
			e.Refused = jsonFault(err)
		} else if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			e.Refused = errors.New("the line has more than one JSON object")
		}
		if !yield(e, nil) {
			return false
		}
	}
}

// errNotUTF8 refuses what a decoder of JSON would change silently, such as a name in Latin-1.
var errNotUTF8 = errors.New("it is not UTF-8: convert the file first, for example with iconv -f LATIN1 -t UTF-8")

var errLongLine = errors.New("the line is longer than 1 MiB")

// readLine appends the next line to a buffer. Of a line that is longer than maxLine, it returns the beginning and
// errLongLine.
func readLine(text *bufio.Reader, line []byte) ([]byte, error) {
	read := 0
	for {
		part, err := text.ReadSlice('\n')
		read += len(part)
		if len(line) < maxLine {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && read > 0:
			err = nil
		}
		if err == nil && read > maxLine {
			err = errLongLine
		}
		return line, err
	}
}

// jsonFault says what is wrong with JSON, without any of its values.
func jsonFault(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: must not be a JSON %s", wrong.Field, strings.Fields(wrong.Value)[0])
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("%s: no such member", strings.Trim(name, `"`))
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not valid JSON, at byte %d", wrong.Offset)
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok {
		return errors.New("a time is not written like 2024-05-01T12:00:00Z")
	}
	return errors.New("it is not valid JSON")
}

// objects returns a format of JSON objects: one after the other, in an array, or in an array that is a member of an object.
func objects(member string, account func(*Reader, json.RawMessage, *Entry) error) format {
	return func(r *Reader, file io.Reader, yield func(Entry, error) bool) bool {
		n := 0
		return eachObject(file, member, func(raw json.RawMessage, err error) bool {
			if err != nil {
				return yield(Entry{}, err)
			}
			n++
			e := Entry{Number: n, Foreign: true}
			if e.Refused = account(r, raw, &e); e.Refused == nil && !utf8.Valid(raw) {
				e.Refused = errNotUTF8
			}
			if e.Refused != nil {
				e.Account = identity.MovedAccount{}
			}
			return yield(e, nil)
		})
	}
}

var errNoUsers = errors.New("there are no users in the file")

func eachObject(file io.Reader, member string, yield func(json.RawMessage, error) bool) bool {
	decoder := json.NewDecoder(file)
	found := false
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			if !found {
				return yield(nil, errNoUsers)
			}
			return true
		}
		if err != nil {
			return yield(nil, jsonFault(err))
		}
		switch token {
		case json.Delim('['):
			found = true
			if !eachElement(decoder, yield) {
				return false
			}
		case json.Delim('{'):
			more, listed := eachMember(decoder, member, yield)
			if !more {
				return false
			}
			found = found || listed
		default:
			return yield(nil, errors.New("it has neither JSON objects nor an array of them"))
		}
	}
}

// eachElement reads the rest of an array.
func eachElement(decoder *json.Decoder, yield func(json.RawMessage, error) bool) bool {
	for decoder.More() {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return yield(nil, jsonFault(err))
		}
		if !yield(raw, nil) {
			return false
		}
	}
	if _, err := decoder.Token(); err != nil {
		return yield(nil, jsonFault(err))
	}
	return true
}

// eachMember reads the rest of an object. If it has the member, it yields the elements of that array, otherwise itself.
func eachMember(decoder *json.Decoder, member string, yield func(json.RawMessage, error) bool) (more, found bool) {
	whole := map[string]json.RawMessage{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return yield(nil, jsonFault(err)), found
		}
		var raw json.RawMessage
		if name == member {
			if opening, err := decoder.Token(); err != nil || opening != json.Delim('[') {
				return yield(nil, fmt.Errorf("%s is not an array", member)), found
			}
			found = true
			if !eachElement(decoder, yield) {
				return false, found
			}
			continue
		}
		if err := decoder.Decode(&raw); err != nil {
			return yield(nil, jsonFault(err)), found
		}
		whole[fmt.Sprint(name)] = raw
	}
	if _, err := decoder.Token(); err != nil {
		return yield(nil, jsonFault(err)), found
	}
	if found {
		return true, true
	}
	if whole["realm"] != nil { // a realm of Keycloak without users
		return true, false
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		return yield(nil, err), false
	}
	return yield(raw, nil), true
}

// movedID returns an old id if it is a UUID, or else a UUID that is always the same for it.
func movedID(from, old string) string {
	if lower := strings.ToLower(old); identity.IsUUID(lower) {
		return lower
	}
	if old == "" {
		return ""
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("authgateway:"+from+":"+old)).String()
}

// movedUsername returns a username, unless it is an address: that signs in anyway.
func movedUsername(name string) string {
	if strings.Contains(name, "@") {
		return ""
	}
	return name
}

// splitName splits a display name.
func splitName(name string) (first, last string) {
	first, last, _ = strings.Cut(strings.TrimSpace(name), " ")
	return first, strings.TrimSpace(last)
}

// nameOf finds a name among the members that applications use for it.
func nameOf(members map[string]any) (first, last string) {
	text := func(names ...string) string {
		for _, name := range names {
			if s, ok := members[name].(string); ok && s != "" {
				return s
			}
		}
		return ""
	}
	first, last = text("first_name", "given_name", "firstName"), text("last_name", "family_name", "lastName")
	if first == "" && last == "" {
		return splitName(text("full_name", "name", "display_name"))
	}
	return first, last
}

// suspendedNow returns when an account that may not sign in is suspended: now, because no system says when it was.
func suspendedNow(suspended bool) *time.Time {
	if !suspended {
		return nil
	}
	return new(time.Now().UTC().Truncate(time.Second))
}

// fromMilliseconds reads a time that is given in milliseconds since 1970; 0: none.
func fromMilliseconds(n int64) *time.Time {
	if n == 0 {
		return nil
	}
	return new(time.UnixMilli(n).UTC())
}

// parseTime reads the forms of PostgreSQL and of JSON. An empty text is no time.
func parseTime(text string) (*time.Time, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return new(t.UTC().Truncate(time.Microsecond)), nil
		}
	}
	return nil, errors.New("a time is malformed")
}

type auth0User struct {
	ID         json.RawMessage `json:"_id"`
	UserID     string          `json:"user_id"`
	Username   string          `json:"username"`
	Email      string          `json:"email"`
	Verified   bool            `json:"email_verified"`
	Blocked    bool            `json:"blocked"`
	CreatedAt  string          `json:"created_at"`
	Hash       string          `json:"passwordHash"`
	Hash2      string          `json:"password_hash"`
	CustomHash struct {
		Hash struct {
			Value string `json:"value"`
		} `json:"hash"`
	} `json:"custom_password_hash"`
	Identifiers []struct {
		Type     string `json:"type"`
		Value    string `json:"value"`
		Verified bool   `json:"verified"`
	} `json:"identifiers"`
}

// auth0Account reads a user of the export of password hashes, of an export job, or of an import job.
func auth0Account(_ *Reader, raw json.RawMessage, e *Entry) (err error) {
	var u auth0User
	if err := json.Unmarshal(raw, &u); err != nil {
		return jsonFault(err)
	}
	for _, i := range u.Identifiers {
		switch {
		case i.Type == "email" && u.Email == "":
			u.Email, u.Verified = i.Value, i.Verified
		case i.Type == "username" && u.Username == "":
			u.Username = i.Value
		}
	}
	var oid struct {
		OID string `json:"$oid"`
	}
	if json.Unmarshal(u.ID, &oid) != nil {
		_ = json.Unmarshal(u.ID, &oid.OID) // a text
	}
	old := u.UserID
	if old == "" && oid.OID != "" {
		old = "auth0|" + strings.TrimPrefix(oid.OID, "auth0|") // both exports of a tenant have the same accounts
	}
	e.Account = identity.MovedAccount{
		ID: movedID("auth0", old), Username: movedUsername(u.Username), Email: u.Email, EmailVerified: u.Verified,
		PasswordHash: cmp.Or(u.Hash, u.Hash2, u.CustomHash.Hash.Value), SuspendedAt: suspendedNow(u.Blocked),
	}
	e.Account.FirstName, e.Account.LastName = nameOf(members(raw))
	e.Account.CreatedAt, err = parseTime(u.CreatedAt)
	return err
}

func members(raw json.RawMessage) map[string]any {
	var m map[string]any
	_ = json.Unmarshal(raw, &m) // without members there is no name
	return m
}

type kratosIdentity struct {
	ID        string         `json:"id"`
	State     string         `json:"state"`
	CreatedAt string         `json:"created_at"`
	Traits    map[string]any `json:"traits"`
	Addresses []struct {
		Value      string `json:"value"`
		Verified   bool   `json:"verified"`
		VerifiedAt string `json:"verified_at"`
	} `json:"verifiable_addresses"`
	Credentials struct {
		Password struct {
			Identifiers []string `json:"identifiers"`
			Config      struct {
				Hash string `json:"hashed_password"`
			} `json:"config"`
		} `json:"password"`
	} `json:"credentials"`
}

// kratosAccount reads an identity with its credentials.
func kratosAccount(_ *Reader, raw json.RawMessage, e *Entry) (err error) {
	var k kratosIdentity
	if err := json.Unmarshal(raw, &k); err != nil {
		return jsonFault(err)
	}
	email, _ := k.Traits["email"].(string)
	username, _ := k.Traits["username"].(string)
	for _, name := range k.Credentials.Password.Identifiers {
		switch isEmail := strings.Contains(name, "@"); {
		case isEmail && email == "":
			email = name
		case !isEmail && username == "":
			username = name
		}
	}
	e.Account = identity.MovedAccount{
		ID: movedID("kratos", k.ID), Username: movedUsername(username), Email: email,
		PasswordHash: k.Credentials.Password.Config.Hash, SuspendedAt: suspendedNow(k.State == "inactive"),
	}
	if name, ok := k.Traits["name"].(map[string]any); ok {
		first, _ := name["first"].(string)
		last, _ := name["last"].(string)
		e.Account.FirstName, e.Account.LastName = first, last
	} else {
		e.Account.FirstName, e.Account.LastName = nameOf(k.Traits)
	}
	if e.Account.CreatedAt, err = parseTime(k.CreatedAt); err != nil {
		return err
	}
	for _, a := range k.Addresses {
		if a.Verified && strings.EqualFold(a.Value, email) {
			e.Account.EmailVerified = true
			if e.Account.EmailVerifiedAt, err = parseTime(a.VerifiedAt); err != nil {
				return err
			}
		}
	}
	return nil
}

type keycloakUser struct {
	ID          string `json:"id"`
	Username    string `json:"username"`
	Email       string `json:"email"`
	Verified    bool   `json:"emailVerified"`
	Enabled     *bool  `json:"enabled"`
	FirstName   string `json:"firstName"`
	LastName    string `json:"lastName"`
	Created     int64  `json:"createdTimestamp"`
	Service     string `json:"serviceAccountClientId"`
	Credentials []struct {
		Type       string `json:"type"`
		Secret     string `json:"secretData"`     // JSON in a string
		Credential string `json:"credentialData"` // as well
	} `json:"credentials"`
}

// readKeycloak reads the file of a realm, or of users beside it.
func readKeycloak(r *Reader, file io.Reader, yield func(Entry, error) bool) bool {
	return objects("users", keycloakAccount)(r, file, func(e Entry, err error) bool {
		if errors.Is(err, errNoUsers) {
			err = errors.New("the file of the realm has no users: by default Keycloak writes them to files of their own, such as " +
				"REALM-users-0.json; name those, or export again with --users realm_file")
		}
		return yield(e, err)
	})
}

func keycloakAccount(_ *Reader, raw json.RawMessage, e *Entry) error {
	var u keycloakUser
	if err := json.Unmarshal(raw, &u); err != nil {
		return jsonFault(err)
	}
	if u.Service != "" {
		return errors.New("it is the account of a service, which has no password")
	}
	e.Account = identity.MovedAccount{
		ID: movedID("keycloak", u.ID), Username: movedUsername(u.Username), Email: u.Email, EmailVerified: u.Verified,
		FirstName: u.FirstName, LastName: u.LastName, CreatedAt: fromMilliseconds(u.Created),
		SuspendedAt: suspendedNow(u.Enabled != nil && !*u.Enabled),
	}
	for _, c := range u.Credentials {
		if c.Type != "password" {
			continue
		}
		hash, err := keycloakHash(c.Secret, c.Credential)
		if err != nil {
			return fmt.Errorf("credentials: %w", err)
		}
		e.Account.PasswordHash = hash
	}
	return nil
}

// one returns the first of the values that Keycloak has in a list.
func one(values []string) string { return strings.Join(values[:min(1, len(values))], "") }

// argon2Types are the names of argon2 by the type that Keycloak gives.
var argon2Types = map[string]string{"id": "argon2id", "i": "argon2i"}

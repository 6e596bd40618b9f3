package moving

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// row is a row of auth.users by the names of its columns. A column that is NULL is missing.
type row map[string]string

// readSupabase reads auth.users: as CSV with a header, or from an SQL dump with COPY or INSERT.
func readSupabase(_ *Reader, file io.Reader, yield func(Entry, error) bool) bool {
	text := bufio.NewReaderSize(file, 1<<16)
	start, err := text.Peek(1 << 12)
	if len(start) == 0 {
		return yield(Entry{}, errors.Join(errNoUsers, err))
	}
	read := readDump
	if first, _, _ := strings.Cut(string(start), "\n"); strings.Contains(first, "encrypted_password") && strings.Contains(first, ",") &&
		!strings.Contains(first, "(") {
		read = readCSV
	}
	n, more := 0, true
	err = read(text, func(columns row) bool {
		n++
		e := Entry{Number: n, Foreign: true}
		if e.Refused = supabaseAccount(columns, &e.Account); e.Refused != nil {
			e.Account = identity.MovedAccount{}
		}
		more = yield(e, nil)
		return more
	})
	switch {
	case !more:
		return false
	case err == nil && n == 0:
		err = errors.New("there are no rows of auth.users in the file: it must be CSV with commas and a header, or a dump with COPY, or " +
			"with INSERT and the names of the columns (pg_dump --column-inserts)")
	}
	if err != nil {
		return yield(Entry{}, err)
	}
	return true
}

func readCSV(text *bufio.Reader, each func(row) bool) error {
	r := csv.NewReader(text)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return errors.New("the header is malformed")
	}
	header = append([]string(nil), header...)
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			return fmt.Errorf("line %d is not CSV with the columns of the header", wrong.Line)
		}
		if err != nil {
			return err
		}
		columns := row{}
		for i, value := range record {
			if value != "" && value != `\N` {
				columns[header[i]] = value
			}
		}
		if !each(columns) {
			return nil
		}
	}
}

func supabaseAccount(columns row, m *identity.MovedAccount) (err error) {
	for _, value := range columns {
		if !utf8.ValidString(value) {
			return errNotUTF8
		}
	}
	switch {
	case columns["deleted_at"] != "":
		return errors.New("the account is deleted")
	case columns["is_sso_user"] == "t" || columns["is_sso_user"] == "true":
		return errors.New("the account signs in by SSO")
	}
	*m = identity.MovedAccount{
		ID: movedID("supabase", columns["id"]), Email: columns["email"], PasswordHash: columns["encrypted_password"],
	}
	var meta map[string]any
	_ = json.Unmarshal([]byte(columns["raw_user_meta_data"]), &meta) // without it there is no name
	m.FirstName, m.LastName = nameOf(meta)
	if name, ok := meta["username"].(string); ok {
		m.Username = movedUsername(name)
	}
	var banned *time.Time
	for name, to := range map[string]**time.Time{
		"email_confirmed_at": &m.EmailVerifiedAt, "created_at": &m.CreatedAt, "updated_at": &m.UpdatedAt, "banned_until": &banned,
	} {
		if *to, err = parseTime(columns[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	m.SuspendedAt = suspendedNow(banned != nil && banned.After(time.Now()))
	return nil
}

// readDump reads the rows of auth.users in a plain dump: those of pg_dump are lines after COPY, those of the command line
// of Supabase are values of INSERT.
func readDump(text *bufio.Reader, each func(row) bool) error {
	for {
		line, err := text.ReadString('\n')
		statement := strings.ReplaceAll(strings.TrimSpace(line), `"`, "")
		switch {
		case strings.HasPrefix(statement, "COPY auth.users ("):
			if more, err := readCopy(text, columnsOf(statement), each); err != nil || !more {
				return err
			}
		case strings.HasPrefix(statement, "INSERT INTO auth.users ("):
			_, values, _ := strings.Cut(line, ") VALUES")
			rest := bufio.NewReader(io.MultiReader(strings.NewReader(values), text))
			if more, err := readValues(rest, columnsOf(statement), each); err != nil || !more {
				return err
			}
			text = rest
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func columnsOf(statement string) []string {
	_, list, _ := strings.Cut(statement, "(")
	list, _, _ = strings.Cut(list, ")")
	return strings.Split(list, ", ")
}

var unescapeCopy = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\r`, "\r", `\b`, "\b", `\f`, "\f", `\v`, "\v")

func readCopy(text *bufio.Reader, names []string, each func(row) bool) (more bool, err error) {
	for {
		line, err := text.ReadString('\n')
		if err != nil {
			return false, errors.New("the dump ends within the rows of auth.users")
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == `\.` {
			return true, nil
		}
		fields := strings.Split(line, "\t")
		if len(fields) != len(names) {
			return false, errors.New("a row of auth.users has another number of columns than COPY names")
		}
		columns := row{}
		for i, value := range fields {
			if value != `\N` {
				columns[names[i]] = unescapeCopy.Replace(value)
			}
		}
		if !each(columns) {
			return false, nil
		}
	}
}

// readValues reads (…), (…); after VALUES. A text is in single quotes, and a quote in it is doubled.
func readValues(text *bufio.Reader, names []string, each func(row) bool) (more bool, err error) {
	ended := errors.New("the dump ends within the values of auth.users")
	var values []*string
	var value strings.Builder
	quoted, inside := false, false
	finish := func() {
		s := value.String()
		if !quoted && (s == "" || s == "NULL") {
			values = append(values, nil)
		} else {
			values = append(values, &s)
		}
		value.Reset()
		quoted = false
	}
	for {
		c, err := text.ReadByte()
		if err != nil {
			return false, ended
		}
		switch {
		case c == '\'':
			if quoted {
				value.WriteByte('\'') // the second of two: the loop below has stopped at the first
			}
			quoted = true
			part, err := text.ReadString('\'')
			if err != nil {
				return false, ended
			}
			value.WriteString(part[:len(part)-1])
		case c == '(' && !inside:
			inside, values = true, nil
		case c == ')' && inside:
			finish()
			inside = false
			if len(values) != len(names) {
				return false, errors.New("a row of auth.users has another number of values than INSERT names")
			}
			columns := row{}
			for i, v := range values {
				if v != nil {
					columns[names[i]] = *v
				}
			}
			if !each(columns) {
				return false, nil
			}
		case c == ',' && inside:
			finish()
		case c == ';' && !inside:
			return true, nil
		case inside && c != ' ' && c != '\n' && c != '\t' && c != '\r':
			value.WriteByte(c)
		}
	}
}

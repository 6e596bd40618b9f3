package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
)

// importedHash is stored as it is: it is bcrypt of another system.
const importedHash = "$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"

// moved is account n of a file: a thousand are made in each second, one in fifty is suspended, and one in ten has no
// username. The ids are in no order, as they are.
type moved struct {
	ID        string     `json:"id"`
	Username  string     `json:"username,omitempty"`
	Email     string     `json:"email"`
	FirstName string     `json:"first_name"`
	LastName  string     `json:"last_name"`
	Hash      string     `json:"password_hash"`
	Verified  time.Time  `json:"email_verified_at"`
	Created   time.Time  `json:"created_at"`
	Suspended *time.Time `json:"suspended_at,omitempty"`
}

func movedID(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012d", uint32(n)*2654435761, n) }

func movedAccount(n int) moved {
	m := moved{
		ID: movedID(n), Email: fmt.Sprintf("moved%d@example.com", n), FirstName: "Ada", LastName: "Lovelace", Hash: importedHash,
		Created: time.Date(2024, 5, 1, 12, 0, n/1000, 0, time.UTC),
	}
	m.Verified = m.Created
	if n%10 > 0 {
		m.Username = fmt.Sprint("moved", n)
	}
	if n%50 == 0 {
		m.Suspended = &m.Created
	}
	return m
}

// writeAccounts writes accounts first to last-1 in the native format.
func writeAccounts(path string, first, last int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriterSize(f, 1<<20)
	lines := json.NewEncoder(buffer)
	for n := first; n < last && err == nil; n++ {
		err = lines.Encode(movedAccount(n))
	}
	return errors.Join(err, buffer.Flush(), f.Close())
}

// command runs a command of the program on a database, and returns how long it took.
func (r *env) command(ctx context.Context, args ...string) (time.Duration, error) {
	p, err := launch(ctx, nil, r.environ("127.0.0.1:1", "127.0.0.1:2"), r.program, args...)
	if err != nil {
		return 0, err
	}
	var output bytes.Buffer
	p.cmd.Stderr = &output
	if err := p.start(); err != nil {
		return 0, err
	}
	<-p.done
	if p.err != nil {
		return 0, fmt.Errorf("authserver %s: %w\n%s", strings.Join(args, " "), p.err, output.Bytes())
	}
	return time.Since(p.began), nil
}

// empty returns another database, with the schema and nothing else.
func (r *env) empty(ctx context.Context, name string) (*env, error) {
	other := *r
	other.name = name
	if err := r.db.CreateDatabase(ctx, name); err != nil {
		return nil, err
	}
	_, err := other.command(ctx, "migrate")
	return &other, err
}

// accounts measures what a large number of accounts costs: an import and an export beside a bare COPY, and the lists of
// administrators.
func (b *bench) accounts(ctx context.Context, r *env) error {
	count := 1_000_000
	if b.users < 10_000 {
		count = 20_000
	}
	dir, err := os.MkdirTemp("", "load-accounts-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := writeAccounts(file("original"), 0, count); err != nil {
		return err
	}
	// The COPY is between the two imports, so a machine that becomes slower or faster affects both alike.
	first, err := r.empty(ctx, "load_accounts")
	if err != nil {
		return err
	}
	import1, err := first.command(ctx, "users", "import", file("original"), "--from", "native")
	if err != nil {
		return err
	}
	export1, err := first.command(ctx, "users", "export", file("exported"))
	if err != nil {
		return err
	}
	bare, err := r.empty(ctx, "load_copy")
	if err != nil {
		return err
	}
	copyIn, copyOut, err := bare.copyAccounts(ctx, count)
	if err != nil {
		return err
	}
	second, err := r.empty(ctx, "load_again")
	if err != nil {
		return err
	}
	import2, err := second.command(ctx, "users", "import", file("exported"), "--from", "native")
	if err != nil {
		return err
	}
	export2, err := second.command(ctx, "users", "export", file("again"))
	if err != nil {
		return err
	}
	one, err1 := os.ReadFile(file("exported.manifest"))
	two, err2 := os.ReadFile(file("again.manifest"))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !bytes.Equal(one, two) || !bytes.Contains(one, fmt.Appendf(nil, `"users":%d,`, count)) {
		return fmt.Errorf("the accounts are not the same there and back: %s, %s", one, two)
	}
	rate := func(took ...time.Duration) float64 {
		var all time.Duration
		for _, d := range took {
			all += d
		}
		return float64(count*len(took)) / all.Seconds()
	}
	b.table(fmt.Sprintf("%d accounts", count), "figure", "measured", "target", "", "remarks")
	b.atLeast("import, of COPY", 100*rate(import1, import2)/rate(copyIn), "%", 60,
		fmt.Sprintf("%.0f and %.0f accounts/s; COPY into the same table, which checks nothing: %.0f/s",
			rate(import1), rate(import2), rate(copyIn)))
	b.atLeast("export, of COPY", 100*rate(export1, export2)/rate(copyOut), "%", 30,
		fmt.Sprintf("%.0f and %.0f accounts/s; COPY to standard output, which sorts nothing: %.0f/s",
			rate(export1), rate(export2), rate(copyOut)))
	return b.lists(ctx, first, dir, count)
}

// copyAccounts copies the accounts into the table of users and out of it.
func (r *env) copyAccounts(ctx context.Context, count int) (in, out time.Duration, err error) {
	conn, err := pgx.Connect(ctx, r.db.DSN(r.name))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	columns := []string{"id", "username", "canonical_username", "email", "canonical_email", "first_name", "last_name", "scope",
		"password_hash", "email_verified_at", "activated_at", "suspended_at", "created_at", "updated_at"}
	began := time.Now()
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"users"}, columns, pgx.CopyFromSlice(count, func(n int) ([]any, error) {
		m := movedAccount(n)
		name := m.Username
		if name == "" {
			name = m.ID
		}
		return []any{m.ID, name, name, m.Email, m.Email, m.FirstName, m.LastName, "profile email", m.Hash,
			m.Verified, m.Verified, m.Suspended, m.Created, m.Created}, nil
	})); err != nil {
		return 0, 0, err
	}
	in = time.Since(began)
	began = time.Now()
	_, err = conn.PgConn().CopyTo(ctx, io.Discard, "COPY users TO STDOUT")
	return in, time.Since(began), err
}

// list is a list of administrators.
type list struct {
	what  string
	query func() string // of each request
	deep  bool          // measured far behind the first page too
	// The statement and its arguments, for the first page and for one far behind it.
	statement string
	args      [][]any
}

const (
	pageSize = 50
	events   = "/admin/events?"
	users    = "/admin/users?"
)

func (r *env) lists(count int) []list {
	fixed := func(query string) func() string { return func() string { return query } }
	some := func(format string, of func(n int) string) func() string {
		return func() string { return fmt.Sprintf(format, url.QueryEscape(of(1+rand.IntN(count/10)*10))) }
	}
	email := func(n int) string { return movedAccount(n).Email }
	prefix := func(n int) string { return fmt.Sprint("moved", n%1000) }
	const id, future = "80000000-0000-4000-8000-000000000000", "9999-12-31"
	middle := movedAccount(count / 2).Created
	return []list{
		{"by id", some(users+"id=%s", movedID), false, "AdminUserByID", [][]any{{id}}},
		{"by address", some(users+"email=%s", email), false, "AdminUserByEmail", [][]any{{"moved1@example.com"}}},
		{"by username", some(users+"username=%s", func(n int) string { return movedAccount(n).Username }), false,
			"AdminUserByUsername", [][]any{{"moved1"}}},
		{"beginning of the address", some(users+"email_prefix=%s", prefix), false, "AdminUsersByEmail",
			[][]any{{"moved7", "moved7\x7f", "", pageSize + 1}}},
		{"beginning of all addresses", fixed(users + "email_prefix=m"), true, "AdminUsersByEmail",
			[][]any{{"m", "m\x7f", "", pageSize + 1}, {"m", "m\x7f", "moved5", pageSize + 1}}},
		{"beginning of the username", some(users+"username_prefix=%s", prefix), false, "AdminUsersByUsername",
			[][]any{{"moved7", "moved7\x7f", "", pageSize + 1}}},
		{"beginning of all usernames", fixed(users + "username_prefix=m"), true, "AdminUsersByUsername",
			[][]any{{"m", "m\x7f", "", pageSize + 1}, {"m", "m\x7f", "moved5", pageSize + 1}}},
		{"all", fixed("/admin/users?limit=50"), true, "AdminUsersByCreation",
			[][]any{{future, id, "0001-01-01", pageSize + 1}, {middle, id, "0001-01-01", pageSize + 1}}},
		{"created after", fixed(users + "created_after=" + middle.Format(time.RFC3339)), true, "AdminUsersByCreation",
			[][]any{{future, id, middle, pageSize + 1}}},
		{"suspended", fixed(users + "state=suspended"), true, "AdminSuspendedUsers",
			[][]any{{future, id, "0001-01-01", pageSize + 1}, {middle, id, "0001-01-01", pageSize + 1}}},
		{"events", fixed("/admin/events?limit=50"), true, "AdminEvents", [][]any{{int64(1) << 60, pageSize + 1}, {count, pageSize + 1}}},
		{"events of an account", some(events+"user=%s", movedID), false,
			"AdminEventsOfUser", [][]any{{movedID(1), int64(1) << 60, "", "", pageSize + 1}}},
		{"events of a kind", fixed(events + "event=signed+in"), true, "AdminEventsOfName",
			[][]any{{"signed in", int64(1) << 60, pageSize + 1}, {"signed in", count, pageSize + 1}}},
		{"events of a kind that is rare", fixed(events + "event=account+suspended"), false, "AdminEventsOfName",
			[][]any{{"account suspended", int64(1) << 60, pageSize + 1}}},
		{"events of an administrator", fixed(events + "actor=key:ada"), true,
			"AdminEventsOfActor", [][]any{{"key:ada", int64(1) << 60, "", pageSize + 1}}},
	}
}

// lists measures each list over HTTP, and looks at the plans of its statement.
func (b *bench) lists(ctx context.Context, r *env, dir string, count int) error {
	conn, err := pgx.Connect(ctx, r.db.DSN(r.name))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range []string{
		`INSERT INTO audit_events (event, user_id) SELECT 'signed in', id FROM users, generate_series(1, 2)`,
		`INSERT INTO audit_events (event, user_id, details)
			SELECT 'account suspended', id, '{"actor": "key:ada"}' FROM users WHERE suspended_at IS NOT NULL`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	key, entry, err := admin.NewKey("load", []string{"viewer"}, time.Now().Add(24*time.Hour))
	if err != nil {
		return err
	}
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, fmt.Appendf(nil, "[%s]", entry), 0o600); err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	server, err := r.startServer(ctx, nil, config.EnvAdminKeys+"="+keys,
		config.EnvAdminPort+"="+address[strings.LastIndexByte(address, ':')+1:])
	if err != nil {
		return err
	}
	defer server.stop()
	c := lister{client: &http.Client{}, address: address, key: key}
	defer c.client.CloseIdleConnections()
	depth, requests := count/10, 300
	if count < 1_000_000 {
		requests = 20
	}
	b.table(fmt.Sprintf("Lists of administrators, %d accounts, %d events", count, 2*count+count/50),
		"figure", "measured", "target", "", "remarks")
	var wrong error
	for _, l := range r.lists(count) {
		index, err := plans(ctx, conn, l)
		wrong = errors.Join(wrong, err)
		took, err := c.measure(ctx, requests, func(string) string { return l.query() })
		if err != nil {
			return err
		}
		b.latency(l.what, took, index)
		if !l.deep {
			continue
		}
		at, behind, err := c.walk(ctx, l.query(), depth)
		if err != nil {
			return err
		}
		if took, err = c.measure(ctx, requests, func(next string) string { return withCursor(l.query(), next, at) }); err != nil {
			return err
		}
		b.latency(fmt.Sprintf("%s, %d rows behind", l.what, behind), took, index)
	}
	return wrong
}

func (b *bench) latency(what string, took []time.Duration, index string) {
	b.atMost(what+", p95", milliseconds(percentile(took, 0.95)), "ms", 50,
		fmt.Sprintf("p50 %.1f ms, max %.1f ms of %d; %s",
			milliseconds(percentile(took, 0.5)), milliseconds(percentile(took, 1)), len(took), index))
}

var indexScan = regexp.MustCompile(`(?:Index|Bitmap Index)(?: Only)? Scan(?: Backward)? (?:using|on) (\w+)`)

// plans returns the indexes that a statement uses. A plan that reads a whole table, or sorts, is an error.
func plans(ctx context.Context, conn *pgx.Conn, l list) (string, error) {
	text, params := postgres.Statement(l.statement)
	var indexes []string
	for _, args := range l.args {
		if len(args) != len(params) {
			return "", fmt.Errorf("%s has the parameters %q", l.statement, params)
		}
		rows, err := conn.Query(ctx, "EXPLAIN (ANALYZE, TIMING OFF) "+text, args...)
		if err != nil {
			return "", err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", fmt.Errorf("%s: %w", l.statement, err)
		}
		plan := strings.Join(lines, "\n")
		sorts := strings.Contains(plan, "Sort") && l.statement != "AdminEventsOfUser" // the few of one account may be sorted
		if !indexScan.MatchString(plan) || strings.Contains(plan, "Seq Scan") || sorts {
			return "**no index**", fmt.Errorf("%s %v:\n%s", l.statement, args, plan)
		}
		for _, found := range indexScan.FindAllStringSubmatch(plan, -1) {
			if !slices.Contains(indexes, found[1]) {
				indexes = append(indexes, found[1])
			}
		}
	}
	return strings.Join(indexes, ", "), nil
}

// lister is an administrator.
type lister struct {
	client       *http.Client
	address, key string
}

type listPage struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
}

func withCursor(query, cursor, otherwise string) string {
	if cursor == "" {
		cursor = otherwise
	}
	if cursor == "" {
		return query
	}
	return query + "&cursor=" + url.QueryEscape(cursor)
}

func (c lister) get(ctx context.Context, query string) (page listPage, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+query, http.NoBody)
	if err != nil {
		return page, err
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	response, err := c.client.Do(request)
	if err != nil {
		return page, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return page, errors.Join(err, fmt.Errorf("GET %s: %s %s", query, response.Status, body))
	}
	if err := json.Unmarshal(body, &page); err != nil || len(page.Items) == 0 {
		return page, errors.Join(err, fmt.Errorf("GET %s: no items", query))
	}
	return page, nil
}

// measure sends requests one after the other, and returns their durations in ascending order. query gets the cursor of
// the page before.
func (c lister) measure(ctx context.Context, requests int, query func(next string) string) (took []time.Duration, err error) {
	var page listPage
	for range requests {
		text := query(page.Next)
		began := time.Now()
		if page, err = c.get(ctx, text); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, nil
}

// walk follows the pages of a list until so many rows are behind it, or half of the list is.
func (c lister) walk(ctx context.Context, query string, rows int) (cursor string, behind int, err error) {
	query = strings.Replace(query, "?limit=50", "?", 1) + "&limit=200"
	cursors := []string{""}
	for behind < rows {
		page, err := c.get(ctx, withCursor(query, cursors[len(cursors)-1], ""))
		if err != nil {
			return "", 0, err
		}
		behind += len(page.Items)
		if page.Next == "" { // the list is shorter
			middle := len(cursors) / 2
			return cursors[middle], 200 * middle, nil
		}
		cursors = append(cursors, page.Next)
	}
	return cursors[len(cursors)-1], behind, nil
}

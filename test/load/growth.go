package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
)

const growthConnections = 8

// growth compares a large database with a small one in the same PostgreSQL, which syncs to disk as in production, and
// measures what the clean-up of the large one does to requests.
func (b *bench) growth(ctx context.Context) (err error) {
	if !b.wants("growth") && !b.wants("cleanup") {
		return nil
	}
	if b.large%sessionsEach == 0 {
		return fmt.Errorf("-large %d: a multiple of %d would give some users only expired sessions", b.large, sessionsEach)
	}
	small := 10_000
	if b.users < small { // quick
		small = 1000
	}
	dir := b.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "load-growth-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // for the owner of the cluster, who is not root
		return err
	}
	sizes := map[string]int{"growth_small": small, "growth_large": b.large}
	if err := b.seedGrown(ctx, dir, sizes); err != nil || b.seedOnly {
		return err
	}
	db, err := growServer(ctx, dir, b.large, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Stop()) }()
	var pair [2]*grown
	for i, name := range []string{"growth_small", "growth_large"} {
		g, err := b.openGrown(ctx, db, dir, name, sizes[name])
		if err != nil {
			return err
		}
		if err := g.open(ctx); err != nil {
			return err
		}
		defer g.close(ctx)
		pair[i] = g
	}
	large := pair[1]
	before, err := large.scans(ctx)
	if err != nil {
		return err
	}
	if b.wants("growth") {
		if err := errors.Join(b.compareSizes(ctx, pair), b.rows(ctx, large)); err != nil {
			return err
		}
	}
	if b.wants("cleanup") {
		if err := b.cleanUp(ctx, large); err != nil {
			return err
		}
	}
	return b.plans(ctx, large, before)
}

// seedGrown creates the databases that are missing.
func (b *bench) seedGrown(ctx context.Context, dir string, sizes map[string]int) (err error) {
	missing := false
	for name := range sizes {
		if _, err := os.Stat(filepath.Join(dir, name+".json")); err != nil {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	db, err := growServer(ctx, dir, b.large, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Stop()) }()
	for name, users := range sizes {
		if _, err := os.Stat(filepath.Join(dir, name+".json")); err == nil {
			continue
		}
		began := time.Now()
		if _, err := b.openGrown(ctx, db, dir, name, users); err != nil {
			return err
		}
		b.printf("\nSeeded %d users, %d sessions and %d events in %.0f s.\n",
			users, users*sessionsEach, users*(eventsEach+oldEventsEach), time.Since(began).Seconds())
	}
	return nil
}

// growthJob is an operation whose cost may not grow with the database.
type growthJob struct {
	what   string
	judged bool
	make   func(g *grown) job
}

var growthJobs = []growthJob{
	{"GET /users", true, func(g *grown) job { return g.read(g.access) }},
	{"POST /tokens, rotating", true, (*grown).renewal},
	{"POST /tokens/signin", true, (*grown).signInJob},
	{"GET /users/sessions", false, func(g *grown) job { return g.own(g.access) }},
	{"POST /users", false, (*grown).signUp},
}

func (g *grown) renewal() job {
	j := g.renew(g.refresh)
	j.accept = func(n int, response *fasthttp.Response) { g.refresh[n] = member(response.Body(), "refresh_token") }
	return j
}

func (g *grown) own(access []string) job {
	return job{slots: len(access), prepare: func(n int, request *fasthttp.Request) {
		request.SetRequestURI("http://gateway/users/sessions")
		request.Header.Set("Authorization", "Bearer "+access[n])
	}}
}

func (g *grown) signInJob() job {
	return job{slots: len(g.sample), prepare: func(n int, request *fasthttp.Request) {
		post(request, "http://gateway/tokens/signin", `{"username":"`+username(g.sample[n])+`","password":"`+password+`"}`)
	}}
}

func (g *grown) signUp() job {
	base := g.fresh
	g.fresh += 1_000_000
	return job{slots: 1_000_000, prepare: func(n int, request *fasthttp.Request) {
		name := "fresh" + strconv.Itoa(base+n)
		body, _ := json.Marshal(map[string]string{
			"username": name, "email": name + "@example.org", "first_name": "Ada", "last_name": "Lovelace", "password": password,
		})
		post(request, "http://gateway/users", string(body))
	}}
}

// from makes a job begin with the request after those of earlier loads.
func (j job) from(first int) job {
	slots, prepare, accept := j.slots, j.prepare, j.accept
	j.prepare = func(n int, request *fasthttp.Request) { prepare((n+first)%slots, request) }
	if accept != nil {
		j.accept = func(n int, response *fasthttp.Response) { accept((n+first)%slots, response) }
	}
	return j
}

// spent is what requests of one kind have cost.
type spent struct {
	rates            []float64
	latencies        []time.Duration
	good             int
	gateway, backend time.Duration
	wal, images      float64
}

func (c *spent) per(total float64) float64 { return total / float64(max(c.good, 1)) }

func (c *spent) micro(d time.Duration) float64 { return c.per(float64(d.Microseconds())) }

// measure drives one load and adds its cost.
func (g *grown) measure(ctx context.Context, d time.Duration, j job, c *spent) error {
	before, err1 := g.usage(ctx)
	j = j.from(g.next)
	j.timed = true
	t := drive(g.gate.address, growthConnections, d, j)
	g.next += t.good + t.rejected + growthConnections
	after, err2 := g.usage(ctx)
	if err := errors.Join(t.problem(), err1, err2); err != nil {
		return err
	}
	c.rates = append(c.rates, t.rate())
	c.latencies = append(c.latencies, t.latencies...)
	c.good += t.good
	c.gateway += after.gateway - before.gateway
	c.backend += after.backend - before.backend
	c.wal += after.wal - before.wal
	c.images += after.images - before.images
	return nil
}

type usage struct {
	gateway, backend time.Duration
	wal, images      float64
}

func (g *grown) usage(ctx context.Context) (u usage, err error) {
	const wal = `SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, wal_fpi::float8 FROM pg_stat_wal`
	if err := g.conn.QueryRow(ctx, wal).Scan(&u.wal, &u.images); err != nil {
		return u, err
	}
	if u.backend, err = postgresTime(ctx, g.conn); err != nil {
		return u, err
	}
	u.gateway, err = g.gate.cpuTime()
	return u, err
}

// postgresTime returns the CPU time of all processes of the server of a connection, including those that have ended.
func postgresTime(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	var own int
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&own); err != nil {
		return 0, err
	}
	s, err := readStat(own)
	if err != nil {
		return 0, err
	}
	postmaster := s.parent
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var all time.Duration
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		switch {
		case err != nil: // it has just ended
		case pid == postmaster:
			all += s.own + s.children
		case s.parent == postmaster:
			all += s.own
		}
	}
	return all, nil
}

func (b *bench) compareSizes(ctx context.Context, pair [2]*grown) error {
	b.table(fmt.Sprintf("%d users and %d sessions against %d and %d, %d connections, each request of another session",
		pair[1].users, pair[1].users*sessionsEach, pair[0].users, pair[0].users*sessionsEach, growthConnections),
		"request", "large/s", "small/s", "time, of small (range)", "target", "", "CPU of PostgreSQL, of small",
		"p50, p95, p99 ms: large", "small", "CPU µs of PostgreSQL: large, small", "of the gateway",
		"WAL bytes: large, small", "page images")
	rounds := max(b.rounds*2/3, 1)
	for _, kind := range growthJobs {
		var costs [2]spent
		for round := range rounds {
			for i := range pair {
				k := (i + round) % 2
				if err := pair[k].measure(ctx, 2*b.slice, kind.make(pair[k]), &costs[k]); err != nil {
					return fmt.Errorf("%s on %s: %w", kind.what, pair[k].name, err)
				}
			}
		}
		b.sizeRow(kind, &costs[1], &costs[0])
	}
	const defaultCost = 12
	began := time.Now()
	if _, err := bcrypt.GenerateFromPassword([]byte(password), defaultCost); err != nil {
		return err
	}
	b.printf("\nHashing at cost %d, which comes on top of a sign-in: %.0f ms of a processor.\n",
		defaultCost, milliseconds(time.Since(began)))
	return nil
}

// mostGrowth is how much longer a request may take on the large database, in percent.
const mostGrowth = 130

func (b *bench) sizeRow(kind growthJob, large, small *spent) {
	var ratios []float64
	for i := range large.rates {
		ratios = append(ratios, 100*small.rates[i]/large.rates[i])
	}
	goal, mark := "", ""
	if kind.judged {
		pass := median(ratios) <= mostGrowth
		b.note(kind.what, pass)
		goal, mark = fmt.Sprintf("≤ %d %%", mostGrowth), verdict(pass)
	}
	b.printf("| %s | %.0f | %.0f | %.0f %% (%.0f to %.0f) | %s | %s | %.0f %% | %s | %s "+
		"| %.0f, %.0f | %.0f, %.0f | %.0f, %.0f | %.2f, %.2f |\n",
		kind.what, median(large.rates), median(small.rates),
		median(ratios), slices.Min(ratios), slices.Max(ratios), goal, mark,
		100*large.micro(large.backend)/math.Max(small.micro(small.backend), 1),
		large.spread(), small.spread(), large.micro(large.backend), small.micro(small.backend),
		large.micro(large.gateway), small.micro(small.gateway), large.per(large.wal), small.per(small.wal),
		large.per(large.images), small.per(small.images))
}

func (c *spent) spread() string {
	slices.Sort(c.latencies)
	return fmt.Sprintf("%.2f, %.2f, %.2f", milliseconds(percentile(c.latencies, 0.5)),
		milliseconds(percentile(c.latencies, 0.95)), milliseconds(percentile(c.latencies, 0.99)))
}

// rows prints what a row occupies, and what renewals leave behind.
func (b *bench) rows(ctx context.Context, g *grown) error {
	b.table("Rows of the large database", "table", "rows", "bytes per row", "of its indexes", "dead rows",
		"heap-only updates", "VACUUM")
	for _, table := range []string{"users", "familiar_places", "sessions", "audit_events"} {
		var rows, heap, indexes, dead, updates, hot float64
		read := func() error {
			return g.conn.QueryRow(ctx, `SELECT c.reltuples::float8, pg_table_size(c.oid)::float8,
					pg_indexes_size(c.oid)::float8, s.n_dead_tup::float8, s.n_tup_upd::float8, s.n_tup_hot_upd::float8
				FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.oid = $1::text::regclass`, table).
				Scan(&rows, &heap, &indexes, &dead, &updates, &hot)
		}
		if err := read(); err != nil {
			return err
		}
		began := time.Now()
		if _, err := g.conn.Exec(ctx, "VACUUM "+table); err != nil {
			return err
		}
		took := time.Since(began)
		share := "no update"
		if updates > 0 {
			share = fmt.Sprintf("%.1f %% of %.0f", 100*hot/updates, updates)
		}
		b.printf("| %s | %.0f | %.0f | %.0f | %.0f | %s | %.1f s |\n",
			table, rows, heap/rows, indexes/rows, dead, share, took.Seconds())
	}
	return nil
}

var largeTables = []string{"users", "familiar_places", "sessions", "audit_events"}

// scans returns how often each large table was read from the beginning to the end.
func (g *grown) scans(ctx context.Context) (map[string]int, error) {
	time.Sleep(time.Second) // a process reports its statistics once a second
	counts := map[string]int{}
	rows, err := g.conn.Query(ctx,
		`SELECT relname::text, seq_scan::int FROM pg_stat_user_tables WHERE relname = ANY ($1)`, largeTables)
	if err != nil {
		return nil, err
	}
	var table string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&table, &n}, func() error {
		counts[table] = n
		return nil
	})
	return counts, err
}

// plans reports whether a statement reads a large table, after the measured requests.
func (b *bench) plans(ctx context.Context, g *grown, before map[string]int) error {
	after, err := g.scans(ctx)
	if err != nil {
		return err
	}
	b.table("Plans at the large size", "figure", "measured", "target", "", "remarks")
	sum, which := 0, []string{"in all of the above"}
	for _, table := range largeTables {
		if n := after[table] - before[table]; n > 0 {
			sum, which = sum+n, append(which, fmt.Sprintf("%s %d", table, n))
		}
	}
	b.atMost("sequential scans of large tables", float64(sum), "", 1, strings.Join(which, ", "))
	bad, looked, err := g.badPlans(ctx)
	b.atMost("statements that read a large table", float64(len(bad)), "", 1,
		fmt.Sprintf("of %d, each planned seven times, so that PostgreSQL may choose a generic plan; %s",
			looked, strings.Join(bad, ", ")))
	return err
}

// wholeTables are the statements that are meant to read a table: an export reads all accounts.
var wholeTables = []string{"ExportAccounts"}

// badPlans returns the statements that read a large table from the beginning to the end.
func (g *grown) badPlans(ctx context.Context) (bad []string, looked int, err error) {
	conn, err := pgx.Connect(ctx, g.db.DSN(g.name))
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, name := range postgres.StatementNames() {
		text, params := postgres.Statement(name)
		verb, _, _ := strings.Cut(text, " ")
		if !slices.Contains([]string{"SELECT", "WITH", "UPDATE", "INSERT", "DELETE"}, strings.TrimSpace(verb)) ||
			strings.Contains(text, "staging") || slices.Contains(wholeTables, name) {
			continue
		}
		looked++
		plan, err := g.plan(ctx, conn, text, params)
		if err != nil {
			return nil, 0, fmt.Errorf("plan of %s: %w", name, err)
		}
		for _, table := range largeTables {
			if strings.Contains(plan, "Seq Scan on "+table+" ") {
				bad = append(bad, name)
				break
			}
		}
	}
	return bad, looked, nil
}

// plan returns the plans of a statement that is prepared and planned seven times.
func (g *grown) plan(ctx context.Context, conn *pgx.Conn, text string, params []string) (string, error) {
	if _, err := conn.Exec(ctx, "PREPARE examined AS "+text); err != nil {
		return "", err
	}
	defer func() { _, _ = conn.Exec(ctx, "DEALLOCATE examined") }()
	var types []string
	const declared = "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'examined'"
	if err := conn.QueryRow(ctx, declared).Scan(&types); err != nil {
		return "", err
	}
	values := make([]string, len(params))
	for i, param := range params {
		value, found := g.example(param, types[i])
		if !found {
			return "", fmt.Errorf("the parameter %s of the type %s needs an example", param, types[i])
		}
		values[i] = "'" + value + "'"
	}
	execute := "EXPLAIN EXECUTE examined"
	if len(values) > 0 {
		execute += "(" + strings.Join(values, ", ") + ")"
	}
	var plans strings.Builder
	for range 7 {
		rows, err := conn.Query(ctx, execute, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return "", err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", err
		}
		plans.WriteString(strings.Join(lines, " \n") + " \n")
	}
	return plans.String(), nil
}

// example returns a value of a parameter: of its name, or else of its type.
func (g *grown) example(param, typ string) (string, bool) {
	middle := g.users / 2
	name := username(middle)
	now := time.Now().UTC()
	byName := map[string]string{
		"user_id": growID("u", middle), "id": growID("u", middle), "session_id": growID("s", middle),
		"username": name, "canonical_username": name,
		"email": name + "@example.com", "canonical_email": name + "@example.com",
		"event": `{"event": "signed in"}`, "address": "192.0.2.1", "kind": "sid", "metadata": "{}",
		"first": "user5", "end": "user6", "after": "user55", "batch": "500", "limit": "51", "age": "90 days",
		"created_after": "0001-01-01", "before_id": growID("u", middle), "keep": "100", "known_networks": "20",
		"password_hash": g.hash, "new_hash": g.hash, "actor": "key:ada",
	}
	if value, found := byName[param]; found && !(param == "event" && typ == "text") {
		return value, true
	}
	value, found := map[string]string{
		"uuid": growID("s", middle), "text": "example",
		"timestamp with time zone": now.Format(time.RFC3339), "date": now.Format(time.DateOnly),
		"interval": "1 day", "bytea": `\x` + strings.Repeat("ab", 32), "boolean": "true", "jsonb": "{}", "json": "{}",
		"bigint": "1000000", "integer": "50", "bigint[]": "{1}", "text[]": "{}", "inet": "192.0.2.1", "numeric": "1",
	}[typ]
	return value, found
}

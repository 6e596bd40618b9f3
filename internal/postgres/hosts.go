package postgres

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/singleflight"
)

// hosts knows which of several hosts takes writes, and how far the history of the database has come. It sees to it that
// no connection is used whose server another one has replaced.
//
// A promotion begins a new timeline, with a number that is higher than all before it. A server with a lower one than was
// seen elsewhere is a former primary. It can still take itself for the primary: it was frozen, or cut off from the
// servers that promoted another. Sessions that have ended since are alive on it, and what it writes is lost.
type hosts struct {
	limits   limits
	accepted string        // the value of TargetSessionAttrs
	share    time.Duration // how long one host may take to answer if there are several
	patience time.Duration // how long an abandoned connection may take to close
	openings chan struct{} // its size is how many connections may be opened at a time
	mute     atomic.Bool   // the servers do not report their history

	configs []*pgx.ConnConfig // one for each host
	finding singleflight.Group

	log        *slog.Logger
	quarantine time.Duration // how long a former primary is refused after the newest one has last answered

	mu     sync.Mutex
	best   int // the index of the host that takes writes; -1: unknown
	newest history
	seen   time.Time                // when a connection to it was last opened
	conns  map[*serverConn]struct{} // those in use
}

// history is how far a server has come. The zero value is that of a server that does not report it.
type history struct {
	system   string // identifies the cluster, and is kept by backups and standbys
	timeline int64
}

// precedes reports whether h belongs to a server that one with the other history has replaced.
func (h history) precedes(other history) bool {
	return h.system != "" && h.system == other.system && h.timeline < other.timeline
}

// newHosts takes the configuration of a connection, with all hosts. A process opens at most so many connections at a
// time as openings says. To open one costs PostgreSQL more than most statements do: if every replica opened all of its
// connections at once on a busy machine, none would be open in time; each would then be given up and tried again, and it
// would never end.
func newHosts(cc *pgx.ConnConfig, c Config, l limits, openings int) *hosts {
	h := &hosts{
		log: slog.New(slog.DiscardHandler), quarantine: time.Minute,
		limits: l, accepted: cmp.Or(c.TargetSessionAttrs, readWrite),
		share: cc.ConnectTimeout, patience: min(c.AcquireTimeout, time.Second), openings: make(chan struct{}, openings),
		best: -1, conns: map[*serverConn]struct{}{},
	}
	for _, host := range hostList(&cc.Config) {
		single := cc.Copy()
		useOnly(single, host)
		h.configs = append(h.configs, single)
	}
	return h
}

// hostList returns the ways to each host: with TLS, without it, or both.
func hostList(c *pgconn.Config) (list [][]*pgconn.FallbackConfig) {
	for _, way := range append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
		i := slices.IndexFunc(list, func(ways []*pgconn.FallbackConfig) bool {
			return ways[0].Host == way.Host && ways[0].Port == way.Port
		})
		if i < 0 {
			list = append(list, []*pgconn.FallbackConfig{way})
			continue
		}
		list[i] = append(list[i], way)
	}
	return list
}

// useOnly makes cc connect in these ways, in this order.
func useOnly(cc *pgx.ConnConfig, ways []*pgconn.FallbackConfig) {
	cc.Host, cc.Port, cc.TLSConfig, cc.Fallbacks = ways[0].Host, ways[0].Port, ways[0].TLSConfig, ways[1:]
}

// prepare is called before a connection of the pool is opened. It waits until one may be opened.
func (h *hosts) prepare(ctx context.Context, cc *pgx.ConnConfig) error {
	select {
	case h.openings <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	end := sync.OnceFunc(func() { <-h.openings })
	best, err := h.arrange(ctx, cc)
	if err != nil {
		end()
		return err
	}
	h.observe(cc, best, end)
	return nil
}

// single is called before a connection is opened that is not one of the pool's.
func (h *hosts) single(ctx context.Context, cc *pgx.ConnConfig) error {
	best, err := h.arrange(ctx, cc)
	if err == nil {
		h.observe(cc, best, func() {})
	}
	return err
}

// arrange makes cc connect to the host that takes writes, whose index it returns, and to the others if that fails. If it
// is unknown, all are asked at the same time, so that none that hangs delays the others.
func (h *hosts) arrange(ctx context.Context, cc *pgx.ConnConfig) (best int, err error) {
	if len(h.configs) == 1 {
		return 0, nil
	}
	h.mu.Lock()
	best = h.best
	h.mu.Unlock()
	if best < 0 {
		if best, err = h.find(ctx); err != nil {
			return best, err
		}
	}
	list := hostList(&cc.Config)
	useOnly(cc, slices.Concat(slices.Insert(slices.Delete(slices.Clone(list), best, best+1), 0, list[best])...))
	return best, nil
}

// observe makes cc check and register the server that it reaches, and call end when the connection was made, or could
// not be. The first host of cc is the one that takes writes, as far as is known. If it fails, the next connection begins
// with a search.
func (h *hosts) observe(cc *pgx.ConnConfig, first int, end func()) {
	lookup, dial := cc.LookupFunc, cc.DialFunc
	failed := func() {
		end()
		h.note(first, -1)
	}
	var opened atomic.Bool
	var firstAddress atomic.Pointer[string]
	cc.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		addresses, err := lookup(ctx, host)
		if err != nil {
			failed()
		}
		return addresses, err
	}
	cc.DialFunc = func(ctx context.Context, network, target string) (net.Conn, error) {
		if opened.Load() { // a request to cancel the statement of this connection
			return h.dialToCancel(ctx, dial, network, target)
		}
		// If admit failed, the driver cancels its statement, at the same time as it tries the next host.
		firstAddress.CompareAndSwap(nil, &target)
		conn, err := dial(ctx, network, target)
		if err != nil {
			failed()
			return nil, err
		}
		return &serverConn{Conn: conn, address: target, hosts: h, failed: failed}, nil
	}
	cc.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		report, err := h.admit(ctx, conn)
		if err != nil {
			return err
		}
		server := serverConnOf(conn)
		if err := h.register(server, report); err != nil {
			return err
		}
		conn.CustomData()[network] = server
		opened.Store(true)
		server.admitted.Store(true)
		if first != unknown && server.address == *firstAddress.Load() { // perhaps without TLS, after it was refused
			h.note(-1, first)
		}
		end()
		return nil
	}
	cc.OnNotice = func(conn *pgconn.PgConn, notice *pgconn.Notice) {
		// Its code is that of any warning, and its text is translated.
		if notice.Routine == "SyncRepWaitForLSN" {
			conn.CustomData()[unreplicated] = true
		}
	}
}

// note replaces the index of the host that takes writes, if it is the former one.
func (h *hosts) note(former, best int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.best == former {
		h.best = best
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialToCancel bounds how long a server that hangs may keep a connection that was given up in the pool.
func (h *hosts) dialToCancel(ctx context.Context, dial dialFunc, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, h.patience)
	defer cancel()
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(h.patience))
}

// The keys under which a connection records its network connection, and that a commit may not have reached a standby.
const (
	network      = "network"
	unreplicated = "unreplicated"
)

// serverConn is a connection to a server.
type serverConn struct {
	net.Conn

	address  string
	hosts    *hosts
	failed   func()
	history  history
	admitted atomic.Bool
	former   atomic.Bool // another server has replaced this one
}

// serverConnOf returns the network connection that the DialFunc of observe has opened for conn.
func serverConnOf(conn *pgconn.PgConn) *serverConn {
	c := conn.Conn()
	if encrypted, ok := c.(*tls.Conn); ok {
		c = encrypted.NetConn()
	}
	return c.(*serverConn)
}

// Close also counts a connection that was closed before it could be used as failed.
func (c *serverConn) Close() error {
	if !c.admitted.Load() {
		c.failed()
	}
	c.hosts.mu.Lock()
	delete(c.hosts.conns, c)
	c.hosts.mu.Unlock()
	return c.Conn.Close()
}

// SetDeadline bounds how long a server may take to close a connection that was given up: the driver allows it 15
// seconds, in which the connection takes a place in the pool. A server that hangs would take all places. The driver sets
// no other deadline in the future.
func (c *serverConn) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(c.hosts.patience); t.After(latest) {
		t = latest
	}
	return c.Conn.SetDeadline(t)
}

// isCurrent reports whether no server has replaced that of a connection.
func isCurrent(conn *pgx.Conn) bool {
	c, ok := conn.PgConn().CustomData()[network].(*serverConn)
	return !ok || !c.former.Load()
}

// register records the server of a connection. It refuses a former primary, unless the newest one has not answered for a
// while: the database may have been restored, or the newest server was lost with what it had. If the server has replaced
// others, their connections are closed, even those in use: their statements can be sent again, if that does no harm.
func (h *hosts) register(conn *serverConn, r report) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch former := r.history.precedes(h.newest); {
	case former && time.Since(h.seen) < h.quarantine:
		return &unfitError{why: fmt.Sprintf("%s is a former primary: it is on timeline %d, and another server was on timeline %d",
			r.at, r.history.timeline, h.newest.timeline)}
	case former:
		h.log.Warn("the newest primary does not answer, and a former one is used: changes may have been lost",
			"timeline", r.history.timeline, "newest", h.newest.timeline)
	}
	if r.history.system != "" {
		h.newest, h.seen = r.history, time.Now()
	}
	conn.history = r.history
	h.conns[conn] = struct{}{}
	closed := 0
	for other := range h.conns {
		if other.history.precedes(h.newest) {
			other.former.Store(true)
			_ = other.Conn.Close()
			delete(h.conns, other)
			closed++
		}
	}
	if closed > 0 {
		h.log.Info("connections to a former primary were closed", "connections", closed, "primary", r.at,
			"timeline", r.history.timeline)
	}
	return nil
}

// unknown is the index of a host that nothing is noted about.
const unknown = -2

// settle is how long a search waits, once it has found a host that takes writes, for others that also do.
const settle = 100 * time.Millisecond

// find asks all hosts at the same time, and returns the index of the one to use. If several take writes, that is the one
// with the longest history. Calls at the same time share one search.
func (h *hosts) find(ctx context.Context) (int, error) {
	result := h.finding.DoChan("", func() (any, error) { return h.search() }) //nolint:contextcheck // other calls wait for it too
	select {
	case r := <-result:
		best, _ := r.Val.(int)
		return best, r.Err
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

func (h *hosts) search() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), h.share)
	defer cancel()
	type answer struct {
		host    int
		history history
		err     error
	}
	answers := make(chan answer, len(h.configs))
	for i := range h.configs {
		go func() {
			found, err := h.ask(ctx, i)
			answers <- answer{i, found, err}
		}()
	}
	best, failures := answer{host: -1}, make([]error, len(h.configs))
	var enough <-chan time.Time
	for waiting := len(h.configs); waiting > 0; {
		select {
		case <-enough:
			waiting = 0
		case a := <-answers:
			waiting--
			switch {
			case a.err != nil:
				failures[a.host] = a.err
			case best.host < 0, best.history.precedes(a.history):
				best = a
			}
		}
		if best.host >= 0 && enough == nil {
			enough = time.After(settle)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.best = best.host
	if best.host < 0 {
		return -1, &unreachedError{slices.DeleteFunc(failures, func(err error) bool { return err == nil })}
	}
	return best.host, nil
}

// ask connects to one host, and closes the connection.
func (h *hosts) ask(ctx context.Context, host int) (history, error) {
	cc := h.configs[host].Copy()
	h.observe(cc, unknown, func() {})
	conn, err := pgconn.ConnectConfig(ctx, &cc.Config)
	if err != nil {
		return history{}, err
	}
	server, _ := conn.CustomData()[network].(*serverConn)
	closing, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	_ = conn.Close(closing)
	return server.history, nil
}

// unreachedError is the error of a search that found no host to use.
type unreachedError struct{ failures []error } // of the hosts

func (e *unreachedError) Error() string {
	return "no host takes writes: " + errors.Join(e.failures...).Error()
}
func (e *unreachedError) Unwrap() []error { return e.failures }

// The values of TargetSessionAttrs that restrict the servers.
const (
	readWrite = "read-write"
	primary   = "primary"
)

// report is what a new connection has found out about its server.
type report struct {
	at      string // its address
	history history
}

// Columns of the query of admit. The functions of the history are missing in some services that offer PostgreSQL.
const (
	historyColumns = `, CASE WHEN NOT pg_is_in_recovery() THEN (SELECT system_identifier FROM pg_control_system()) END,
		CASE WHEN NOT pg_is_in_recovery() THEN
			('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END`
	noHistory = `, NULL, NULL`
)

// admit checks a new connection before it is used, in one round trip.
//
// It refuses a server that takes no writes, so that the next of several hosts is tried,
// and a database whose encoding is not UTF-8.
//
// Without a pooler, it sets the limits for the lifetime of the connection. A pooler is recognized by the process number
// of the server: a pooler makes up one for each client, because it has to find out whose statement a client cancels.
// The settings of a pooler's connections belong to all its clients; see Store.begin.
func (h *hosts) admit(ctx context.Context, conn *pgconn.PgConn) (report, error) {
	query := func(extra string) ([]*pgconn.Result, error) {
		return conn.Exec(ctx, fmt.Sprintf(`
			SELECT direct, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
				current_setting('server_encoding'), current_database(),
				CASE WHEN direct THEN concat(
					set_config('statement_timeout', '%s', false),
					set_config('lock_timeout', '%s', false),
					set_config('idle_in_transaction_session_timeout', '%s', false),
					set_config('default_transaction_isolation', 'read committed', false)) END%s
			FROM (SELECT pg_backend_pid() = %d AS direct) process`,
			milliseconds(h.limits.statement), milliseconds(h.limits.lock), milliseconds(h.limits.idle), extra, conn.PID())).ReadAll()
	}
	extra := historyColumns
	if h.mute.Load() {
		extra = noHistory
	}
	results, err := query(extra)
	// 42: there is no such function, or not for this user. 0A: it is not supported.
	if code := sqlState(err); extra == historyColumns && len(code) == 5 && (code[:2] == "42" || code[:2] == "0A") {
		h.mute.Store(true)
		results, err = query(noHistory)
	}
	if err != nil {
		return report{}, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 8 {
		return report{}, errors.New("the server is not PostgreSQL")
	}
	row := results[0].Rows[0]
	is := func(column int) bool { return string(row[column]) == "t" }
	r := report{at: conn.Conn().RemoteAddr().String()}
	switch {
	case is(1) && (h.accepted == readWrite || h.accepted == primary):
		return report{}, &unfitError{why: r.at + " is a standby, which takes no writes"}
	case is(2) && h.accepted == readWrite:
		return report{}, &unfitError{why: r.at + " is read-only: default_transaction_read_only is on there"}
	case string(row[3]) != "UTF8":
		return report{}, &unfitError{permanent: true, why: fmt.Sprintf("the encoding of the database %q is %s, which damages names: "+
			"create a database with ENCODING 'UTF8' TEMPLATE template0, and set DB_NAME to it", row[4], row[3])}
	}
	if !is(0) {
		conn.CustomData()[pooled] = true
	}
	if timeline, err := strconv.ParseInt(string(row[7]), 10, 64); err == nil {
		r.history = history{system: string(row[6]), timeline: timeline}
	}
	return r, nil
}

// unfitError is the error of a server that answers but cannot be used.
type unfitError struct {
	why       string
	permanent bool // waiting does not help
}

func (e *unfitError) Error() string { return e.why }

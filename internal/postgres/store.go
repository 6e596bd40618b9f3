package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Config configures a Store: where the database is, and how much one process may use it.
type Config struct {
	Host        string // or several, separated by commas: the first that takes writes is used
	Port        int
	Ports       []int // one for each of several hosts; empty: Port for all
	User        string
	Password    string
	Database    string
	SSLMode     string // as libpq has them; empty: prefer
	SSLRootCert string // a file; empty: the system's

	// TargetSessionAttrs is which server a connection is accepted from: "read-write", "primary" or "any", with libpq's
	// meanings. Empty: "read-write".
	TargetSessionAttrs string

	MaxConns         int           // 0: 10
	MinIdleConns     int           // how many unused ones are kept
	AcquireTimeout   time.Duration // how long a call waits for a connection; 0: 2 s
	StatementTimeout time.Duration // how long a statement may take; 0: 5 s
}

// Store is an identity.Store, and the home of the key ring, on PostgreSQL. Its methods are safe for concurrent use.
type Store struct {
	pool           *pgxpool.Pool
	hosts          *hosts
	trace          *tracer
	log            *slog.Logger
	acquireTimeout time.Duration
	callTimeout    time.Duration
	tries          int
	lastReset      atomic.Int64 // Unix nanoseconds
	answers        atomic.Int64 // how often PostgreSQL has answered a statement
	gaveUp         atomic.Int64 // calls that got no connection in time
	limits         limits
	hidden         atomic.Bool    // a pooler was detected late; see isPooled
	bulk           chan *pgx.Conn // unused ones of imports and exports
}

var _ identity.Store = (*Store)(nil)

// An Option changes how a Store works.
type Option func(*options)

type options struct {
	log         *slog.Logger
	onStatement func(ctx context.Context, sql string)
	onConfig    func(*pgxpool.Config)
}

// WithLogger sets the logger of warnings. Without it they are discarded.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithStatementHook calls f before each statement is sent, including BEGIN and COMMIT, so that tests can count them. The
// context shows whose statement it is.
func WithStatementHook(f func(ctx context.Context, sql string)) Option {
	return func(o *options) { o.onStatement = f }
}

// Open prepares a Store without connecting: the database may be unavailable when a server
// starts. Only invalid settings make it fail.
func Open(c Config, opts ...Option) (*Store, error) {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, option := range opts {
		option(&o)
	}
	if c.SSLMode == "" {
		c.SSLMode = "prefer"
	}
	if c.MaxConns == 0 {
		c.MaxConns = 10
	}
	if c.AcquireTimeout == 0 {
		c.AcquireTimeout = 2 * time.Second
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = 5 * time.Second
	}
	l := limits{
		statement: c.StatementTimeout, lock: c.StatementTimeout / 2, idle: c.AcquireTimeout + c.StatementTimeout,
	}
	pc, hosts, err := poolConfig(c, l)
	if err != nil {
		return nil, err
	}
	hosts.log = o.log
	trace := &tracer{onStatement: o.onStatement}
	pc.ConnConfig.Tracer = trace
	if o.onConfig != nil {
		o.onConfig(pc)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return &Store{
		pool:           pool,
		hosts:          hosts,
		trace:          trace,
		log:            o.log,
		acquireTimeout: c.AcquireTimeout,
		callTimeout:    c.AcquireTimeout + c.StatementTimeout,
		// The pool holds at most MaxConns dead connections, and closes each when it is released.
		tries:  c.MaxConns + 1,
		bulk:   make(chan *pgx.Conn, 2), // an import stages a batch while another one is stored
		limits: l,
	}, nil
}

// idleCheck is how often the pool replaces unused connections that were taken or lost, if some are to be kept.
const idleCheck = time.Second

// poolConfig builds the driver's configuration. The driver only takes a string, which
// contains the password: neither the string nor an error that quotes it is returned.
func poolConfig(c Config, l limits) (*pgxpool.Config, *hosts, error) {
	ports := strconv.Itoa(c.Port)
	if len(c.Ports) > 0 {
		ports = strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Ports), " ", ","), "[]")
	}
	settings := []string{
		setting("host", c.Host),
		setting("port", ports),
		setting("user", c.User),
		setting("password", c.Password),
		setting("dbname", c.Database),
		setting("sslmode", c.SSLMode),
	}
	if c.SSLRootCert != "" {
		settings = append(settings, setting("sslrootcert", c.SSLRootCert))
	}
	pc, err := pgxpool.ParseConfig(strings.Join(settings, " "))
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			return nil, nil, fmt.Errorf("postgres: connection settings: %w%s", cause, libpqAdvice(os.Environ()))
		}
		return nil, nil, errors.New("postgres: connection settings are malformed")
	}
	pc.MaxConns = int32(min(c.MaxConns, 1<<15))
	pc.MaxConnLifetimeJitter = 5 * time.Minute // so that they are not all replaced at once
	pc.PingTimeout = c.AcquireTimeout
	pc.MinIdleConns = int32(min(c.MinIdleConns, c.MaxConns))
	if c.MinIdleConns > 0 {
		pc.HealthCheckPeriod = idleCheck
	}

	cc := pc.ConnConfig
	// A host that does not answer leaves time for the next one.
	share := c.AcquireTimeout / time.Duration(strings.Count(c.Host, ",")+1)
	cc.ConnectTimeout, cc.DialFunc = share, (&net.Dialer{Timeout: share}).DialContext
	if share == c.AcquireTimeout {
		// If there is no other host, a busy one has longer: the call that waited for the connection fails, and the next
		// one finds it open.
		cc.ConnectTimeout *= 2
	}
	cc.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	// No other parameters: PgBouncer refuses unknown ones.
	cc.RuntimeParams["application_name"] = "authserver"
	cc.RuntimeParams["client_encoding"] = "UTF8"
	h := newHosts(cc, c, l, max(2, c.MaxConns/4))
	pc.BeforeConnect = h.prepare
	pc.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) { return isCurrent(conn), nil }
	pc.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name:  "timestamptz",
			OID:   pgtype.TimestamptzOID,
			Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		return nil
	}
	return pc, h, nil
}

// libpqAdvice names the variables of libpq in an environment, because the driver also reads them, and its errors do not
// say so.
func libpqAdvice(environ []string) string {
	var names []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		// The settings have precedence over the others.
		if strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PG_") &&
			!slices.Contains([]string{"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE"}, name) {
			names = append(names, name)
		}
	}
	if names == nil {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf(" (the driver also reads %s from the environment: unset what is meant for other programs)",
		strings.Join(names, ", "))
}

func setting(name, value string) string {
	return name + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// Close waits for the calls under way, and closes the connections.
func (s *Store) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for len(s.bulk) > 0 {
		_ = (<-s.bulk).Close(ctx)
	}
	s.pool.Close()
}

// Stats are the numbers of the pool.
type Stats struct {
	Max      int           // connections that there may be
	Acquired int           // in use
	Idle     int           // ready to be used
	Waits    int64         // calls that had to wait for a connection, since the start
	Waited   time.Duration // how long they waited, all together
	GaveUp   int64         // calls that got none in time
}

// Stats reads the numbers of the pool.
func (s *Store) Stats() Stats {
	st := s.pool.Stat()
	return Stats{
		Max:      int(st.MaxConns()),
		Acquired: int(st.AcquiredConns()),
		Idle:     int(st.IdleConns()),
		Waits:    st.EmptyAcquireCount(),
		Waited:   st.EmptyAcquireWaitTime(),
		GaveUp:   s.gaveUp.Load(), // the pool also counts those that ask again
	}
}

// MaxConnections reads how many connections PostgreSQL gives to all users together that have no special rights.
func (s *Store) MaxConnections(ctx context.Context) (most int, err error) {
	err = s.queryRow(ctx, repeatable, named("MaxConnections"), nil, &most)
	return most, err
}

// tracer is called by the driver (a pgx.QueryTracer and pgx.ConnectTracer).
type tracer struct {
	onStatement func(ctx context.Context, sql string) // may be nil
	failed      atomic.Pointer[failedOpening]
}

// failedOpening is a connection that could not be opened.
type failedOpening struct {
	at  time.Time
	err error
}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if t.onStatement != nil {
		t.onStatement(ctx, data.SQL)
	}
	return beginSpan(ctx, data.SQL)
}

func (*tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	endSpan(ctx, data.Err)
}

func (*tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (t *tracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if data.Err != nil && !isTimeout(data.Err) {
		t.failed.Store(&failedOpening{time.Now(), data.Err})
	}
}

// failure returns why a connection could not be opened within the last d, or nil. A timeout is no reason.
func (t *tracer) failure(d time.Duration) error {
	if f := t.failed.Load(); f != nil && time.Since(f.at) < d {
		return f.err
	}
	return nil
}

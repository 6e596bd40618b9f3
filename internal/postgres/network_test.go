package postgres_test

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// network is a proxy between a Store and PostgreSQL that can simulate faults.
type network struct {
	listener net.Listener
	frozen   atomic.Bool  // holds back answers, with the connections open
	lose     atomic.Int64 // counts down: the answer that reaches 0 is lost, with its connection
	slow     atomic.Int64 // how long a new connection waits before it reaches PostgreSQL, in nanoseconds
	opened   atomic.Int64 // connections of clients
	opening  atomic.Int64 // connections that wait now
	most     atomic.Int64 // how many have waited at a time

	mu     sync.Mutex
	target string
	conns  []net.Conn
}

// through starts a network in front of the database of c, and returns the settings that connect through it.
func through(t *testing.T, c postgres.Config) (*network, postgres.Config) {
	t.Helper()
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	n := &network{listener: l, target: net.JoinHostPort(c.Host, strconv.Itoa(c.Port))}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			n.opened.Add(1)
			group.Go(func() { n.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		n.drop()
		group.Wait()
	})
	c.Port = l.Addr().(*net.TCPAddr).Port
	return n, c
}

func (n *network) serve(client net.Conn) {
	defer client.Close()
	if slow := time.Duration(n.slow.Load()); slow > 0 {
		now := n.opening.Add(1)
		for most := n.most.Load(); most < now && !n.most.CompareAndSwap(most, now); most = n.most.Load() {
		}
		time.Sleep(slow)
		n.opening.Add(-1)
	}
	n.mu.Lock()
	target := n.target
	n.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	n.mu.Lock()
	n.conns = append(n.conns, client, server)
	n.mu.Unlock()
	var group sync.WaitGroup
	group.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	n.answer(client, server)
	_ = client.Close()
	group.Wait()
}

// answer forwards the answers of PostgreSQL to the client, until one is to be lost.
func (n *network) answer(client, server net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		size, err := server.Read(buffer)
		if err != nil || n.lose.Load() > 0 && n.lose.Add(-1) == 0 {
			return
		}
		for n.frozen.Load() {
			time.Sleep(time.Millisecond)
		}
		if _, err := client.Write(buffer[:size]); err != nil {
			return
		}
	}
}

// turn closes all connections, and directs new ones to target.
func (n *network) turn(target string) {
	n.redirect(target)
	n.drop()
}

// redirect directs new connections to target.
func (n *network) redirect(target string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.target = target
}

// drop closes all connections.
func (n *network) drop() {
	n.frozen.Store(false)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

func TestUnavailableNetworkIsReportedInBoundedTime(t *testing.T) {
	t.Parallel()
	direct := postgrestest.Config(t)
	n, c := through(t, direct)
	c.MaxConns, c.AcquireTimeout, c.StatementTimeout = 2, 200*time.Millisecond, 300*time.Millisecond
	patient, store := postgrestest.Open(t, direct), postgrestest.Open(t, c)
	u := signUp(t, patient, "ada")
	ref := open(t, patient, u, time.Now())
	testenv.Until(t, patience, "the pool has a connection", func() bool { return testenv.Err(store.FindUser(t.Context(), ref)) == nil })
	n.frozen.Store(true)
	for range 4 { // the existing connections, and new ones
		unavailable(t, 2*time.Second, "no answer", func() error { return testenv.Err(store.FindUser(t.Context(), ref)) })
	}
	unavailable(t, 2*time.Second, "no answer", func() error {
		return store.ChangePassword(t.Context(), ref, passwordHash,
			otherHash, noRecord)
	})
	n.drop()
	testenv.Until(t, patience, "the pool has recovered", func() bool {
		_, err := store.FindUser(t.Context(), ref)
		return err == nil
	})
}

// A busy PostgreSQL opens connections too slowly, but answers over those that are open. If they were closed then, it
// would have even more to do, and no call would succeed until the load ends.
func TestConnectionsThatOpenTooSlowlyCostNoCall(t *testing.T) {
	t.Parallel()
	n, c := through(t, postgrestest.Config(t))
	c.MaxConns, c.AcquireTimeout, c.StatementTimeout = 10, time.Second, 10*time.Second
	store := postgrestest.Open(t, c)
	ref := open(t, store, signUp(t, store, "ada"), time.Now())
	n.slow.Store(int64(3 * c.AcquireTimeout / 2))
	opened := n.opened.Load()
	var group sync.WaitGroup
	const callers, calls = 20, 100
	for range callers {
		group.Go(func() {
			for range calls {
				if _, err := store.FindUser(t.Context(), ref); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if n.opened.Load() == opened {
		t.Error("no connection was opened")
	}
	if most := n.most.Load(); most > 2*2 { // the proxy learns late that the client has given up
		t.Errorf("%d connections were being opened at a time", most)
	}

	testenv.Until(t, patience, "the pool grows nevertheless", func() bool {
		for range callers {
			group.Go(func() { _, _ = store.FindUser(t.Context(), ref) })
		}
		group.Wait()
		return store.Stats().Idle > 2
	})
}

// After a restart, a busy PostgreSQL needs longer for each new connection than a call waits. A connection that is opened
// late must stay: if the calls that gave up closed it, no call would ever succeed while calls come in.
func TestConnectionsThatOpenLateAreKept(t *testing.T) {
	t.Parallel()
	n, c := through(t, postgrestest.Config(t))
	c.MaxConns, c.AcquireTimeout, c.StatementTimeout = 10, time.Second, 10*time.Second
	store := postgrestest.Open(t, c)
	ref := open(t, store, signUp(t, store, "ada"), time.Now())
	n.slow.Store(int64(5 * c.AcquireTimeout / 4))
	n.drop()
	end := time.Now().Add(patience)
	var group sync.WaitGroup
	for range 2 * c.MaxConns {
		group.Go(func() {
			for {
				_, err := store.FindUser(t.Context(), ref)
				if err == nil {
					return
				}
				if time.Now().After(end) {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestWriteWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	n, c := through(t, postgrestest.Config(t))
	c.MaxConns = 1
	var sent statements
	store := postgrestest.Open(t, c, postgres.WithStatementHook(sent.add))
	now := time.Now().UTC().Truncate(time.Second)
	u := signUp(t, store, "ada")
	renewal := identity.Renewal{RefreshedAt: now, Lifetime: time.Hour}
	// A connection prepares each statement at first use, and the answers to that would be
	// counted. Each statement is therefore sent once beforehand.
	prepared := func(lose int64) identity.SessionRef {
		t.Helper()
		ref := open(t, store, u, now)
		_, _, advancing := store.AdvanceSession(t.Context(), ref, -1, renewal)
		_, ending := store.EndSession(t.Context(), open(t, store, u, now), noEvent)
		changing := store.ChangePassword(t.Context(), ref, passwordHash, passwordHash, noRecord)
		testenv.NoError(t, errors.Join(advancing, ending, changing))
		sent.take()
		n.lose.Store(lose)
		return ref
	}

	t.Run("a sign-in is reported as failed, and not done again", func(t *testing.T) {
		prepared(1)
		unavailable(t, time.Second, "lost", func() error { return store.OpenSession(t.Context(), newSession(u, now), noEvent) })
		if got := sent.take(); len(got) != 1 {
			t.Errorf("%d statements were sent; want 1", len(got))
		}
	})
	t.Run("a renewal is done once, and reported as done by someone else", func(t *testing.T) {
		ref := prepared(1)
		_, advanced, err := store.AdvanceSession(t.Context(), ref, 0, renewal)
		if advanced || err != nil {
			t.Errorf("advanced is %v, error %v", advanced, err)
		}
		session, err := store.FindSession(t.Context(), ref)
		if err != nil || session.Generation != 1 {
			t.Errorf("generation is %d, error %v", session.Generation, err)
		}
	})
	t.Run("a sign-out is done", func(t *testing.T) {
		ref := prepared(1)
		if _, err := store.EndSession(t.Context(), ref, noEvent); err != nil {
			t.Error(err)
		}
	})
	t.Run("a transaction that had not begun to commit is done again", func(t *testing.T) {
		for answer := range int64(4) { // BEGIN, lock, look, act
			ref := prepared(answer + 1)
			if err := store.ChangePassword(t.Context(), ref, passwordHash, passwordHash, noRecord); err != nil {
				t.Errorf("answer %d was lost: %v", answer+1, err)
			}
		}
	})
	t.Run("a commit is reported as failed, and not done again", func(t *testing.T) {
		ref := prepared(5)
		unavailable(t, time.Second, "lost", func() error { return store.ChangePassword(t.Context(), ref, passwordHash, otherHash, noRecord) })
		if got := sent.take(); len(got) != 5 {
			t.Errorf("%d statements were sent; want 5:\n%s", len(got), strings.Join(got, "\n"))
		}
		testenv.Until(t, patience, "the commit takes effect", func() bool {
			credentials, err := store.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "ada"})
			return err == nil && credentials.PasswordHash == otherHash
		})
	})
}

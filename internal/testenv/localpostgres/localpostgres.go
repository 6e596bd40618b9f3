// Package localpostgres runs a private PostgreSQL for `make run` and for
// tests: it finds the server's programs on the machine, or gets them, makes a
// cluster in a folder and starts it on a free port of the loopback interface.
//
// The server is a child of this process and dies with it. As root, which
// PostgreSQL refuses to run as, it runs as the user postgres or nobody.
package localpostgres

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/lib/pq"
)

const (
	superuser = "postgres"
	loopback  = "127.0.0.1"
)

// Options say what to start; the zero value is an instance for a test.
type Options struct {
	// Dir holds the cluster, and is made where it is missing. Empty: a folder
	// among the temporary ones, which Stop removes.
	Dir string
	// Durable keeps what is committed when the machine loses power. Without
	// it nothing waits for the disk, which a test does not need: a commit
	// outlives StopNow either way.
	Durable bool
	// Settings are PostgreSQL's own, and win over those of this package.
	Settings map[string]string
	// Log gets the server's log; nil drops it. Its end is in the error anyway
	// when a start fails.
	Log io.Writer
	// Port to listen on; 0 takes a free one.
	Port int
}

// Server is a PostgreSQL that runs, or that was stopped and can be started
// again.
type Server struct {
	options   Options
	programs  string
	account   *account
	dir       string
	temporary bool
	password  string
	port      int
	lock      *os.File
	log       *tail

	mu      sync.Mutex
	process *process // nil while stopped
}

// Start finds PostgreSQL's programs (or gets them), makes a cluster in
// o.Dir if there is none, and starts it. The server outlives ctx, which bounds
// the start alone.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	// Getting them takes a minute or more, which a person should see.
	programs, err := Programs(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, programs: programs, dir: o.Dir, log: &tail{next: o.Log}}
	// Only now: installing the programs may have made the account.
	if s.account, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.dir == "" {
		removeAbandoned()
		if s.dir, err = os.MkdirTemp("", temporaryPrefix); err != nil {
			return nil, err
		}
		s.temporary = true
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.startOnSomePort(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// startOnSomePort tries a few free ports: between asking for one and taking
// it, another process may.
func (s *Server) startOnSomePort(ctx context.Context) error {
	const tries = 5
	for try := 1; ; try++ {
		s.port = s.options.Port
		if s.port == 0 {
			port, err := freePort(ctx)
			if err != nil {
				return err
			}
			s.port = port
		}
		err := s.StartAgain(ctx)
		if err == nil || s.options.Port != 0 || try == tries || !bytes.Contains(s.log.Bytes(), []byte("could not bind")) {
			return err
		}
		s.log.Reset()
	}
}

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback+":0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// StartAgain starts a stopped server on the port that it had.
func (s *Server) StartAgain(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && !s.process.exited() {
		return errors.New("PostgreSQL is running already")
	}
	if err := s.waitForPredecessor(ctx); err != nil {
		return err
	}
	p, err := s.launch()
	if err != nil {
		return err
	}
	if err := s.waitUntilReady(ctx, p); err != nil {
		return errors.Join(err, p.stop(quickly))
	}
	s.process = p
	return nil
}

// waitUntilReady asks until PostgreSQL lets a client in. The intervals are
// short, since a start takes a few of them.
func (s *Server) waitUntilReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := s.execute(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("PostgreSQL ended while it started (%w). The end of its log:\n%s", p.err, s.log.Bytes())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not get ready: %w (%w). The end of its log:\n%s", err, ctx.Err(), s.log.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// execute runs one statement through lib/pq, which embedded-postgres brings
// along; the programs that it fetches have no psql.
func (s *Server) execute(ctx context.Context, statement string) (err error) {
	connector, err := pq.NewConnector(s.DSN("postgres"))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// CreateDatabase makes an empty database, unless it is there.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	err := s.execute(ctx, "CREATE DATABASE "+pq.QuoteIdentifier(name))
	if failure := (*pq.Error)(nil); errors.As(err, &failure) && failure.Code.Name() == "duplicate_database" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Host is the address that the server listens on.
func (s *Server) Host() string { return loopback }

// Port is where the server listens, from start to start.
func (s *Server) Port() int { return s.port }

// User is the superuser of the cluster.
func (s *Server) User() string { return superuser }

// Password is the superuser's.
func (s *Server) Password() string { return s.password }

// DSN is the URL of a database, which does not have to be there yet.
func (s *Server) DSN(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(s.User(), s.password),
		Host:     net.JoinHostPort(s.Host(), strconv.Itoa(s.port)),
		Path:     database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Done is closed when the server that runs now has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return s.process.done
}

// Stop ends the server: clients are cut off, what they committed is kept. A
// temporary folder is removed; a server in one cannot be started again.
func (s *Server) Stop() error {
	return errors.Join(s.halt(fast), s.release())
}

// StopNow ends the server as a crash would: the next start recovers.
func (s *Server) StopNow() error { return s.halt(quickly) }

// Restart stops the server fast and starts it on the same port.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.halt(fast); err != nil {
		return err
	}
	return s.StartAgain(ctx)
}

func (s *Server) halt(how manner) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	err := s.process.stop(how)
	s.process = nil
	return err
}

// release gives the folder to the next one, or away.
func (s *Server) release() error {
	var err error
	if s.temporary {
		err = os.RemoveAll(s.dir)
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

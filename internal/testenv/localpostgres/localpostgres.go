// Package localpostgres runs a private PostgreSQL for `make run` and for tests. It finds, installs or downloads the
// programs, creates a cluster in a folder, and starts it on a free port of the loopback interface.
//
// The server is a child of this process and dies with it. PostgreSQL does not run as root, so if this process is root,
// the server runs as the user "postgres" or "nobody".
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
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/auth-gateway/auth-gateway/internal/testenv/freeport"
)

const (
	superuser = "postgres"
	loopback  = "127.0.0.1"
)

// Options configure a server. The zero value is for a test.
type Options struct {
	// Dir is the folder of the cluster, which is created if it is missing. If it is empty, a temporary folder is used,
	// and Stop removes it.
	Dir string
	// Durable syncs commits to disk, so they survive a power failure. Tests do not need that. Commits survive StopNow
	// in both cases.
	Durable bool
	// Settings override the PostgreSQL settings of this package.
	Settings map[string]string
	// Log receives the server's log. If it is nil, the log is dropped, but the error of a failed start has its end.
	Log io.Writer
	// Port is the port to listen on; 0 selects a free one.
	Port int
}

// Server is a PostgreSQL server that runs, or that can be started again.
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
	process *process // nil if it is stopped
}

// Start finds PostgreSQL's programs or installs them, creates a cluster in o.Dir if there is none, and starts it. ctx
// limits only the start, not the life of the server.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	// Installing takes a minute or more, so the user should see it.
	programs, err := Programs(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, programs: programs, dir: o.Dir, log: &tail{next: o.Log}}
	// The installation may have created the account.
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

// startOnSomePort tries several free ports, because another process can take one before PostgreSQL does.
func (s *Server) startOnSomePort(ctx context.Context) error {
	const tries = 5
	for try := 1; ; try++ {
		s.port = s.options.Port
		if s.port == 0 {
			port, err := freeport.Choose(ctx)
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

// StartAgain starts a stopped server on the same port.
func (s *Server) StartAgain(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && !s.process.exited() {
		return errors.New("PostgreSQL is already running")
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

// waitUntilReady waits until PostgreSQL accepts clients. It polls often, because a start is short.
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
			return fmt.Errorf("PostgreSQL did not become ready: %w (%w). The end of its log:\n%s", err, ctx.Err(), s.log.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// execute runs a statement through lib/pq, which embedded-postgres requires anyway. The downloaded programs have no
// psql.
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

// CreateDatabase creates an empty database if it does not exist.
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

// Host returns the address that the server listens on.
func (s *Server) Host() string { return loopback }

// Port returns the port, which a restart does not change.
func (s *Server) Port() int { return s.port }

// User returns the name of the cluster's superuser.
func (s *Server) User() string { return superuser }

// Password returns the superuser's password.
func (s *Server) Password() string { return s.password }

// Major returns the major version of PostgreSQL, or 0 if it cannot be read.
func (s *Server) Major() int {
	text, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return major
}

// DSN returns the URL of a database, which need not exist yet.
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

// Done returns a channel that is closed when the running server has ended for any reason.
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

// Stop stops the server. Clients are disconnected; what they committed is kept. A temporary folder is removed, and its
// server cannot be started again.
func (s *Server) Stop() error {
	return errors.Join(s.halt(fast), s.release())
}

// StopNow stops the server like a crash: the next start recovers.
func (s *Server) StopNow() error { return s.halt(quickly) }

// Restart stops the server and starts it on the same port.
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

// release unlocks the folder, or removes a temporary one.
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

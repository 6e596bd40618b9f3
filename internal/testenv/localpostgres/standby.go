package localpostgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ErrNoBaseBackup is wrapped if the machine has no pg_basebackup, which is part of PostgreSQL's client programs.
var ErrNoBaseBackup = exec.ErrNotFound

// Standby copies a running server to a temporary folder and starts the copy as a hot standby, which follows by
// streaming replication until it is promoted.
func (s *Server) Standby(ctx context.Context) (_ *Server, err error) {
	program := filepath.Join(s.programs, "pg_basebackup")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%s: %w", program, ErrNoBaseBackup)
	}
	standby := &Server{options: s.options, programs: s.programs, account: s.account, password: s.password,
		temporary: true, log: &tail{next: s.options.Log}}
	standby.options.Port = 0
	if standby.dir, err = os.MkdirTemp("", temporaryPrefix); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = standby.release()
		}
	}()
	if err := os.Chmod(standby.dir, 0o711); err != nil {
		return nil, err
	}
	if standby.lock, err = lockFolder(standby.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(standby.data(), 0o700); err != nil {
		return nil, err
	}
	if err := s.account.own(standby.data()); err != nil {
		return nil, err
	}
	backup := standby.command(ctx, "pg_basebackup", "--pgdata="+standby.data(), "--host="+s.Host(), "--port="+strconv.Itoa(s.port),
		"--username="+superuser, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	backup.Env = append(backup.Env, "PGPASSWORD="+s.password)
	if out, err := backup.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the server at port %d: %w\n%s", s.port, err, out)
	}
	err = standby.startOnSomePort(ctx)
	return standby, err
}

// Promote turns a standby into a primary, and returns when it accepts writes.
func (s *Server) Promote(ctx context.Context) error {
	return s.execute(ctx, "SELECT pg_promote(true, 60)")
}

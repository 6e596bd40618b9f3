package localpostgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// temporaryPrefix is the prefix of the folders of test clusters.
const temporaryPrefix = "authgateway-postgres-"

// lockName is a file that is locked while a folder is in use. The system releases the lock when its holder dies.
const lockName = "lock"

// prepare locks the folder for this process, and creates the cluster in it.
func (s *Server) prepare(ctx context.Context) error {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	s.dir = dir
	// Others can enter, because the owner of the data is not root, but cannot read anything.
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return err
	}
	if s.account != nil {
		if err := os.Chmod(s.dir, 0o711); err != nil {
			return err
		}
	}
	if s.lock, err = lockFolder(s.dir); err != nil {
		return fmt.Errorf("%s is in use by another process, such as a second `make run`: stop that one first (%w)", s.dir, err)
	}
	version, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.initialize(ctx)
	case err != nil:
		return err
	}
	if err := s.checkVersion(ctx, strings.TrimSpace(string(version))); err != nil {
		return err
	}
	password, err := os.ReadFile(s.passwordFile())
	if err != nil {
		return fmt.Errorf("the password of the cluster is missing: delete %s to start from scratch: %w", s.dir, err)
	}
	s.password = string(password)
	return s.account.own(s.data())
}

// lockFolder returns an error if another process holds the lock.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeAbandoned removes the folders of tests that were killed.
func removeAbandoned() {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	for _, dir := range folders {
		info, err := os.Stat(dir)
		// A new folder may not be locked yet.
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := lockFolder(dir); err == nil {
			// Another user's folder stays; that is no error.
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

func (s *Server) passwordFile() string { return filepath.Join(s.dir, "password") }

// initialize creates the cluster in a temporary folder and renames it when it is complete, so an interrupted start
// leaves no partial cluster.
func (s *Server) initialize(ctx context.Context) (err error) {
	s.password = rand.Text()
	if err := os.WriteFile(s.passwordFile(), []byte(s.password), 0o600); err != nil {
		return err
	}
	unfinished := s.data() + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return err
	}
	// initdb runs as the account, which cannot read our file.
	handover := filepath.Join(s.dir, "password.initdb")
	if err := os.WriteFile(handover, []byte(s.password), 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(handover)) }()
	for _, path := range []string{unfinished, handover} {
		if err := s.account.own(path); err != nil {
			return err
		}
	}
	initdb := s.command(ctx, "initdb",
		"--pgdata="+unfinished,
		"--username="+superuser,
		"--pwfile="+handover,
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=C", // every system has it
		"--no-sync",  // the cluster is still empty
	)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("create a cluster in %s: %w\n%s", s.dir, err, out)
	}
	return os.Rename(unfinished, s.data())
}

// checkVersion explains what to do if the programs and the cluster have different major versions. PostgreSQL's own
// message says less.
func (s *Server) checkVersion(ctx context.Context, cluster string) error {
	out, err := s.command(ctx, "postgres", "--version").Output()
	if err != nil {
		return fmt.Errorf("%s does not run: %w", filepath.Join(s.programs, "postgres"), err)
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	for _, word := range strings.Fields(string(out)) {
		if word == cluster || strings.HasPrefix(word, cluster+".") || strings.HasPrefix(word, cluster+"beta") ||
			strings.HasPrefix(word, cluster+"rc") {
			return nil
		}
	}
	return fmt.Errorf("%s was created by PostgreSQL %s, and %s has %s: "+
		"set %s to the folder of that version's programs, or delete %s to start from scratch",
		s.dir, cluster, s.programs, strings.TrimSpace(string(out)), binDirVariable, s.dir)
}

// arguments returns the arguments of postgres.
func (s *Server) arguments() []string {
	settings := map[string]string{
		"listen_addresses": loopback,
		"port":             strconv.Itoa(s.port),
		// The path of a socket is limited to 107 bytes, and a checkout's may be longer. So TCP is used.
		"unix_socket_directories": "",
		"logging_collector":       "off",
		"log_checkpoints":         "off",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
	}
	if !s.options.Durable {
		// synchronous_commit stays on: without fsync it costs almost nothing, and what was committed before StopNow is
		// kept.
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["max_connections"] = "200" // tests run in parallel
	}
	for name, value := range s.options.Settings {
		settings[name] = value
	}
	arguments := []string{"-D", s.data()}
	for name, value := range settings {
		arguments = append(arguments, "-c", name+"="+value)
	}
	return arguments
}

// waitForPredecessor handles the postmaster.pid of an earlier run. If its server still lives, its parent was killed and
// it is about to end. If the process id now belongs to another process, which is common in a container, PostgreSQL
// would refuse to start, so the file is deleted.
func (s *Server) waitForPredecessor(ctx context.Context) error {
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	deadline := time.Now().Add(30 * time.Second)
	for {
		content, err := os.ReadFile(pidFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(content), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		if err != nil || !s.isPostmaster(pid) {
			return os.Remove(pidFile)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another PostgreSQL, process %d, is running in %s: stop it first", pid, s.data())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

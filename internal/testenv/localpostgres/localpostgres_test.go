package localpostgres

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s := testenv.Must(Start(t.Context(), o))(t)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t *testing.T, s *Server, database string) *sql.DB {
	t.Helper()
	db := testenv.Must(sql.Open("postgres", s.DSN(database)))(t)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func setting(t *testing.T, db *sql.DB, name string) (value string) {
	t.Helper()
	testenv.NoError(t, db.QueryRowContext(t.Context(), "SELECT current_setting($1)", name).Scan(&value))
	return value
}

func TestATemporaryServerIsFastLoopbackOnlyAndGoneAfterStop(t *testing.T) {
	t.Parallel()
	s := testenv.Must(Start(t.Context(), Options{Settings: map[string]string{"max_connections": "33"}}))(t)
	if err := s.CreateDatabase(t.Context(), `odd "name"`); err != nil {
		t.Error(err)
	}
	if err := s.CreateDatabase(t.Context(), `odd "name"`); err != nil {
		t.Errorf("the second time: %v", err)
	}
	db := open(t, s, `odd "name"`)
	for name, want := range map[string]string{
		"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off", "max_connections": "33",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "server_encoding": "UTF8", "timezone": "UTC",
	} {
		if got := setting(t, db, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	wrong := strings.Replace(s.DSN("postgres"), s.Password(), "wrong", 1)
	if other, err := sql.Open("postgres", wrong); err != nil || other.PingContext(t.Context()) == nil {
		t.Errorf("a wrong password is accepted (%v)", err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("the second Stop: %v", err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", s.dir, err)
	}
	if db.PingContext(t.Context()) == nil {
		t.Error("the server still answers")
	}
}

func TestADurableServerKeepsItsDataAndStartsAgainAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a folder whose path is too long for a socket ", 3), "postgres")
	first := time.Now()
	s := testenv.Must(Start(t.Context(), Options{Dir: dir, Durable: true}))(t)
	t.Logf("first start: %v", time.Since(first))
	db := open(t, s, "postgres")
	if got := setting(t, db, "fsync"); got != "on" {
		t.Errorf("fsync is %s", got)
	}
	testenv.NoError(t, testenv.Err(db.ExecContext(t.Context(), "CREATE TABLE kept AS SELECT 1")))
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server in the same folder: %v", err)
	}
	testenv.NoError(t, s.Stop())
	if info, err := os.Stat(filepath.Join(dir, "password")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password's file: %v, %v", info.Mode(), err)
	}

	second := time.Now()
	again := start(t, Options{Dir: dir, Durable: true})
	took := time.Since(second)
	t.Logf("second start: %v", took)
	if took > 5*time.Second {
		t.Errorf("the second start took %v", took)
	}
	if _, err := open(t, again, "postgres").ExecContext(t.Context(), "SELECT * FROM kept"); err != nil {
		t.Error(err)
	}
}

func TestACrashedServerRecoversOnTheSamePort(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	db := open(t, s, "postgres")
	testenv.NoError(t, testenv.Err(db.ExecContext(t.Context(), "CREATE TABLE kept AS SELECT 1")))
	port, done := s.Port(), s.Done()
	testenv.NoError(t, s.StopNow())
	<-done
	testenv.NoError(t, s.StartAgain(t.Context()))
	if err := s.StartAgain(t.Context()); err == nil {
		t.Error("a running server can be started again")
	}
	testenv.NoError(t, s.Restart(t.Context()))
	if s.Port() != port {
		t.Errorf("port %d became %d", port, s.Port())
	}
	// The first connections of the pool may still be those that died.
	if _, err := open(t, s, "postgres").ExecContext(t.Context(), "SELECT * FROM kept"); err != nil {
		t.Error(err)
	}
}

func TestAStalePIDFileDoesNotHinderAStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	testenv.NoError(t, s.Stop())
	// The process id of a live process that is not PostgreSQL, but that the server's account may signal. PostgreSQL
	// itself would refuse to start.
	bystander := exec.CommandContext(t.Context(), "sleep", "60")
	bystander.SysProcAttr = s.attributes()
	bystander.Dir = "/"
	testenv.NoError(t, bystander.Start())
	t.Cleanup(func() { _ = bystander.Process.Kill(); _ = bystander.Wait() })
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	content := fmt.Sprintf("%d\n%s\n0\n5432\n\n127.0.0.1\n\n", bystander.Process.Pid, s.data())
	testenv.NoError(t, os.WriteFile(pidFile, []byte(content), 0o600))
	if s.account != nil {
		testenv.NoError(t, os.Chown(pidFile, s.account.uid, s.account.gid))
	}
	start(t, Options{Dir: dir})
}

func TestRootStartsItBelowAFolderThatOnlyRootMayEnter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use such folders")
	}
	hidden := filepath.Join(t.TempDir(), "hidden")
	testenv.NoError(t, os.Mkdir(hidden, 0o700))
	dir := filepath.Join(hidden, "postgres")
	s := start(t, Options{Dir: dir, Durable: true})
	if _, err := open(t, s, "postgres").ExecContext(t.Context(), "CREATE TABLE t AS SELECT 1; CHECKPOINT"); err != nil {
		t.Error(err)
	}
	testenv.NoError(t, s.Stop())
	start(t, Options{Dir: dir, Durable: true})
}

// TestMain also runs the child of the test below, which prints the PID of its server.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LOCALPOSTGRES_TEST_CHILD"); dir != "" {
		s, err := Start(context.Background(), Options{Dir: dir, Durable: true})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.process.cmd.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

func TestTheServerDoesNotOutliveAKilledParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), "LOCALPOSTGRES_TEST_CHILD="+dir)
	out := testenv.Must(parent.StdoutPipe())(t)
	testenv.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("%q: %v", line, err)
	}
	testenv.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	// The server of the killed parent is still shutting down when this one starts.
	s := start(t, Options{Dir: dir, Durable: true})
	if s.isPostmaster(pid) {
		t.Errorf("server %d still runs", pid)
	}
}

func TestAnUnfinishedClusterIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testenv.NoError(t, os.MkdirAll(filepath.Join(dir, "data.unfinished", "base"), 0o700))
	start(t, Options{Dir: dir})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	testenv.NoError(t, s.Stop())
	var log bytes.Buffer
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"a setting that PostgreSQL does not know": {Options{Settings: map[string]string{"no_such_setting": "1"}, Log: &log}, "no_such_setting"},
		"a port that is taken":                    {Options{Port: taken(t)}, "could not bind"},
	} {
		if _, err := Start(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(log.String(), "no_such_setting") {
		t.Errorf("the log is %q", log.String())
	}
	testenv.NoError(t, os.WriteFile(filepath.Join(s.data(), "PG_VERSION"), []byte("9\n"), 0o600))
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "created by PostgreSQL 9") {
		t.Errorf("another version: %v", err)
	}
}

func taken(t *testing.T) int {
	t.Helper()
	return start(t, Options{}).Port()
}

func TestServersStartSideBySide(t *testing.T) {
	t.Parallel()
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			s, err := Start(t.Context(), Options{Log: io.Discard})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

func TestAFolderThatAKilledTestLeftIsRemoved(t *testing.T) {
	dir := filepath.Join(os.TempDir(), temporaryPrefix+"abandoned")
	testenv.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
	old := time.Now().Add(-time.Hour)
	testenv.NoError(t, os.Chtimes(dir, old, old))
	removeAbandoned()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
}

package postgrestest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// Behind runs PgBouncer in a pool mode ("session" or "transaction") in front of the server of c until the test ends,
// and returns the address of the same database behind it. Settings are lines of PgBouncer's configuration; they
// override those of this function.
func Behind(t testing.TB, c postgres.Config, mode string, settings ...string) postgres.Config {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("there is no pgbouncer on this machine; hack/test.sh installs it on Debian")
		}
	}
	dir, err := os.MkdirTemp("", "authgateway-pgbouncer-") //nolint:usetesting // PgBouncer runs as another user, which may not enter the test's folder
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	port := testenv.FreePort(t)
	users := filepath.Join(dir, "users.txt")
	ini := filepath.Join(dir, "pgbouncer.ini")
	configuration := fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = %s
max_client_conn = 1000
default_pool_size = 15
server_idle_timeout = 10
`, c.Host, c.Port, port, users, mode)
	for _, line := range settings {
		configuration += line + "\n"
	}
	for path, content := range map[string]string{users: fmt.Sprintf("%q %q\n", c.User, c.Password), ini: configuration} {
		// If we are root, PgBouncer runs as another user.
		testenv.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	testenv.NoError(t, os.Chmod(dir, 0o755))
	arguments := []string{"--quiet", ini}
	if os.Geteuid() == 0 {
		arguments = append([]string{"--user=nobody"}, arguments...)
	}
	log := testenv.Must(os.Create(filepath.Join(dir, "log")))(t)
	pooler := exec.Command(program, arguments...)
	pooler.Stdout, pooler.Stderr, pooler.Dir = log, log, "/"
	bindToParent(pooler)
	testenv.NoError(t, pooler.Start())
	ended := make(chan struct{})
	go func() { _ = pooler.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = pooler.Process.Kill()
		<-ended
		_ = log.Close()
	})
	c.Port = port
	testenv.Eventually(t, 20*time.Second, "pgbouncer listens", func() error {
		select {
		case <-ended:
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("pgbouncer ended:\n%s", said)
		default:
		}
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	return c
}

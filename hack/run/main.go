// Command run is `make run`: the server on a private PostgreSQL, with all it
// needs, until Ctrl-C. With EXPOSURE=public that is also who takes its mail, and
// an application in the browser.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/hack/localpostgres"
)

func main() {
	r := runner{out: os.Stdout, log: os.Stderr}
	flag.StringVar(&r.server, "server", filepath.Join("bin", "authserver"), "the server's program")
	flag.StringVar(&r.dir, "dir", ".local", "the folder that keeps the database and the passphrases")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// After the first signal the next one ends us at once, and the system
	// ends our children.
	context.AfterFunc(ctx, stop)
	if err := r.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// host is where all of it listens; development is not for the network.
const host = "localhost"

type runner struct {
	server string
	dir    string
	out    io.Writer // what we say
	log    io.Writer // what the server says
}

// run returns nil where ctx ended it.
func (r runner) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	databaseLog, err := os.Create(filepath.Join(r.dir, "postgres.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, databaseLog.Close()) }()
	db, err := localpostgres.Start(ctx, localpostgres.Options{
		Dir: filepath.Join(r.dir, "postgres"), Durable: true, Log: databaseLog,
	})
	if err != nil {
		return unlessDone(ctx, err)
	}
	// Deferred, so that the database ends after the server.
	defer func() { err = errors.Join(err, db.Stop()) }()
	if err := db.CreateDatabase(ctx, databaseName); err != nil {
		return unlessDone(ctx, err)
	}
	settings, err := r.settings(ctx, db)
	if err != nil {
		return err
	}
	var front *public
	if os.Getenv(config.EnvExposure) == string(config.Public) {
		if front, err = r.startPublic(ctx, settings); err != nil {
			return unlessDone(ctx, err)
		}
	}
	defer func() { err = errors.Join(err, front.close()) }()
	server, err := startServer(r.server, environ(settings), r.log)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer func() { err = errors.Join(err, server.stop()) }()

	ready := make(chan struct{})
	waiting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		if waitUntilReady(waiting, "http://"+net.JoinHostPort(host, settings[config.EnvMetricsPort])+"/readyz") {
			close(ready)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(r.out, "\nstopping")
			return nil
		case <-server.done:
			return fmt.Errorf("the server ended (%w); what it said is above", server.err)
		case <-db.Done():
			return fmt.Errorf("PostgreSQL ended; what it said is in %s", databaseLog.Name())
		case <-ready:
			ready = nil
			url := "http://" + net.JoinHostPort(host, settings[config.EnvPort])
			if front != nil {
				front.greet(r, url)
			} else {
				r.greet(url)
			}
		}
	}
}

// unlessDone drops an error that only says that we were told to stop.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that it ended is what was asked for
	}
	return err
}

const databaseName = "authgateway"

// settings are those of a deployment that sets the necessary ones. What else
// stands in our own environment, such as SIGNING_ALGORITHM, reaches the server
// as well.
func (r runner) settings(ctx context.Context, db *localpostgres.Server) (map[string]string, error) {
	settings := map[string]string{
		config.EnvHost:       host,
		config.EnvDBHost:     db.Host(),
		config.EnvDBPort:     strconv.Itoa(db.Port()),
		config.EnvDBUser:     db.User(),
		config.EnvDBPassword: db.Password(),
		config.EnvDBName:     databaseName,
		config.EnvDBSSLMode:  "disable", // it is on this very machine
		config.EnvLogFormat:  "text",
	}
	for name, file := range map[string]string{
		config.EnvAccessPassphrase:  "access-passphrase",
		config.EnvRefreshPassphrase: "refresh-passphrase",
	} {
		passphrase, err := keptSecret(filepath.Join(r.dir, file))
		if err != nil {
			return nil, err
		}
		settings[name] = passphrase
	}
	port, err := r.port(ctx, config.EnvPort, config.Defaults().Port)
	if err != nil {
		return nil, err
	}
	settings[config.EnvPort] = port
	settings[config.EnvMetricsPort], err = r.port(ctx, config.EnvMetricsPort, config.Defaults().MetricsPort)
	return settings, err
}

// environ is our environment with the settings in it.
func environ(settings map[string]string) []string {
	environ := os.Environ()
	for name, value := range settings {
		environ = append(environ, name+"="+value) // the last one counts
	}
	return environ
}

// keptSecret makes a secret once, and reads it from then on: the keys in the
// database are sealed with it.
func keptSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret := rand.Text()
		return secret, os.WriteFile(path, []byte(secret), 0o600)
	}
	return string(content), err
}

// port is one that is free, for the server to listen on.
func (r runner) port(ctx context.Context, name string, usual int) (string, error) {
	l, err := r.listen(ctx, name, usual)
	if err != nil {
		return "", err
	}
	return portOf(l), l.Close()
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// listen takes the port in our environment or the usual one, or the next above
// it that is free.
func (r runner) listen(ctx context.Context, name string, usual int) (net.Listener, error) {
	if value := os.Getenv(name); value != "" {
		var err error
		if usual, err = strconv.Atoi(value); err != nil {
			return nil, fmt.Errorf("%s: %q is not a number", name, value)
		}
	}
	for port := usual; port < usual+100; port++ {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if port != usual {
			fmt.Fprintf(r.out, "%s: %d is taken, so it is %d\n", name, usual, port)
		}
		return l, nil
	}
	return nil, fmt.Errorf("%s: nothing is free from %d to %d", name, usual, usual+99)
}

func waitUntilReady(ctx context.Context, url string) bool {
	for {
		if isReady(ctx, url) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func isReady(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// greet prints lines to paste. The user is a new one each time, since those of
// earlier runs are still in the database.
func (r runner) greet(url string) {
	user := "ada-" + strings.ToLower(rand.Text()[:5])
	fmt.Fprintf(r.out, `
Auth Gateway runs at %[1]s
  its documentation   %[1]s/docs
  its database        %[3]s

Sign up, verify, sign in; paste these into another terminal, one after another:

  code=$(curl -s %[1]s/users -H 'Content-Type: application/json' -d '{"username":"%[2]s","email":"%[2]s@example.com","first_name":"Ada","last_name":"Lovelace","password":"note G of 1843"}' | sed -n 's/.*"code": *"\([^"]*\)".*/\1/p'); echo "$code"
  curl -s -w '\n' %[1]s/users/verify-user -H 'Content-Type: application/json' -d "{\"code\":\"$code\"}"
  curl -s -w '\n' %[1]s/tokens/signin -H 'Content-Type: application/json' -d '{"username":"%[2]s","password":"note G of 1843"}'

Ctrl-C stops it. The data stays in %[3]s; remove that folder to begin anew.
With mail and an application in the browser: make run EXPOSURE=public

`, url, user, r.dir)
}

// Command run implements `make run`: it runs the server with a private PostgreSQL and a mailbox that receives its mail,
// until Ctrl-C. With EXPOSURE=public it also serves an application for the browser.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/console"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
)

func main() {
	r := runner{out: os.Stdout, log: os.Stderr}
	flag.StringVar(&r.server, "server", filepath.Join("bin", "authserver"), "path of the server binary")
	flag.StringVar(&r.dir, "dir", ".local", "folder of the database and the passphrases")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends this program at once, and the system then ends its children.
	context.AfterFunc(ctx, stop)
	if err := r.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// host is the address on which everything listens. HOST can set another one for the server.
const host = "localhost"

type runner struct {
	server string
	dir    string
	out    io.Writer // for messages of this program
	log    io.Writer // for the server's log
}

// run returns nil if it ended because ctx was canceled.
func (r runner) run(ctx context.Context) (err error) {
	if err := refuseDatabase(); err != nil {
		return err
	}
	forgetLibpq()
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
	// Deferred calls run in reverse order: the database stops after the server.
	defer func() { err = errors.Join(err, db.Stop()) }()
	if err := db.CreateDatabase(ctx, databaseName); err != nil {
		return unlessDone(ctx, err)
	}
	settings, err := r.settings(ctx, db)
	if err != nil {
		return err
	}
	around, err := r.startSurroundings(ctx, settings)
	if err != nil {
		return unlessDone(ctx, err)
	}
	defer func() { err = errors.Join(err, around.close()) }()
	if err := r.writeEnv(settings); err != nil {
		return err
	}
	server, err := startServer(r.server, environ(settings), r.log)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer func() { err = errors.Join(err, server.stop()) }()

	ready := make(chan struct{})
	waiting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		if waitUntilReady(waiting, serverURL(settings, config.EnvMetricsPort)+"/readyz") {
			close(ready)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(r.out, "\nstopping")
			return nil
		case <-server.done:
			return fmt.Errorf("the server ended (%w); its log is above", server.err)
		case <-db.Done():
			return fmt.Errorf("PostgreSQL ended; its log is in %s", databaseLog.Name())
		case <-ready:
			ready = nil
			r.greet(serverURL(settings, config.EnvPort), serverURL(settings, config.EnvAdminPort)+console.Path, around)
		}
	}
}

// unlessDone drops an error that occurred because ctx was canceled.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the user asked for it to end
	}
	return err
}

const databaseName = "authgateway"

// refuseDatabase returns an error if the environment names a database: make run would not use it.
func refuseDatabase() error {
	var set []string
	for _, name := range []string{config.EnvDBHost, config.EnvDBPort, config.EnvDBUser, config.EnvDBPassword,
		config.EnvDBPassword + config.FileSuffix, config.EnvDBName} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	if set == nil {
		return nil
	}
	names := strings.Join(set, ", ")
	return fmt.Errorf("%s: make run starts its own PostgreSQL and cannot use another.\n"+
		"To use yours, run bin/authserver (docs/quick-start.md, With your own PostgreSQL). To use make run: unset %s",
		names, strings.Join(set, " "))
}

// forgetLibpq removes the variables of libpq from the environment. They are about other databases, and both drivers read
// them: with PGSERVICE or PGHOSTADDR, for example, the database that this program has started would not be reached.
func forgetLibpq() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PG_") {
			_ = os.Unsetenv(name)
		}
	}
}

// libpqVariables are those that would lead psql elsewhere, although envFile sets the host, port, user and database.
var libpqVariables = []string{"PGCHANNELBINDING", "PGHOSTADDR", "PGOPTIONS", "PGREQUIREAUTH", "PGSERVICE", "PGSSLCERT", "PGSSLKEY",
	"PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGTARGETSESSIONATTRS"}

// serverURL returns the URL of one of the server's ports.
func serverURL(settings map[string]string, port string) string {
	at := settings[config.EnvHost]
	if ip := net.ParseIP(at); at == "" || ip != nil && ip.IsUnspecified() {
		at = host
	}
	return "http://" + net.JoinHostPort(at, settings[port])
}

// envFile returns the path of the shell script that exports the server's settings.
func (r runner) envFile() string { return filepath.Join(r.dir, "env") }

// writeEnv writes the settings to envFile, so that other commands such as authserver keys list and psql can use the
// database.
func (r runner) writeEnv(settings map[string]string) error {
	settings = maps.Clone(settings)
	for libpq, ours := range map[string]string{
		"PGHOST": config.EnvDBHost, "PGPORT": config.EnvDBPort, "PGUSER": config.EnvDBUser,
		"PGPASSWORD": config.EnvDBPassword, "PGDATABASE": config.EnvDBName, "PGSSLMODE": config.EnvDBSSLMode,
	} {
		settings[libpq] = settings[ours]
	}
	for _, s := range config.Settings() {
		for _, name := range []string{s.Name, s.Name + config.FileSuffix} {
			if value, set := os.LookupEnv(name); set && settings[name] == "" {
				settings[name] = value
			}
		}
	}
	settings["AUTHSERVER_ADMIN_SERVER"] = serverURL(settings, config.EnvAdminPort)
	if os.Getenv(config.EnvAdminKeys) == "" {
		key, err := filepath.Abs(r.adminKeyFile())
		if err != nil {
			return err
		}
		settings["AUTHSERVER_ADMIN_KEY_FILE"] = key
	}
	var b strings.Builder
	b.WriteString("# make run writes this file at each start: the settings of its server, and the connection parameters for psql.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(settings[name], "'", `'\''`))
	}
	fmt.Fprintf(&b, "unset %s\n", strings.Join(libpqVariables, " "))
	// An existing file would keep its mode, so it is replaced.
	if err := os.Remove(r.envFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(r.envFile(), []byte(b.String()), 0o600)
}

// settings returns the settings that the server needs. Other variables of the environment, such as SIGNING_ALGORITHM,
// also reach the server.
func (r runner) settings(ctx context.Context, db *localpostgres.Server) (settings map[string]string, err error) {
	settings = map[string]string{
		config.EnvHost:             host,
		config.EnvLimitMails:       "off", // developers use the same address many times
		config.EnvStrictParameters: "on",  // reports misspelled names
		config.EnvDBHost:           db.Host(),
		config.EnvDBPort:           strconv.Itoa(db.Port()),
		config.EnvDBUser:           db.User(),
		config.EnvDBPassword:       db.Password(),
		config.EnvDBName:           databaseName,
		config.EnvDBSSLMode:        "disable", // the database is on the same machine
		config.EnvLogFormat:        "text",
	}
	for name, file := range map[string]string{
		config.EnvAccessPassphrase:  "access-passphrase",
		config.EnvRefreshPassphrase: "refresh-passphrase",
	} {
		if os.Getenv(name) != "" || os.Getenv(name+config.FileSuffix) != "" {
			continue
		}
		passphrase, err := keptSecret(filepath.Join(r.dir, file))
		if err != nil {
			return nil, err
		}
		settings[name] = passphrase
	}
	for _, name := range []string{config.EnvHost, config.EnvLimitMails, config.EnvStrictParameters} {
		if value, set := os.LookupEnv(name); set {
			settings[name] = value
		}
	}
	at := settings[config.EnvHost]
	// A port that was found stays in use until all are found: two of them must not be the same.
	var found listeners
	defer func() { err = errors.Join(err, found.close()) }()
	port, err := r.port(ctx, &found, at, config.EnvPort, config.Defaults().Port)
	if err != nil {
		return nil, err
	}
	settings[config.EnvPort] = port
	if os.Getenv(config.EnvIssuer) == "" {
		// The database remembers the issuer, and the next run may find another free port.
		name := at
		if ip := net.ParseIP(at); at == "" || ip != nil && ip.IsUnspecified() {
			name = host
		}
		settings[config.EnvIssuer] = "http://" + net.JoinHostPort(name, port)
	}
	if settings[config.EnvMetricsPort], err = r.port(ctx, &found, at, config.EnvMetricsPort,
		config.Defaults().MetricsPort); err != nil {
		return nil, err
	}
	if os.Getenv(config.EnvAdminKeys) == "" {
		if settings[config.EnvAdminKeys], err = r.writeAdminKey(); err != nil {
			return nil, err
		}
	}
	settings[config.EnvAdminPort], err = r.port(ctx, &found, at, config.EnvAdminPort, usualAdminPort)
	return settings, err
}

const usualAdminPort = 8081

// adminKeyFile returns the path of the key that opens the console.
func (r runner) adminKeyFile() string { return filepath.Join(r.dir, "admin-key") }

// writeAdminKey writes a key of an administrator for this run, and returns the path of the file for the server.
func (r runner) writeAdminKey() (file string, err error) {
	key, entry, err := admin.NewKey("developer", []string{"editor", "keys:update"}, time.Now().AddDate(1, 0, 0))
	if err != nil {
		return "", err
	}
	file = filepath.Join(r.dir, "admin-keys.json")
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	return file, errors.Join(
		os.WriteFile(r.adminKeyFile(), []byte(key+"\n"), 0o600),
		os.WriteFile(file, fmt.Appendf(nil, "[%s]\n", entry), 0o600))
}

// environ returns the environment of this program with the settings added.
func environ(settings map[string]string) []string {
	environ := os.Environ()
	for name, value := range settings {
		environ = append(environ, name+"="+value) // the last value wins
	}
	return environ
}

// keptSecret returns the secret in a file. The first call creates it. The keys in the database are encrypted with it.
func keptSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret := rand.Text()
		return secret, os.WriteFile(path, []byte(secret), 0o600)
	}
	return string(content), err
}

// listeners hold ports.
type listeners []net.Listener

func (l listeners) close() error {
	var errs []error
	for _, one := range l {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// port returns a free port for the server, which is held.
func (r runner) port(ctx context.Context, held *listeners, at, name string, usual int) (string, error) {
	l, err := r.listen(ctx, at, name, usual)
	if err != nil {
		return "", err
	}
	*held = append(*held, l)
	return portOf(l), nil
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// listen listens on the port that the environment names, on the usual one, or on the next free one above it.
func (r runner) listen(ctx context.Context, at, name string, usual int) (net.Listener, error) {
	if l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(at, "0")); err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %q: %w", config.EnvHost, at, err)
	} else if err := l.Close(); err != nil {
		return nil, err
	}
	if value := os.Getenv(name); value != "" {
		var err error
		if usual, err = strconv.Atoi(value); err != nil {
			return nil, fmt.Errorf("%s: %q is not a number", name, value)
		}
	}
	for port := usual; port < usual+100; port++ {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(at, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if port != usual {
			fmt.Fprintf(r.out, "%s: port %d is in use; using %d\n", name, usual, port)
		}
		return l, nil
	}
	return nil, fmt.Errorf("%s: no port from %d to %d is free", name, usual, usual+99)
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

// direct reaches the server, which is on this machine, without the proxy that the environment may name.
var direct = &http.Client{Transport: &http.Transport{}}

func isReady(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := direct.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// greet prints all URLs and the next steps. The user name is different each time, because users of earlier runs are
// still in the database.
func (r runner) greet(url, console string, around *surroundings) {
	fmt.Fprintf(r.out, `
Auth Gateway runs at %[1]s
  documentation       %[1]s/docs
  console             %[4]s, with the key of: cat %[5]s
  database            (. %[2]s; psql)
  accounts            (. %[2]s; %[3]s users find)
  signing keys        (. %[2]s; %[3]s keys list)
`, url, r.envFile(), r.server, console, r.adminKeyFile())
	if around.mailbox != "" {
		fmt.Fprintf(r.out,
			"  mail                %s, and in this terminal\n  SMTP server         %s, for mail of your own application\n",
			around.mailbox, around.smtp)
	}
	if around.app != "" {
		fmt.Fprintf(r.out, "\nOpen the example application, sign up, and follow the link in the mail:\n\n  %s\n", around.app)
	} else {
		user := "ada-" + strings.ToLower(rand.Text()[:5])
		fmt.Fprintf(r.out, `
Sign up, verify and sign in: paste these lines into another terminal, one after another:

  code=$(curl -s %[1]s/users -H 'Content-Type: application/json' -d '`+
			`{"username":"%[2]s","email":"%[2]s@example.com","first_name":"Ada","last_name":"Lovelace",`+
			`"password":"note G of 1843"}' | sed -n 's/.*"code": *"\([^"]*\)".*/\1/p'); echo "$code"
  curl -s -w '\n' %[1]s/users/verify-user -H 'Content-Type: application/json' -d "{\"code\":\"$code\"}"
  curl -s -w '\n' %[1]s/tokens/signin -H 'Content-Type: application/json' -d '{"username":"%[2]s","password":"note G of 1843"}'

To run it with an example application in the browser: make run EXPOSURE=public
`, url, user)
	}
	fmt.Fprintf(r.out, "\nCtrl-C stops it. The data stays in %s; delete that folder to start from scratch.\n\n", r.dir)
}

package authserver

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/internal/resources"
	"github.com/auth-gateway/auth-gateway/internal/tracing"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Exit codes of a Command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong arguments or settings
)

const usage = `authserver is an identity service over PostgreSQL.

Usage:
  authserver [serve]            serve until SIGTERM or SIGINT
  authserver admin              serve only the routes for administrators, without
                                keys and mail, until SIGTERM or SIGINT
  authserver migrate            migrate the database's schema
  authserver keys list          list the signing keys
  authserver keys rotate        start a rotation of both signing keys
  authserver keys revoke KID    revoke a key; every token signed with it becomes invalid
  authserver admin-key NAME RIGHT…
                                make a key of an administrator, for ADMIN_KEYS
  authserver users import FILE… --from native|supabase|keycloak|auth0|firebase|kratos
                                import accounts; --dry-run only checks them, --resume continues
                                an import that was stopped, --refused FILE receives what cannot be imported
  authserver users export FILE  export all accounts, in the native format
  authserver users …            find, show, create, invite, suspend, unsuspend, sign-out, delete:
                                with a key, at a server with ADMIN_PORT; see authserver users --help
  authserver sessions list|end  list and end the sessions of an account, in the same way
  authserver events             list the audit trail, in the same way
  authserver healthcheck        exit with 0 if the server on this machine is alive
  authserver version            show the version (also --version)
  authserver help               show this help and all settings (also -h)

Exit codes: 0 for success, 1 for an error, 2 for wrong arguments or settings.

Settings:

`

// maxLastWords is the maximum length of a termination message in Kubernetes, in bytes.
const maxLastWords = 4096

// Command is one invocation of the program.
type Command struct {
	Args      []string // without the program's name
	LookupEnv func(string) (string, bool)
	Environ   []string // the whole environment, to report misspelt settings; may be nil
	ReadFile  func(string) ([]byte, error)
	WriteFile func(string, []byte, fs.FileMode) error // nil: write no termination message
	In        io.Reader                               // nil: the standard input
	Out, Err  io.Writer
	Version   string
}

// Run executes the command until it is done or ctx ends, and returns the exit code.
func (c Command) Run(ctx context.Context) int {
	flags := flag.NewFlagSet("authserver", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	version := flags.Bool("version", false, "show the version")
	err := flags.Parse(c.Args)
	args := flags.Args()
	switch {
	case err != nil && !errors.Is(err, flag.ErrHelp):
		return c.misused(err.Error())
	case err != nil:
		args = []string{"help"}
	case *version:
		args = []string{"version"}
	case len(args) == 0:
		args = []string{"serve"}
	}
	verb, rest := args[0], args[1:]
	administers := verb == "users" || verb == "sessions" || verb == "events"
	if administers || verb == "healthcheck" || verb == "keys" || verb == "admin-key" {
		c.WriteFile = nil // they run beside a server, which owns the file
	}
	switch {
	case !slices.Contains(verbs, verb):
		return c.misused(fmt.Sprintf("unknown command %q", verb))
	case administers:
		return c.administer(ctx, args)
	case slices.ContainsFunc(rest, func(arg string) bool { return arg == "--help" || arg == "-help" || arg == "-h" }):
		verb = "help"
	case verb != "keys" && verb != "admin-key" && len(rest) > 0:
		return c.misused(fmt.Sprintf("%s takes no arguments", verb))
	}
	switch verb {
	case "version":
		fmt.Fprintln(c.Out, c.Version)
		return exitOK
	case "help":
		fmt.Fprint(c.Out, usage)
		return c.exit(config.Usage(c.Out))
	case "healthcheck":
		return c.exit(c.healthcheck(ctx))
	case "admin-key":
		return c.adminKey(rest)
	}
	serves := verb == "serve" || verb == "admin"
	server, flushLog, code := c.server(verb, func(settings *config.Config) { //nolint:contextcheck // New connects to nothing
		if !serves {
			settings.Traces.Disabled = true
		}
		if serves {
			resources.LimitHeap()
			resources.ReserveProcessors(resources.HashingThreads(settings.HashingThreads))
		}
	})
	if server == nil {
		return code
	}
	if serves {
		for _, warning := range config.NearMisses(c.Environ) {
			server.log.Warn(warning)
		}
		if server.tracer != nil {
			tracing.HandleErrors(server.log)
		}
		err := server.Run(ctx)
		flushLog()
		return c.exit(err)
	}
	defer server.close() //nolint:contextcheck // ctx may have ended then
	if verb == "migrate" {
		return c.exit(c.migrate(ctx, server))
	}
	return c.keys(ctx, server, rest)
}

// server reads the settings, prepares for them, and returns a server that does not run, and a function that writes the
// rest of its log. If there is a problem, it reports it and returns the exit code.
func (c Command) server(verb string, prepare func(*config.Config)) (s *Server, flushLog func(), code int) {
	load := config.Load
	if verb == "admin" {
		load = config.LoadAdmin
	}
	settings, err := load(c.LookupEnv, c.ReadFile)
	if err != nil {
		return nil, nil, c.fail(exitUsage,
			fmt.Sprintf("authserver cannot start because these settings are invalid (see authserver -h):\n%v\n", err))
	}
	prepare(&settings)
	log, flush := c.logger(settings, verb)
	server, err := New(settings, Options{Log: log, Version: c.Version})
	if err != nil {
		flush()
		return nil, nil, c.exit(err)
	}
	return server, flush, exitOK
}

func (c Command) exit(err error) int {
	if err == nil {
		return exitOK
	}
	return c.fail(exitFailed, fmt.Sprintf("authserver: %v\n", err))
}

func (c Command) misused(message string) int {
	return c.fail(exitUsage, fmt.Sprintf("authserver: %s; see authserver -h\n", message))
}

// fail prints why the program ends, writes it to TERMINATION_LOG, and returns the exit code. It reads that setting
// itself, because it also reports invalid settings. A failure to write the file does not change the exit code.
func (c Command) fail(code int, why string) int {
	fmt.Fprint(c.Err, why)
	path, _ := c.LookupEnv(config.EnvTerminationLog)
	if path == "" || c.WriteFile == nil {
		return code
	}
	if err := c.WriteFile(path, []byte(shorten(why, maxLastWords)), 0o600); err != nil {
		fmt.Fprintf(c.Err, "authserver: %s: %v\n", config.EnvTerminationLog, err)
	}
	return code
}

// verbs are the commands of the program.
var verbs = []string{"serve", "admin", "migrate", "keys", "admin-key", "users", "sessions", "events", "healthcheck", "version", "help"}

// logger returns the log of a command, and a function that writes what is left. Commands for keys and users print their
// own output, so their log is text and contains only warnings and errors.
func (c Command) logger(settings config.Config, verb string) (log *slog.Logger, flush func()) {
	if verb == "keys" || verb == "users" {
		settings.LogLevel, settings.LogFormat = max(settings.LogLevel, slog.LevelWarn), "text"
	}
	if verb == "serve" || verb == "admin" {
		return newLog(c.Err, settings)
	}
	return slog.New(newHandler(c.Err, settings)), func() {}
}

func (c Command) migrate(ctx context.Context, s *Server) error {
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	version, err := s.store.Version(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "the database has schema version %d\n", version)
	return nil
}

// healthcheck asks the server with the same settings whether it is alive. It reads only HOST
// and METRICS_PORT, so that it works in a container's HEALTHCHECK.
func (c Command) healthcheck(ctx context.Context) error {
	host, port, err := config.LoadOperations(c.LookupEnv)
	switch ip := net.ParseIP(host); {
	case err != nil:
		return err
	case port == 0:
		return fmt.Errorf("%s is 0: the server serves no health check", config.EnvMetricsPort)
	case host == "" || ip.IsUnspecified():
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, strconv.Itoa(port))+"/healthz", nil)
	if err != nil {
		return err
	}
	// Without a proxy: HOST may be an address of this machine that NO_PROXY does not have.
	client := &http.Client{Transport: &http.Transport{}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", response.Status)
	}
	return nil
}

// keys lists or changes the keys. Running servers load changes within seconds.
func (c Command) keys(ctx context.Context, s *Server, args []string) int {
	k := s.keyring
	change := k.Policy
	switch {
	case len(args) == 1 && args[0] == "list":
		return c.exit(c.listKeys(ctx, k))
	case len(args) == 1 && args[0] == "rotate":
		change.Rotate = k.Now().UTC().Format(time.RFC3339Nano)
	case len(args) == 2 && args[0] == "revoke":
		change.Revoked = []string{args[1]}
	default:
		return c.misused("the commands are keys list, keys rotate and keys revoke KID")
	}
	if k.Directory != "" {
		return c.exit(errors.New("KEYS_DIR is set: rotate and revoke its keys with the operator that writes the directory"))
	}
	ring, err := k.Load(ctx)
	if err != nil {
		return c.exit(err)
	}
	if ring.Generation == 0 {
		return c.exit(errors.New("there are no keys yet; the server creates them when it starts"))
	}
	if len(change.Revoked) > 0 {
		if _, known := ring.Key(change.Revoked[0]); !known {
			return c.exit(fmt.Errorf("no key has the kid %q; authserver keys list shows all keys", change.Revoked[0]))
		}
	}
	steps, err := k.Change(ctx, change, identity.Event{})
	if err != nil {
		return c.exit(err)
	}
	after, err := k.Load(ctx)
	if err != nil {
		return c.exit(err)
	}
	s.recordRevoked(ctx, after) // a replica would do so a few seconds later
	if steps == 0 {
		fmt.Fprintln(c.Out, "nothing to do: a rotation is already in progress, or the key is already revoked")
	}
	return c.exit(c.listKeys(ctx, k))
}

// phases are in the order in which listKeys prints them.
var phases = map[keys.Phase]int{keys.Signing: 0, keys.Published: 1, keys.Retiring: 2, keys.Revoked: 3}

func (c Command) listKeys(ctx context.Context, k *keyring.Keyring) error {
	ring, err := k.Load(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(ring.Keys, func(a, b keys.Key) int {
		return cmp.Or(cmp.Compare(a.Use, b.Use), cmp.Compare(phases[a.Phase.Public()], phases[b.Phase.Public()]), a.Created.Compare(b.Created))
	})
	table := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KID\tUSE\tALGORITHM\tPHASE\tSINCE\tNEXT")
	for _, key := range ring.Keys {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", key.ID, key.Use, key.Algorithm, key.Phase.Public(),
			key.PhaseSince.UTC().Format(time.RFC3339), c.nextOf(k.Policy, ring, key))
	}
	return table.Flush()
}

// nextOf returns what happens to a key next, and the earliest time for it.
func (Command) nextOf(policy keys.Policy, ring keys.Ring, key keys.Key) string {
	action, at := policy.NextChange(ring, key)
	what, known := map[keys.Action]string{keys.Promote: "signs from", keys.Generate: "rotates", keys.Drop: "is removed"}[action]
	if !known {
		return "is replaced by the published key"
	}
	return what + " " + at.UTC().Format(time.RFC3339)
}

// Command operator makes of AuthGateway objects running identity services.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/auth-gateway/auth-gateway/controllers"
)

var version = "dev" // set by the linker

const usage = `operator makes of AuthGateway objects running identity services.

Usage:
  operator [flags]            watch AuthGateways until SIGTERM or SIGINT
  operator healthcheck URL    end with 0 if the URL answers 200
  operator version            show the version

`

// settings are the flags.
type settings struct {
	options        controllers.Options
	leaderElection bool
	metrics        string
	metricsCertDir string
	probes         string
	endTimeout     time.Duration
	platformUsers  string
	logLevel       slog.Level
	logFormat      string
}

// list is a flag of several values, separated by commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

func main() { os.Exit(run(ctrl.SetupSignalHandler(), os.Args[1:], os.Stdout, os.Stderr)) }

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("operator", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, usage)
		flags.PrintDefaults()
	}
	flags.Var((*list)(&s.options.Namespaces), "namespaces", "the namespaces to watch, separated by commas; all where it is empty")
	flags.StringVar(&s.options.ServerImage, "server-image", "", "the image of servers whose AuthGateway names none, such as registry.example.com/auth-gateway/authserver:1.2.3; it has to be set")
	flags.Var((*list)(&s.options.ServerPullSecrets), "server-pull-secrets", "the Secrets with which --server-image is pulled, separated by commas; they have to be in the namespace of the AuthGateway")
	flags.Var((*list)(&s.options.AllowedImages), "allowed-images", "beginnings of the images that AuthGateways may name, separated by commas; any where it is empty")
	flags.IntVar(&s.options.Concurrency, "concurrent-reconciles", 4, "how many AuthGateways are looked after at a time")
	flags.IntVar(&s.options.Upgrades, "concurrent-upgrades", 5, "at how many AuthGateways at a time pods are replaced because this operator renders them differently from the one before; 0: at all of them")
	flags.BoolVar(&s.leaderElection, "leader-elect", true, "let one of several replicas work, and the others wait")
	flags.StringVar(&s.metrics, "metrics-bind-address", ":8443", "where metrics are served, to those whom the API server lets; 0: nowhere")
	flags.StringVar(&s.metricsCertDir, "metrics-cert-dir", "", "the folder of tls.crt and tls.key for metrics; self-signed where it is empty")
	flags.StringVar(&s.probes, "health-probe-bind-address", ":8081", "where /healthz and /readyz are served")
	flags.StringVar(&s.platformUsers, "platform-users", "auto", "whether the platform assigns the users that pods run as, so that servers name none: true, false, or auto, which is true on OpenShift")
	flags.BoolVar(&s.options.OpenServerMetrics, "open-server-metrics", false, "let pods of every namespace reach the port of the servers' metrics, also where the AuthGateway asks for no ServiceMonitor")
	flags.DurationVar(&s.endTimeout, "shutdown-timeout", 15*time.Second, "how long what is under way at SIGTERM may take; the operator is gone by then, whatever it waits for")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.StringVar(&s.logFormat, "log-format", "json", "json or text")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	var err error
	switch rest := flags.Args(); {
	case len(rest) == 0:
		err = endWith(ctx, s.endTimeout+time.Second, func(ctx context.Context) error { return operate(ctx, s, errs) })
	case len(rest) == 1 && rest[0] == "version":
		fmt.Fprintln(out, version)
	case len(rest) == 2 && rest[0] == "healthcheck":
		err = healthcheck(ctx, rest[1])
	default:
		flags.Usage()
		return 2
	}
	if err != nil {
		fmt.Fprintln(errs, "operator:", err)
		return 1
	}
	return 0
}

func operate(ctx context.Context, s settings, errs io.Writer) error {
	var logs slog.Handler = slog.NewJSONHandler(errs, &slog.HandlerOptions{Level: s.logLevel})
	if s.logFormat == "text" {
		logs = slog.NewTextHandler(errs, &slog.HandlerOptions{Level: s.logLevel})
	}
	ctrl.SetLogger(logr.FromSlogHandler(logs))
	if os.Getenv("GOGC") == "" {
		// What the operator holds is mostly a cache, which lives: half of it in
		// garbage is enough of a reserve, and the processor is idle anyway.
		debug.SetGCPercent(50)
	}
	limitMemory()
	if s.options.ServerImage == "" {
		return errors.New("--server-image is not set: name the image of the servers with its registry, such as registry.example.com/auth-gateway/authserver:1.2.3")
	}
	kubernetes, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("it finds no API server; in a pod it needs its ServiceAccount's token, elsewhere a kubeconfig: %w", err)
	}
	s.options.OperatorNamespace = os.Getenv("POD_NAMESPACE")
	if s.options.OperatorNamespace == "" {
		return errors.New("POD_NAMESPACE is not set: set it to the namespace that the operator runs in (fieldRef: metadata.namespace)")
	}
	m, err := ctrl.NewManager(kubernetes, ctrl.Options{
		Scheme:                 controllers.Scheme(),
		NewCache:               controllers.NewCache(s.options.Namespaces),
		Client:                 client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		HealthProbeBindAddress: s.probes,
		Metrics: metricsserver.Options{
			BindAddress: s.metrics, SecureServing: true, CertDir: s.metricsCertDir,
			FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts:        []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
		},
		LeaderElection:   s.leaderElection,
		LeaderElectionID: "auth-gateway-operator", LeaderElectionNamespace: s.options.OperatorNamespace,
		// A replica that ends gives the lead away at once; it does nothing after.
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &s.endTimeout,
	})
	if err != nil {
		return err
	}
	if s.options.PlatformUsers, err = assignsUsers(s.platformUsers, m.GetRESTMapper()); err != nil {
		return err
	}
	r := controllers.New(m, s.options)
	if err := r.SetUp(ctx, m); err != nil {
		return err
	}
	if err := errors.Join(m.AddHealthzCheck("ping", healthz.Ping), m.AddReadyzCheck("synced", r.Synced)); err != nil {
		return err
	}
	return m.Start(ctx)
}

// assignsUsers reports whether the platform assigns the users that pods run as.
// OpenShift does, and refuses pods that name another one.
func assignsUsers(setting string, kinds meta.RESTMapper) (bool, error) {
	switch setting {
	case "true", "false":
		return setting == "true", nil
	case "auto":
		_, err := kinds.RESTMapping(schema.GroupKind{Group: "security.openshift.io", Kind: "SecurityContextConstraints"})
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		return err == nil, err
	}
	return false, fmt.Errorf("--platform-users is %q: write auto, true or false", setting)
}

// memoryShare is the share of its memory limit at which the operator collects
// garbage rather than be killed: what the Go runtime does not count needs some.
const memoryShare = 0.9

// limitMemory makes the runtime keep within a container's limit, which its
// Deployment hands on in MEMORY_LIMIT. GOMEMLIMIT wins.
func limitMemory() {
	limit, err := strconv.ParseInt(os.Getenv("MEMORY_LIMIT"), 10, 64)
	if err == nil && limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(float64(limit) * memoryShare))
	}
}

// endWith runs what is to end with ctx, and waits no longer than patience for it
// to: an API server that does not answer keeps no operator from ending.
func endWith(ctx context.Context, patience time.Duration, run func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		return errors.New("the operator was told to end, and was still waiting for the API server: it is cut off")
	}
}

// healthcheck is for `helm test`, and for images without a shell.
func healthcheck(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

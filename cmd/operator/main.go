// Command operator runs identity services from AuthGateway objects.
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

const usage = `operator runs identity services from AuthGateway objects.

Usage:
  operator [flags]            watch AuthGateways until SIGTERM or SIGINT
  operator healthcheck URL    exit with status 0 if the URL answers with status 200
  operator version            print the version

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

// list is a flag whose value is a comma-separated list.
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
	s := settings{options: controllers.Options{Version: version}}
	flags := flag.NewFlagSet("operator", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, usage)
		flags.PrintDefaults()
	}
	flags.Var((*list)(&s.options.Namespaces), "namespaces",
		"comma-separated namespaces to watch; all of them if empty")
	flags.StringVar(&s.options.ServerImage, "server-image", "",
		"image of servers whose AuthGateway sets none, such as registry.example.com/auth-gateway/authserver:1.2.3; required")
	flags.Var((*list)(&s.options.ServerPullSecrets), "server-pull-secrets",
		"comma-separated Secrets to pull --server-image with; they must exist in the namespace of each AuthGateway")
	flags.Var((*list)(&s.options.AllowedImages), "allowed-images",
		"comma-separated prefixes of the images that AuthGateways may set; any image if empty")
	flags.IntVar(&s.options.Concurrency, "concurrent-reconciles", 4, "how many AuthGateways to reconcile at a time")
	flags.IntVar(&s.options.Upgrades, "concurrent-upgrades", 5,
		"at how many AuthGateways at a time to replace the pods after an upgrade of the operator; 0 means all")
	flags.BoolVar(&s.leaderElection, "leader-elect", true, "elect one of several replicas to work, while the others wait")
	flags.StringVar(&s.metrics, "metrics-bind-address", ":8443",
		"address of the metrics endpoint, which authenticates and authorizes clients with the API server; 0 disables it")
	flags.StringVar(&s.metricsCertDir, "metrics-cert-dir", "",
		"directory with tls.crt and tls.key for the metrics endpoint; if empty, the certificate is self-signed")
	flags.StringVar(&s.probes, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	flags.StringVar(&s.platformUsers, "platform-users", "auto",
		"whether the platform assigns the users that pods run as: true, false, or auto, which detects OpenShift")
	flags.BoolVar(&s.options.OpenServerMetrics, "open-server-metrics", false,
		"let pods of every namespace reach the servers' metrics, even without a ServiceMonitor")
	flags.DurationVar(&s.endTimeout, "shutdown-timeout", 15*time.Second,
		"how long to wait for running work after SIGTERM; the operator then exits in any case")
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
		// Most of the heap is a cache that stays. Collecting garbage at a fifth of its size saves memory, and the
		// operator has CPU to spare.
		debug.SetGCPercent(20)
	}
	limitMemory()
	if s.options.ServerImage == "" {
		return errors.New("--server-image is not set: set it to the image of the servers with its registry, " +
			"such as registry.example.com/auth-gateway/authserver:1.2.3")
	}
	kubernetes, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: in a pod, mount the ServiceAccount's token; elsewhere, set KUBECONFIG: %w", err)
	}
	s.options.OperatorNamespace = os.Getenv("POD_NAMESPACE")
	if s.options.OperatorNamespace == "" {
		return errors.New("POD_NAMESPACE is not set: set it to the operator's namespace (fieldRef: metadata.namespace)")
	}
	m, err := ctrl.NewManager(kubernetes, ctrl.Options{
		Scheme:                 controllers.Scheme(),
		NewCache:               controllers.NewCache(s.options),
		Client:                 client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		HealthProbeBindAddress: s.probes,
		Metrics: metricsserver.Options{
			BindAddress: s.metrics, SecureServing: true, CertDir: s.metricsCertDir,
			FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts:        []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
		},
		LeaderElection:   s.leaderElection,
		LeaderElectionID: "auth-gateway-operator", LeaderElectionNamespace: s.options.OperatorNamespace,
		// Safe, because a replica that shuts down does nothing after it gives up the lease.
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
	err = errors.Join(m.AddHealthzCheck("ping", healthz.Ping), m.AddReadyzCheck("synced", r.Synced))
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

// assignsUsers reports whether the platform assigns the users that pods run as.
// OpenShift does, and rejects pods that set another user.
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

// memoryShare is how much of the container's limit the Go runtime may use. The rest
// is for memory that the runtime does not count.
const memoryShare = 0.9

// limitMemory sets the runtime's memory limit from MEMORY_LIMIT, which the Deployment
// sets to the container's limit. GOMEMLIMIT takes precedence.
func limitMemory() {
	limit, err := strconv.ParseInt(os.Getenv("MEMORY_LIMIT"), 10, 64)
	if err == nil && limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(float64(limit) * memoryShare))
	}
}

// endWith calls run and returns when it does, or at the latest a while after ctx is
// done. An API server that does not answer must not keep the operator from exiting.
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
		return errors.New("shutdown timed out: the operator was still waiting for the API server")
	}
}

// healthcheck serves `helm test`, and images without a shell.
func healthcheck(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{}} // a proxy of the environment does not reach the cluster's Services
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

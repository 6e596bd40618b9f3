// Package tracing records the spans of package span with OpenTelemetry, and exports them over OTLP. It is the only
// importer of OpenTelemetry.
//
// A request never waits for an export. Spans wait in a queue of a fixed size; what does not fit is dropped and counted.
package tracing

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/auth-gateway/auth-gateway/internal/span"
)

// Options configure a Tracer.
type Options struct {
	ServiceName string
	Version     string      // of the service
	Attributes  [][2]string // of the resource; they have precedence

	Sampler    string // as OTEL_TRACES_SAMPLER has them
	SamplerArg float64
	Propagate  bool // continue the traces of trusted callers

	QueueSize, BatchSize int
	Delay                time.Duration // before a batch is exported that is not full
	BatchTime            time.Duration // for a batch, with all tries

	URL        string // traces are posted there
	Header     map[string]string
	Timeout    time.Duration // of one try; 0: 10 s
	CA         string        // the file with the certificates that are trusted; empty: the system's
	ClientCert string        // the files with the certificate and key of this service
	ClientKey  string
	Gzip       bool

	Log *slog.Logger
}

// Tracer is a span.Tracer. Close it.
type Tracer struct {
	provider  *sdktrace.TracerProvider
	tracer    trace.Tracer
	root      sdktrace.Sampler // of traces that this service begins
	export    *exporter
	propagate bool
}

var _ span.Tracer = (*Tracer)(nil)

// closeTimeout bounds how long Close exports what waits. With the grace of mails in flight it is shorter than what a
// pod has after SHUTDOWN_TIMEOUT.
const closeTimeout = 2 * time.Second

// New returns a Tracer. It reads the certificates, and connects to nothing.
func New(o Options) (*Tracer, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("the CA certificates cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s contains no certificate: write the path of a file in PEM", o.CA)
		}
	}
	if o.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(o.ClientCert, o.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("the certificate of the client cannot be used: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	compression := otlptracehttp.NoCompression
	if o.Gzip {
		compression = otlptracehttp.GzipCompression
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	otlp, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(o.URL),
		otlptracehttp.WithHeaders(o.Header),
		otlptracehttp.WithCompression(compression),
		otlptracehttp.WithHTTPClient(&http.Client{
			Transport: discreet{transport}, Timeout: cmp.Or(o.Timeout, 10*time.Second),
			// The header fields are for no other server.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 4 * time.Second, MaxElapsedTime: 10 * time.Second,
		}))
	if err != nil {
		return nil, err
	}
	e := &exporter{SpanExporter: otlp, log: o.Log, most: int64(o.QueueSize)}
	e.work, e.stop = context.WithCancel(context.Background())
	batches := sdktrace.NewBatchSpanProcessor(e,
		sdktrace.WithMaxQueueSize(o.QueueSize), sdktrace.WithMaxExportBatchSize(o.BatchSize),
		sdktrace.WithBatchTimeout(o.Delay), sdktrace.WithExportTimeout(o.BatchTime))
	root, based := sampler(o.Sampler, o.SamplerArg)
	decides := root
	if based {
		decides = sdktrace.ParentBased(root)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(decides), sdktrace.WithIDGenerator(ids{}),
		sdktrace.WithResource(resourceOf(o)),
		sdktrace.WithSpanProcessor(queue{batches, e}))
	return &Tracer{
		provider: provider, root: root,
		tracer: provider.Tracer("github.com/auth-gateway/auth-gateway", trace.WithInstrumentationVersion(o.Version)),
		export: e, propagate: o.Propagate,
	}, nil
}

func resourceOf(o Options) *resource.Resource {
	attributes := []attribute.KeyValue{
		attribute.String("service.name", o.ServiceName), attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", uuid.NewString()),
	}
	for _, a := range o.Attributes {
		if a[0] != "service.name" { // OTEL_SERVICE_NAME has precedence
			attributes = append(attributes, attribute.String(a[0], a[1]))
		}
	}
	// The error is of detectors, and this one has none that fails.
	r, _ := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(attributes...))
	return r
}

// sampler returns what decides about traces that begin here, and whether a parent decides about others.
func sampler(name string, arg float64) (root sdktrace.Sampler, based bool) {
	name, based = strings.CutPrefix(name, "parentbased_")
	switch name {
	case "always_off":
		return sdktrace.NeverSample(), based
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(arg), based
	default:
		return sdktrace.AlwaysSample(), based
	}
}

// ids makes ids. That of a trace is in the context, if it was needed before to decide whether the trace is recorded.
type ids struct{}

type idKey struct{}

// NewIDs implements sdktrace.IDGenerator.
func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := ctx.Value(idKey{}).(trace.TraceID)
	if !ok {
		id = newTraceID()
	}
	return id, ids{}.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (ids) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64()|1) //nolint:gosec // an id is no secret; 0 is invalid
	return id
}

func newTraceID() (id trace.TraceID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64()|1) //nolint:gosec // an id is no secret
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())   //nolint:gosec // TraceIDRatioBased compares these bytes
	return id
}

// Close exports what waits, within two seconds, and ends the Tracer.
func (t *Tracer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what cannot be exported is lost, and was logged
	t.export.stop()
}

// Stats returns the numbers of spans since the start.
func (t *Tracer) Stats() Stats { return t.export.stats() }

var kinds = map[span.Kind]trace.SpanKind{
	span.Internal: trace.SpanKindInternal, span.Server: trace.SpanKindServer, span.Client: trace.SpanKindClient,
}

// Begin implements span.Tracer.
func (t *Tracer) Begin(o span.Origin) span.Recording {
	ctx := context.Background()
	if o.Parent == "" || !o.Trusted || !t.propagate {
		// Most requests end here, so this costs less than what the library does for a request that it does not record.
		id := newTraceID()
		if t.root.ShouldSample(sdktrace.SamplingParameters{ParentContext: ctx, TraceID: id}).Decision == sdktrace.Drop {
			return nil
		}
		ctx = context.WithValue(ctx, idKey{}, id)
	}
	options := []trace.SpanStartOption{trace.WithTimestamp(o.Start), trace.WithSpanKind(kinds[o.Kind])}
	if o.Parent != "" && t.propagate {
		carrier := propagation.MapCarrier{"traceparent": o.Parent}
		if o.Trusted {
			carrier["tracestate"] = o.State
		}
		parent := propagation.TraceContext{}.Extract(ctx, carrier)
		if o.Trusted {
			ctx = parent
		} else if link := trace.SpanContextFromContext(parent); link.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: link}))
		}
	}
	ctx, s := t.tracer.Start(ctx, o.Name, options...)
	if !s.IsRecording() {
		return nil
	}
	return &recording{tracer: t.tracer, ctx: ctx, span: s}
}

// recording is a trace that is recorded.
type recording struct {
	tracer trace.Tracer
	ctx    context.Context //nolint:containedctx // of the root: parents of spans are in contexts
	span   trace.Span
}

func (r *recording) ID() string { return r.span.SpanContext().TraceID().String() }

func (r *recording) Add(s span.Span) {
	_, child := r.tracer.Start(r.ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(kinds[s.Kind]))
	finish(child, s)
}

func (r *recording) End(s span.Span) {
	r.span.SetName(s.Name)
	finish(r.span, s)
}

func finish(to trace.Span, s span.Span) {
	attributes := make([]attribute.KeyValue, 0, len(s.Attributes)+1)
	for _, a := range s.Attributes {
		if a.Value.Kind() == slog.KindInt64 {
			attributes = append(attributes, attribute.Int64(a.Key, a.Value.Int64()))
		} else {
			attributes = append(attributes, attribute.String(a.Key, a.Value.String()))
		}
	}
	if s.Error != "" {
		attributes = append(attributes, attribute.String("error.type", s.Error))
		to.SetStatus(codes.Error, "")
	}
	to.SetAttributes(attributes...)
	to.End(trace.WithTimestamp(s.End))
}

// HandleErrors has OpenTelemetry report its own problems to a log. That is a setting of the process, so a program calls
// it, once. The messages of the library may contain the header fields of the exporter, so they are not logged.
func HandleErrors(log *slog.Logger) {
	otel.SetLogger(logr.Discard())
	var warned limiter
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if warned.allows(time.Now()) {
			log.Warn("OpenTelemetry has a problem", "error", shorten(err))
		}
	}))
}

// discreet removes what a collector answers to a failed export: the answer may repeat the header fields of the request,
// and the exporter quotes it in its errors. It also marks the error of a collector that is down.
type discreet struct{ http.RoundTripper }

func (d discreet) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := d.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, unreachable{err}
	}
	if response.StatusCode <= 299 {
		return response, nil
	}
	_ = response.Body.Close()
	response.Body = http.NoBody
	response.Status = http.StatusText(response.StatusCode)
	if response.Status == "" {
		response.Status = "unknown status"
	}
	response.Status = fmt.Sprintf("%d %s", response.StatusCode, response.Status)
	return response, nil
}

// unreachable is the error of an export that the collector did not answer. The exporter tries again only after errors that are
// temporary, and takes a refused connection for a permanent one, as it is while a collector is restarted.
type unreachable struct{ error }

func (unreachable) Temporary() bool { return true }
func (u unreachable) Unwrap() error { return u.error }

func shorten(err error) string {
	const most = 300
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// errDropped means that spans were dropped, because the queue was full.
var errDropped = errors.New("the queue is full: the collector is too slow")

package tracing_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/otlpsink"
	"github.com/auth-gateway/auth-gateway/internal/tracing"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"

func options(url string, log *testenv.Output) tracing.Options {
	return tracing.Options{
		ServiceName: "shop-auth", Version: "v1", Attributes: [][2]string{{"deployment.environment.name", "test"}},
		Sampler: "parentbased_always_on", Propagate: true, QueueSize: 16, BatchSize: 8, Delay: 5 * time.Millisecond,
		BatchTime: 200 * time.Millisecond, URL: url + "/v1/traces", Log: slog.New(slog.NewJSONHandler(log, nil)),
	}
}

func start(t *testing.T, o tracing.Options) *tracing.Tracer {
	t.Helper()
	return testenv.Must(tracing.New(o))(t)
}

func request(tracer *tracing.Tracer, o span.Origin) (recorded bool) {
	o.Kind, o.Start = span.Server, time.Now()
	r := tracer.Begin(o)
	if r == nil {
		return false
	}
	r.Add(span.Span{Name: "child", Kind: span.Client, Start: o.Start, End: time.Now(), Error: "08006"})
	r.End(span.Span{Name: "GET /users", Start: o.Start, End: time.Now(), Attributes: []slog.Attr{slog.Int("n", 3), slog.String("s", "x")}})
	return true
}

func TestTracerExports(t *testing.T) {
	t.Parallel()
	sink, log := otlpsink.Start(t), &testenv.Output{}
	o := options(sink.URL, log)
	o.Gzip, o.Header = true, map[string]string{"Authorization": "Bearer the-credential"}
	o.Attributes = append(o.Attributes, [2]string{"service.name", "of-the-platform"}) // the name of the service has precedence
	tracer := start(t, o)
	request(tracer, span.Origin{Name: "HTTP"})
	tracer.Close()
	spans := sink.Spans()
	if len(spans) != 2 {
		t.Fatalf("got %v, want two spans", spans)
	}
	child, root := spans[0], spans[1]
	if child.Name != "child" || !bytes.Equal(child.ParentSpanId, root.SpanId) || otlpsink.Attribute(child, "error.type") != "08006" ||
		child.Status.Code.String() != "STATUS_CODE_ERROR" || root.Name != "GET /users" || len(root.ParentSpanId) != 0 ||
		otlpsink.Attribute(root, "s") != "x" || root.Status.GetCode() != 0 {
		t.Errorf("the spans are %v", spans)
	}
	if a, b := sink.Resource("service.name"), sink.Resource("deployment.environment.name"); a != "shop-auth" || b != "test" {
		t.Errorf("the resource is %q, %q", a, b)
	}
	if _, header := sink.Received(); header[0].Get("Authorization") != "Bearer the-credential" || header[0].Get("Content-Encoding") != "gzip" {
		t.Errorf("the header fields are %v", header[0])
	}
	if s := tracer.Stats(); s != (tracing.Stats{Exported: 2}) {
		t.Errorf("the numbers are %+v", s)
	}
}

// A stranger must neither choose what is recorded nor add to the traces of others.
func TestTracerContinuesOnlyTheTracesOfTrustedCallers(t *testing.T) {
	t.Parallel()
	id := strings.Split(traceparent, "-")[1]
	for name, test := range map[string]struct {
		sampler, flags       string
		trusted, off         bool
		recorded, same, link bool
	}{
		"trusted":                           {sampler: "parentbased_always_off", flags: "1", trusted: true, recorded: true, same: true},
		"trusted, not recorded":             {sampler: "parentbased_always_on", flags: "0", trusted: true},
		"trusted, always":                   {sampler: "always_on", flags: "0", trusted: true, recorded: true, same: true},
		"trusted, propagation off":          {sampler: "parentbased_always_on", flags: "0", trusted: true, off: true, recorded: true},
		"stranger that wants a recording":   {sampler: "parentbased_always_off", flags: "1"},
		"stranger that wants no recording":  {sampler: "parentbased_always_on", flags: "0", recorded: true, link: true},
		"stranger with a rate that is zero": {sampler: "parentbased_traceidratio", flags: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := otlpsink.Start(t)
			o := options(sink.URL, &testenv.Output{})
			o.Sampler, o.Propagate = test.sampler, !test.off
			tracer := start(t, o)
			got := request(tracer, span.Origin{Parent: traceparent + test.flags, State: "vendor=state-of-a-client", Trusted: test.trusted})
			tracer.Close()
			if got != test.recorded {
				t.Fatalf("recorded: %v, want %v", got, test.recorded)
			}
			if !got {
				return
			}
			root := sink.Spans()[1]
			if same := otlpsink.TraceID(root) == id; same != test.same || len(root.Links) != map[bool]int{true: 1}[test.link] {
				t.Errorf("the span is %v", root)
			}
			bodies, _ := sink.Received()
			if bytes.Contains(bodies, []byte("state-of-a-client")) != test.same {
				t.Errorf("tracestate: got %v, want %v", !test.same, test.same)
			}
		})
	}
}

// A collector that hangs, refuses or is down costs a request nothing, and little memory, and the log has one line.
func TestTracerDoesNotWaitForTheCollector(t *testing.T) {
	t.Parallel()
	const spans = 5000
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"hangs": otlpsink.Hang,
		"refuses": func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "wrong credential: "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			return true
		},
		"is busy": func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		},
		"is down": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink, log := otlpsink.Start(t), &testenv.Output{}
			sink.Reply(answer)
			o := options(sink.URL, log)
			if answer == nil {
				o.URL = "http://" + testenv.FreeAddress(t)
			}
			o.Header = map[string]string{"Authorization": "Bearer the-credential"}
			tracer := start(t, o)
			begin, slowest := time.Now(), time.Duration(0)
			for range spans / 2 {
				at := time.Now()
				request(tracer, span.Origin{})
				slowest = max(slowest, time.Since(at))
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("%d spans took %v, the slowest request %v", spans, took, slowest)
			}
			time.Sleep(400 * time.Millisecond) // two batches time out
			begin = time.Now()
			tracer.Close()
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("Close took %v", took)
			}
			testenv.Until(t, 5*time.Second, "every span is counted", func() bool {
				s := tracer.Stats()
				return s.Exported == 0 && s.Failed > 0 && s.Dropped > spans/2 && s.Failed+s.Dropped == spans
			})
			if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "traces are lost") {
				t.Errorf("the log has %d lines, want one: %s", lines, log)
			}
			if strings.Contains(log.String(), "the-credential") {
				t.Errorf("the log contains a header field: %s", log)
			}
		})
	}
}

// The header fields have the credential of the collector that is named, and of no other.
func TestTracerFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	sink, other, log := otlpsink.Start(t), otlpsink.Start(t), &testenv.Output{}
	sink.Reply(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		return true
	})
	tracer := start(t, options(sink.URL, log))
	request(tracer, span.Origin{})
	testenv.Until(t, 10*time.Second, "the spans are lost", func() bool { return tracer.Stats().Failed == 2 })
	tracer.Close()
	if _, header := other.Received(); len(header) > 0 {
		t.Error("the exporter follows a redirect")
	}
}

// While a collector is restarted, it refuses connections.
func TestTracerExportsToACollectorThatWasRestarted(t *testing.T) {
	t.Parallel()
	sink, log := otlpsink.Start(t), &testenv.Output{}
	address := testenv.FreeAddress(t)
	o := options("http://"+address, log)
	o.BatchTime = 30 * time.Second
	tracer := start(t, o)
	request(tracer, span.Origin{})
	time.Sleep(100 * time.Millisecond) // the first export fails
	restarted := &http.Server{Handler: sink, ReadHeaderTimeout: time.Second}
	l := testenv.Must(net.Listen("tcp", address))(t)
	t.Cleanup(func() { _ = restarted.Close() })
	go func() { _ = restarted.Serve(l) }()
	testenv.Until(t, 10*time.Second, "the spans are exported", func() bool { return tracer.Stats().Exported == 2 })
	tracer.Close()
	if log.String() != "" {
		t.Errorf("the log is %s, want nothing", log)
	}
}

func TestTracerLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tracer := start(t, options("http://127.0.0.1:1", &testenv.Output{}))
	request(tracer, span.Origin{})
	tracer.Close()
}

func TestLoggerAddsTheTrace(t *testing.T) {
	t.Parallel()
	tracer := start(t, options("http://127.0.0.1:1", &testenv.Output{}))
	defer tracer.Close()
	log := &testenv.Output{}
	logger := span.Logger(slog.New(slog.NewTextHandler(log, nil))).With("a", 1)
	r := tracer.Begin(span.Origin{Name: "x", Start: time.Now()})
	logger.InfoContext(span.With(context.Background(), r), "with")
	logger.InfoContext(context.Background(), "without")
	with, without, _ := strings.Cut(log.String(), "\n")
	if !strings.Contains(with, "trace_id="+r.ID()) || strings.Contains(without, "trace_id") {
		t.Errorf("the log is %s", log)
	}
}

func TestNewRefusesCertificatesThatItCannotUse(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*tracing.Options){
		func(o *tracing.Options) { o.CA = "/does/not/exist" },
		func(o *tracing.Options) { o.CA = "tracing_test.go" },
		func(o *tracing.Options) { o.ClientCert, o.ClientKey = "/does/not/exist", "/does/not/exist" },
	} {
		o := options("https://127.0.0.1:1", &testenv.Output{})
		change(&o)
		if _, err := tracing.New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// An unsampled request must cost next to nothing.
func BenchmarkBegin(b *testing.B) {
	for _, sampler := range []struct {
		name string
		arg  float64
	}{{"always_off", 0}, {"parentbased_traceidratio", 0.01}, {"always_on", 1}} {
		b.Run(sampler.name, func(b *testing.B) {
			o := options("http://127.0.0.1:1", &testenv.Output{})
			o.Sampler, o.SamplerArg = sampler.name, sampler.arg
			tracer, err := tracing.New(o)
			testenv.NoError(b, err)
			defer tracer.Close()
			b.ReportAllocs()
			for b.Loop() {
				request(tracer, span.Origin{})
			}
		})
	}
}

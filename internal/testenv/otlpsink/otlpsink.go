// Package otlpsink is an OpenTelemetry collector that keeps the traces that it receives over OTLP/HTTP.
package otlpsink

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Sink is a collector.
type Sink struct {
	*httptest.Server

	// Answer answers in place of the collector, unless it returns false.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	body     bytes.Buffer
	header   []http.Header
	spans    []*tracepb.Span
	resource *commonpb.KeyValueList
}

// Start starts a collector, which ends with the test.
func Start(t testing.TB) *Sink {
	s := &Sink{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections) // before Close, which waits for them
	return s
}

// ServeHTTP implements http.Handler.
func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	answer := s.Answer
	s.header = append(s.header, r.Header.Clone())
	s.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	var from io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from = unzipped
	}
	body, err := io.ReadAll(from)
	request := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not an export of traces", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body.Write(body)
	for _, resource := range request.ResourceSpans {
		s.resource = &commonpb.KeyValueList{Values: resource.Resource.Attributes}
		for _, scope := range resource.ScopeSpans {
			s.spans = append(s.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	reply, _ := proto.Marshal(&collector.ExportTraceServiceResponse{})
	_, _ = w.Write(reply)
}

// Hang is an Answer that never comes.
func Hang(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client is gone
	<-r.Context().Done()
	return true
}

// Reply sets Answer.
func (s *Sink) Reply(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Answer = answer
}

// Received returns every byte of every request: the bodies, unzipped, and the header fields.
func (s *Sink) Received() (bodies []byte, header []http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.body.Bytes()), slices.Clone(s.header)
}

// Spans returns the spans that were received.
func (s *Sink) Spans() []*tracepb.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.spans)
}

// Resource returns an attribute of the resource, or "".
func (s *Sink) Resource(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return attribute(s.resource.GetValues(), key)
}

// Attribute returns an attribute of a span as text, or "".
func Attribute(s *tracepb.Span, key string) string { return attribute(s.Attributes, key) }

func attribute(all []*commonpb.KeyValue, key string) string {
	for _, a := range all {
		if a.Key != key {
			continue
		}
		if text, ok := a.Value.Value.(*commonpb.AnyValue_StringValue); ok {
			return text.StringValue
		}
		return a.Value.String()
	}
	return ""
}

// TraceID returns the id of the trace of a span, in hexadecimal.
func TraceID(s *tracepb.Span) string { return hex.EncodeToString(s.TraceId) }

// Children returns the names of the spans right below one, in the order of their start.
func (s *Sink) Children(of *tracepb.Span) (names []string) {
	all := s.Spans()
	slices.SortStableFunc(all, func(a, b *tracepb.Span) int {
		return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano))
	})
	for _, child := range all {
		if bytes.Equal(child.ParentSpanId, of.SpanId) && bytes.Equal(child.TraceId, of.TraceId) {
			names = append(names, child.Name)
		}
	}
	return names
}

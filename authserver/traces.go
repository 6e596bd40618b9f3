package authserver

import (
	"fmt"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/tracing"
)

// newTracer returns what records traces, or nil if the settings turn them off.
func newTracer(c config.Config, o Options) (*tracing.Tracer, error) {
	if !c.Traces.Enabled() {
		return nil, nil //nolint:nilnil // traces are off
	}
	t, to := c.Traces, c.Traces.Export()
	attributes, _ := config.Pairs(t.Attributes) // valid: it was checked
	tracer, err := tracing.New(tracing.Options{
		ServiceName: t.ServiceName, Version: o.Version, Attributes: attributes,
		Sampler: string(t.Sampler), SamplerArg: t.SamplerArg, Propagate: t.Propagates(),
		QueueSize: t.QueueSize, BatchSize: t.BatchSize, Delay: t.Delay, BatchTime: t.BatchTime,
		URL: to.Endpoint, Header: to.HeaderFields(), Timeout: to.Timeout, CA: to.Certificate,
		ClientCert: to.ClientCert, ClientKey: to.ClientKey, Gzip: to.Compression == "gzip",
		Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("traces (%s*): %w", config.OTelPrefix, err)
	}
	return tracer, nil
}

// spans returns the tracer for parts of the server: nil, and not a nil pointer, while traces are off.
func (s *Server) spans() span.Tracer {
	if s.tracer == nil {
		return nil
	}
	return s.tracer
}

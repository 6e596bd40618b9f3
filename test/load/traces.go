package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

// traces compares a server that records traces with one that does not, and, if there is an earlier version of the
// program, one that does not with that.
func (b *bench) traces(ctx context.Context, r *env) error {
	collector, err := startCollector(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = collector.Close() }()
	traced := func(sampler, arg string) (*process, error) {
		return r.startServer(ctx, nil, config.EnvOTelEndpoint+"=http://"+collector.Addr,
			config.EnvOTelTracesSampler+"="+sampler, config.EnvOTelTracesSamplerArg+"="+arg)
	}
	off, err := r.startServer(ctx, nil)
	if err != nil {
		return err
	}
	defer off.stop()
	some, err := traced(string(config.ParentBasedWithRate), "0.01")
	if err != nil {
		return err
	}
	defer some.stop()
	all, err := traced(string(config.AlwaysOn), "1")
	if err != nil {
		return err
	}
	defer all.stop()
	jobs := []struct {
		name string
		make func() job
	}{
		{"GET /tokens/keys", publicKeys},
		{"GET /users", func() job { return r.read(r.access) }},
		{"POST /tokens", func() job { return r.renew(r.refresh[:active]) }},
	}
	compare := func(title, other string, target float64, server, floor *process) error {
		columns := append([]string{}, ratioColumns...)
		columns[2], columns[3], columns[7] = "server/s", other+"/s", "CPU µs per request: server, "+other
		b.table(title, columns...)
		for _, j := range jobs {
			if err := b.compare(j.name, 8, target, b.slice, server, floor, j.make); err != nil {
				return err
			}
		}
		return nil
	}
	if b.before != "" {
		former := *r
		former.program = b.before
		before, err := former.startServer(ctx, nil)
		if err != nil {
			return err
		}
		defer before.stop()
		if err := compare("Traces off, against the program before", "before", 0.99, off, before); err != nil {
			return err
		}
	}
	if err := compare("Traces of 1%, against none", "off", 0.97, some, off); err != nil {
		return err
	}
	return compare("Traces of all requests, against none", "off", 0.5, all, off)
}

func publicKeys() job {
	return job{slots: 1 << 20, prepare: func(_ int, request *fasthttp.Request) { request.SetRequestURI("http://gateway/tokens/keys") }}
}

// startCollector starts a collector that accepts all traces and keeps none.
func startCollector(ctx context.Context) (*http.Server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	collector := &http.Server{
		Addr: l.Addr().String(), ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }),
	}
	go func() { _ = collector.Serve(l) }()
	return collector, nil
}

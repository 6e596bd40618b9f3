package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

const (
	// askTimeout bounds how long a pod may take to answer.
	askTimeout = 2 * time.Second

	// maxState bounds what is read of an answer, and maxAnswered how many keys it
	// may name. A ring has at most 64 keys of each use.
	maxState    = 64 << 10
	maxAnswered = 256

	// maxReason bounds the one text of an answer that a status shows.
	maxReason = 511
)

// askTransport connects to pods directly. HTTP_PROXY is for what lies outside the
// cluster: a proxy would learn the pods' addresses, and could answer in their
// place.
func askTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: askTimeout}).DialContext,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 16 << 10,
	}
}

// ask returns a function that gets the state of a server from its operations
// port. Only the pod itself can answer: the function follows no redirect, and
// takes no other status than 200.
func ask(transport http.RoundTripper) func(context.Context, string) (config.State, error) {
	c := &http.Client{
		Transport: transport, Timeout: askTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, ip string) (config.State, error) {
		address := "http://" + net.JoinHostPort(ip, strconv.Itoa(operationsPort)) + config.StatePath
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return config.State{}, errors.New("its address is not an IP address")
		}
		response, err := c.Do(request)
		if err != nil {
			return config.State{}, cause(err)
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return config.State{}, fmt.Errorf("it answered %d where a server answers 200", response.StatusCode)
		}
		return parseState(response.Body)
	}
}

// parseState reads an answer. Nothing of it is shown but what a State has, and
// that is bounded and printable.
func parseState(body io.Reader) (config.State, error) {
	var state config.State
	text, err := io.ReadAll(io.LimitReader(body, maxState+1))
	switch {
	case err != nil:
		return config.State{}, cause(err)
	case len(text) > maxState:
		return config.State{}, errors.New("its answer is longer than a server's")
	case json.Unmarshal(text, &state) != nil, state.Version == "", state.Keys.Generation < 0,
		len(state.Keys.Held) > maxAnswered, len(state.Keys.Ready) > maxAnswered:
		return config.State{}, errors.New("its answer is not that of a server")
	}
	state.Reason = oneLine(state.Reason, maxReason)
	return state, nil
}

var knownCauses = []struct {
	err   error
	words string
}{
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.ECONNRESET, "connection reset"},
	{syscall.EHOSTUNREACH, "no route to the pod"},
	{syscall.ENETUNREACH, "no route to the pod"},
	{io.EOF, "it closed the connection without an answer"},
	{io.ErrUnexpectedEOF, "it closed the connection without an answer"},
}

// cause is why a pod could not be asked, in words that are the same each time:
// a port of the operator's own, or a time, would be another status each time.
func cause(err error) error {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("it did not answer within %v", askTimeout)
	}
	for _, known := range knownCauses {
		if errors.Is(err, known.err) {
			return errors.New(known.words)
		}
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return errors.New(oneLine(err.Error(), 200))
}

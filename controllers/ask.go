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
	// askTimeout limits how long a pod may take to answer.
	askTimeout = 2 * time.Second

	// maxState limits the size of an answer, and maxAnswered how many keys it may
	// list. A ring has at most 64 keys of each use.
	maxState    = 64 << 10
	maxAnswered = 256

	// maxReason limits the one text of an answer that a status shows.
	maxReason = 511
)

// ask returns a function that reads the state of a server from its operations port. Only the pod itself can answer: ask
// follows no redirect, and ignores HTTP_PROXY, which is for addresses outside the cluster. A proxy would learn the
// pods' addresses and could forge their answers. ask accepts only status 200.
func ask() func(context.Context, string) (config.State, error) {
	c := &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            (&net.Dialer{Timeout: askTimeout}).DialContext,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		Timeout:       askTimeout,
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
			return config.State{}, fmt.Errorf("it answered with status %d instead of 200", response.StatusCode)
		}
		return parseState(response.Body)
	}
}

// parseState parses an answer. It keeps only the fields of a State, and limits the
// text among them to printable characters.
func parseState(body io.Reader) (config.State, error) {
	var state config.State
	text, err := io.ReadAll(io.LimitReader(body, maxState+1))
	switch {
	case err != nil:
		return config.State{}, cause(err)
	case len(text) > maxState:
		return config.State{}, errors.New("its answer is longer than that of a server")
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

// cause describes why a pod did not answer. The text is the same each time: a local
// port or a duration in it would change the status each time.
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

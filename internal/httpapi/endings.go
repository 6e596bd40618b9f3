package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Endings returns which sessions ended: *endings.Feed. See endings.Feed.Next.
type Endings interface {
	Next(ctx context.Context, after string, wait time.Duration, connected func() bool) (endings.Answer, error)
}

// maxWait is how long a request may wait for an ending. Most proxies close a connection that was
// silent for 30 or 60 seconds.
const maxWait = 25 * time.Second

// queryParameters are the parameters that a route reads in the query.
var queryParameters = map[string][]string{"/sessions/ended": {paramAfter, paramWait}}

const (
	paramAfter = "after"
	paramWait  = "wait"
)

// endingsRoute is the state of GET /sessions/ended.
type endingsRoute struct {
	source Endings

	// most bounds the requests that wait. Nothing can evict them, so together they are charged for
	// a quarter of the memory of all connections at most.
	most    int64
	waiting atomic.Int64

	// answering is the parent of their contexts. stop ends their waits, and they are answered.
	answering context.Context
	stop      context.CancelFunc
}

func newEndingsRoute(work context.Context, source Endings, all *connections) *endingsRoute {
	r := &endingsRoute{source: source, most: max(all.memory/4/all.requestCost(), 16)}
	r.answering, r.stop = context.WithCancel(work)
	return r
}

type endingReply struct {
	Kind  endings.Kind `json:"kind"`
	ID    string       `json:"id"`
	Until int64        `json:"until"`
}

type endingsReply struct {
	Ended []endingReply `json:"ended"`
	Next  string        `json:"next"`
	More  bool          `json:"more"`
}

// endedSessions is a long poll. It does not use the context of the route, which ends too early.
func (s *Server) endedSessions(_ context.Context, x *exchange) error {
	uri, _ := originForm(x.http.Request.Header.RequestURI())
	_, query, _ := bytes.Cut(uri, []byte("?"))
	after, wait, err := endingsParameters(query)
	if err != nil {
		return err
	}
	r := s.endings
	if r.source == nil {
		return &identity.Error{
			Kind: identity.Unavailable, Reason: identity.ReasonEndingsNotLoaded,
			Message: "this server does not read which sessions have ended",
		}
	}
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) > r.most {
		return &failure{
			status: http.StatusServiceUnavailable, code: codeInternal, reason: reasonTooManyWait, retryAfter: 5 * time.Second,
			description: "too many requests wait for sessions to end",
		}
	}
	answer, err := r.source.Next(r.answering, after, wait, func() bool { return peerLives(x.http.Conn()) }) //nolint:contextcheck // the wait outlasts the route
	switch {
	case errors.Is(err, endings.ErrCursor):
		return invalidFields([]identity.Problem{{Parameter: paramAfter, Fault: identity.Fault{
			Reason: identity.FieldMalformed, Text: "must be the member next of an earlier reply",
		}}})
	case err != nil:
		return err
	}
	reply := endingsReply{Ended: make([]endingReply, len(answer.Endings)), Next: answer.Next, More: answer.More}
	for i, e := range answer.Endings {
		reply.Ended[i] = endingReply(e)
	}
	return x.reply(http.StatusOK, &reply)
}

// endingsParameters parses the query, which is well-formed.
func endingsParameters(query []byte) (after string, wait time.Duration, err error) {
	values, err := url.ParseQuery(string(query))
	if err != nil {
		return "", 0, invalid(http.StatusBadRequest, reasonQueryMalformed, "the query string is malformed")
	}
	var problems []identity.Problem
	wrong := func(name string, reason identity.FieldReason, text string) {
		problems = append(problems, identity.Problem{Parameter: name, Fault: identity.Fault{Reason: reason, Text: text}})
	}
	for _, name := range []string{paramAfter, paramWait} {
		if len(values[name]) > 1 {
			wrong(name, identity.FieldConflicting, "occurs twice")
		}
	}
	if text := values.Get(paramWait); text != "" {
		seconds, err := strconv.ParseUint(text, 10, 16)
		wait = time.Duration(seconds) * time.Second
		if err != nil || wait > maxWait {
			wrong(paramWait, identity.FieldMalformed, "must be a whole number of seconds from 0 to 25")
		}
	}
	if problems != nil {
		return "", 0, invalidFields(problems)
	}
	return values.Get(paramAfter), wait, nil
}

// watchEndings exports the requests that wait.
func (m *metrics) watchEndings(r *endingsRoute, registerer prometheus.Registerer) {
	if registerer == nil {
		return
	}
	for name, value := range map[string]func() float64{
		"http_endings_waiting":       func() float64 { return float64(r.waiting.Load()) },
		"http_endings_waiting_limit": func() float64 { return float64(r.most) },
	} {
		registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: endingsHelp[name]}, value))
	}
}

var endingsHelp = map[string]string{
	"http_endings_waiting":       "Consumers that wait at GET /sessions/ended.",
	"http_endings_waiting_limit": "How many consumers may wait at GET /sessions/ended; further ones get 503.",
}

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Feed is where the gateway reports ended sessions and revoked keys.
type Feed struct {
	URL       string // the issuer, or the address of the gateway within the cluster
	CallerKey string // sent as X-Caller-Key; optional
}

// MaxLag is how old the knowledge of ended sessions may be. It should be 30 seconds or more: with less, the gateway is
// asked more often.
type MaxLag time.Duration

// FailMode is what happens to tokens while the knowledge of ended sessions is older than MaxLag.
type FailMode int

// The modes.
const (
	FailClosed FailMode = iota // tokens are refused with ErrUnavailable
	FailOpen                   // tokens are accepted, as without WithRevocations
)

// WithRevocations refuses the tokens of ended sessions and revoked keys with ErrEnded, usually within a second. It
// keeps a request to the gateway open, which answers when something ends. Without it a token is accepted until it
// expires.
//
// A client that HTTPClient sets must allow an answer to take half a minute.
func WithRevocations(feed Feed, lag MaxLag, mode FailMode) Option {
	return optionFunc(func(c *config) {
		c.feed, c.maxLag, c.failOpen = &feed, time.Duration(lag), mode == FailOpen
	})
}

const (
	endedPath    = "/sessions/ended"
	longestPoll  = 25 * time.Second
	shortestPoll = 5 * time.Second
	pollPatience = 15 * time.Second // for the answer, beyond the time that it may wait
	maxPage      = 64 << 20
	batchSize    = 4096

	// forgetAfter is how long an entry stays after its until, because a leeway accepts expired tokens.
	forgetAfter    = 2 * time.Minute
	forgetInterval = time.Minute

	shortestPause = 500 * time.Millisecond
	longestPause  = 30 * time.Second
)

// watcher follows the feed. Only its goroutine writes.
type watcher struct {
	feed   Feed
	client *http.Client
	now    func() time.Time
	log    *slog.Logger
	maxLag time.Duration

	failOpen bool

	ended    endedSet
	kids     atomic.Pointer[map[string]uint32] // revoked keys, each until a time
	complete atomic.Int64                      // when the last complete answer was received, in Unix nanoseconds
	failure  atomic.Pointer[Error]             // of the last request; nil if it succeeded

	cursor    string
	forgotten time.Time // when expired entries were last dropped

	ctx  context.Context // ends with close
	stop context.CancelFunc
	done chan struct{}
}

func newWatcher(feed Feed, c *config) *watcher {
	w := &watcher{
		feed: feed, client: c.client, now: c.now, log: c.log, maxLag: c.maxLag, failOpen: c.failOpen, done: make(chan struct{}),
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

func (w *watcher) start() { go w.run() }

func (w *watcher) close() {
	w.stop()
	<-w.done
}

// check refuses the token of an ended session or a revoked key.
func (w *watcher) check(c *Claims, now time.Time) *Error {
	if !w.failOpen {
		if err := w.stale(now); err != nil {
			return err
		}
	}
	if kids := w.kids.Load(); kids != nil {
		if _, revoked := (*kids)[c.KeyID]; revoked {
			return refuse(ErrEnded, ReasonKeyRevoked, "the key of the token was revoked")
		}
	}
	switch {
	case c.SessionID == "":
		return refuse(ErrClaims, ReasonMissingClaim, "the token has no claim sid, so its session cannot be checked")
	case w.ended.has(c.SessionID):
		return refuse(ErrEnded, ReasonSessionEnded, "the session of the token has ended: the user signed out, or changed the password")
	}
	return nil
}

// lag returns the time since the last complete answer, and whether it is short enough. Before the first it is -1.
func (w *watcher) lag(now time.Time) (time.Duration, bool) {
	at := w.complete.Load()
	if at == 0 {
		return -1, false
	}
	lag := max(now.Sub(time.Unix(0, at)), 0)
	return lag, lag <= w.maxLag
}

func (w *watcher) stale(now time.Time) *Error {
	lag, ok := w.lag(now)
	if ok {
		return nil
	}
	message := "the list of ended sessions has not been received yet"
	if lag >= 0 {
		message = "the list of ended sessions is " + about(lag) + " old, longer than MaxLag (" + w.maxLag.String() + ")"
	}
	e := refuse(ErrUnavailable, ReasonStaleRevocations, message)
	if cause := w.failure.Load(); cause != nil {
		e.Message, e.cause = message+": "+cause.Message, cause
	}
	return e
}

// run asks without end. The first request, and the first after a failure, do not wait for something new, because they
// show that the knowledge is complete.
func (w *watcher) run() {
	defer close(w.done)
	// Some time must be left for the next answer.
	wait := min(longestPoll, max(w.maxLag-5*time.Second, w.maxLag/2)).Truncate(time.Second)
	failures, waits := 0, false
	for w.ctx.Err() == nil {
		begin := time.Now()
		page, err := w.ask(waits, wait)
		w.report(err)
		pause := time.Duration(0)
		switch {
		case err != nil:
			failures++
			if waits && time.Since(begin) > wait/4 { // a proxy may give up earlier than the gateway answers
				wait = max(wait/2, min(wait, shortestPoll)).Truncate(time.Second)
			}
			waits = false
			backoff := min(shortestPause<<min(failures-1, 10), longestPause)
			pause = max(backoff/2, err.retryAfter) + rand.N(backoff/2) //nolint:gosec // jitter is no secret
		case page.More:
			failures = 0
		default:
			failures = 0
			w.complete.Store(w.now().UnixNano())
			if waits && page.entries == 0 && time.Since(begin) < wait/2 {
				pause = shortestPause // the server does not wait
			}
			waits = true
		}
		w.forget()
		if !w.sleep(pause) {
			return
		}
	}
}

// sleep reports whether the time has passed before close.
func (w *watcher) sleep(d time.Duration) bool {
	if d <= 0 {
		return w.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (w *watcher) report(err *Error) {
	before := w.failure.Swap(err)
	switch {
	case w.ctx.Err() != nil:
	case err != nil && (before == nil || before.Message != err.Message):
		w.log.Error("auth gateway: the ended sessions cannot be read", "source", w.feed.URL, "error", err)
	case err == nil && before != nil:
		w.log.Info("auth gateway: the ended sessions can be read again", "source", w.feed.URL)
	}
}

// page is an answer without its entries, which are added as they arrive.
type page struct {
	Next    string
	More    bool
	entries int
}

// ask sends one request. Only a whole page moves the cursor.
func (w *watcher) ask(waits bool, wait time.Duration) (page, *Error) {
	if !waits {
		wait = 0
	}
	query := url.Values{"wait": {strconv.Itoa(int(wait / time.Second))}}
	if w.cursor != "" {
		query.Set("after", w.cursor)
	}
	address := strings.TrimSuffix(w.feed.URL, "/") + endedPath
	ctx, cancel := context.WithTimeout(w.ctx, wait+pollPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return page{}, outage(ReasonNotIssuerURL, nil, "%s is not a URL", quote(address))
	}
	request.Header.Set("Accept", "application/json")
	if w.feed.CallerKey != "" {
		request.Header.Set("X-Caller-Key", w.feed.CallerKey)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return page{}, unreachable(err)
	}
	defer func() { _ = response.Body.Close() }()
	switch status := response.StatusCode; status {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusGone:
		w.cursor = "" // the gateway does not know it any more
		return page{}, outage(ReasonMalformedFeed, nil, "%s answers with the status %d; the next request begins at the start", address, status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return page{}, outage(ReasonUnreachable, nil,
			"%s answers with the status %d; is CallerKey the gateway's TRUSTED_CALLER_KEY?", address, status)
	default:
		e := outage(ReasonUnreachable, nil, "%s answers with the status %d", address, status)
		e.retryAfter = retryAfter(response.Header, w.now())
		return page{}, e
	}
	p, err := w.read(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return page{}, outage(ReasonMalformedFeed, err, "the answer of %s cannot be read", address)
	}
	w.cursor = p.Next
	return p, nil
}

// read reads a page without holding it in memory.
func (w *watcher) read(body io.Reader) (page, error) {
	var p page
	d := json.NewDecoder(body)
	if err := expectDelim(d, '{'); err != nil {
		return p, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return p, err
		}
		switch name {
		case "ended":
			p.entries, err = w.readEntries(d)
		case "next":
			err = d.Decode(&p.Next)
		case "more":
			err = d.Decode(&p.More)
		default:
			var ignored json.RawMessage
			err = d.Decode(&ignored)
		}
		if err != nil {
			return p, err
		}
	}
	if err := expectDelim(d, '}'); err != nil {
		return p, err
	}
	if p.Next == "" {
		return p, errors.New("it has no next")
	}
	return p, nil
}

func expectDelim(d *json.Decoder, delim json.Delim) error {
	t, err := d.Token()
	if err == nil && t != delim {
		err = fmt.Errorf("%v instead of %v", t, delim)
	}
	return err
}

// readEntries adds the entries of a page. Unknown kinds are for newer versions of this module.
func (w *watcher) readEntries(d *json.Decoder) (int, error) {
	if err := expectDelim(d, '['); err != nil {
		return 0, err
	}
	now, n := w.seconds(w.now()), 0
	batch := make([]endedEntry, 0, 64)
	for ; d.More(); n++ {
		var e struct {
			Kind, ID string
			Until    int64
		}
		if err := d.Decode(&e); err != nil {
			return n, err
		}
		switch {
		case e.Kind != "sid" && e.Kind != "kid":
			continue
		case e.ID == "" || e.Until <= 0:
			return n, errors.New("an entry has no id or until")
		}
		until := w.seconds(time.Unix(min(e.Until, math.MaxUint32), 0).Add(forgetAfter))
		if e.Kind == "kid" {
			w.revoke(e.ID, until)
			continue
		}
		if batch = append(batch, endedEntry{newEndedID(e.ID), until}); len(batch) == batchSize {
			w.ended.add(batch, now)
			batch = batch[:0]
		}
	}
	w.ended.add(batch, now)
	return n, expectDelim(d, ']')
}

// revoke adds a revoked key. There are few.
func (w *watcher) revoke(id string, until uint32) {
	all := map[string]uint32{}
	if old := w.kids.Load(); old != nil {
		maps.Copy(all, *old)
	}
	all[id] = max(all[id], until)
	w.kids.Store(&all)
}

// forget drops what has expired, once a minute.
func (w *watcher) forget() {
	now := w.now()
	if now.Sub(w.forgotten).Abs() < forgetInterval {
		return
	}
	w.forgotten = now
	w.ended.forget(w.seconds(now))
	if old := w.kids.Load(); old != nil {
		all := maps.Clone(*old)
		maps.DeleteFunc(all, func(_ string, until uint32) bool { return until < w.seconds(now) })
		w.kids.Store(&all)
	}
}

func (w *watcher) seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// Package load sends requests to a gateway at a constant rate, and checks every reply and every token.
//
// A request fails if it gets no reply, or a 5xx or 429. A reply is wrong if it is not true, such as 401 for a valid
// token, which is never acceptable. Every access token is verified by several consumers, when it is issued and until it
// expires. They read a mounted ConfigMap, or the JWKS that the gateway serves.
package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Order describes a load.
type Order struct {
	Gateway   string        `json:"gateway"`   // the URL of its API, which is its issuer too
	CallerKey string        `json:"callerKey"` // lets it verify the users that it signs up
	Rate      int           `json:"rate"`      // requests a second
	Retries   int           `json:"retries"`   // after no reply or a 503; with 0, each failure counts
	Keep      time.Duration `json:"keep"`      // how long the JWKS is cached
	Checks    int           `json:"checks"`    // how often each consumer verifies a token; 0: six times
}

// Consumer is a service that verifies access tokens.
type Consumer struct {
	Name   string // where it has the keys from, and its library
	Verify func(token string) error
}

// Fetching is the consumer of every load that fetches the JWKS itself.
const Fetching = "URL, go-jose"

const (
	users         = 8
	oneTry        = 5 * time.Second
	patience      = 30 * time.Second // limit of a request with all its tries
	maxRejections = 5                // repetitions of a sign-in when a 503 asks for them
)

// Load is a load that runs until it is stopped.
type Load struct {
	order       Order
	kept, fresh *http.Client
	consumers   []Consumer
	fetched     *URL
	users       []*user

	stop     context.CancelFunc
	stopped  chan struct{}
	requests sync.WaitGroup

	mu     sync.Mutex
	report Report
	began  time.Time
	ended  time.Time
	last   time.Time // time of the last correct reply
	tokens []*trackedToken
}

// user has one session at a time.
type user struct {
	name, password, id string

	renewing chan struct{} // capacity 1: one request at a time uses the refresh token

	mu      sync.Mutex
	session session
}

type session struct {
	access, refresh string
	expires         time.Time // of the access token
}

func (u *user) current() session {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.session
}

// trackedToken is a token that is verified until it expires.
type trackedToken struct {
	token, kid      string
	issued, expires time.Time
	next            time.Time
}

// Start signs users up and starts the load.
func Start(ctx context.Context, o Order, consumers ...Consumer) (*Load, error) {
	if o.Rate <= 0 {
		return nil, errors.New("rate is missing: set the requests per second")
	}
	client := func(keepAlive bool) *http.Client {
		return &http.Client{Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second,
		}}
	}
	l := &Load{order: o, kept: client(true), fresh: client(false), stopped: make(chan struct{})}
	l.fetched = NewURL(o.Gateway+"/.well-known/jwks.json", o.Keep, l.fresh)
	l.consumers = append(consumers, Consumer{Fetching, func(token string) error {
		_, err := Verify(token, o.Gateway, l.fetched)
		return err
	}})
	l.report = Report{Answers: map[string]int{}, Tokens: map[string]int{}, Checks: map[string]*Checks{}}
	for _, c := range l.consumers {
		l.report.Checks[c.Name] = &Checks{}
	}
	for range users {
		u, err := l.signUp(ctx)
		if err != nil {
			return nil, err
		}
		l.users = append(l.users, u)
	}
	l.began = time.Now()
	l.last = l.began
	running, stop := context.WithCancel(context.Background()) // the load outlives the request that started it
	l.stop = stop
	go l.run(running)
	return l, nil
}

func (l *Load) signUp(ctx context.Context) (*user, error) {
	u := &user{name: "load-" + strings.ToLower(rand.Text()[:12]), password: rand.Text(), renewing: make(chan struct{}, 1)}
	var account struct{ ID, Code string }
	a := l.once(ctx, l.fresh, http.MethodPost, "/users", "", map[string]string{
		"username": u.name, "email": u.name + "@example.com", "first_name": "Load", "last_name": "Test", "password": u.password,
	})
	if err := a.into(http.StatusCreated, &account); err != nil {
		return nil, fmt.Errorf("sign up: %w", err)
	}
	u.id = account.ID
	a = l.once(ctx, l.fresh, http.MethodPost, "/users/verify-user", "", map[string]string{"code": account.Code})
	if v, text := l.judge(u, session{}, kindSignIn, a); v != good {
		return nil, fmt.Errorf("verify a user: %s", text)
	}
	return u, nil
}

// run sends requests at the rate of the order, independent of replies.
func (l *Load) run(ctx context.Context) {
	defer close(l.stopped)
	checking := make(chan struct{})
	go func() {
		defer close(checking)
		l.check(ctx)
	}()
	interval := time.Second / time.Duration(l.order.Rate)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			l.requests.Wait()
			<-checking
			l.verifyDue(time.Time{})
			l.kept.CloseIdleConnections()
			return
		case <-time.After(time.Until(l.began.Add(time.Duration(n) * interval))):
		}
		u := l.users[mathrand.IntN(len(l.users))]
		k := kindProfile
		switch {
		case n%(2*l.order.Rate) == l.order.Rate: // one every two seconds, because hashing is expensive
			k = kindSignIn
		case mathrand.IntN(4) == 0:
			k = kindRenew
		}
		client := l.kept
		if mathrand.IntN(5) == 0 {
			client = l.fresh
		}
		l.requests.Go(func() { l.send(client, u, k) })
	}
}

type kind string

const (
	kindProfile kind = "GET /users"
	kindRenew   kind = "POST /tokens"
	kindSignIn  kind = "POST /tokens/signin"
)

// send sends a request, and retries it as often as the order allows.
func (l *Load) send(client *http.Client, u *user, k kind) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.mu.Lock()
	l.report.Sent++
	l.mu.Unlock()

	k, release, err := l.prepare(ctx, u, k)
	if err != nil {
		l.conclude(k, failed, "the renewal before it was not answered in time")
		return
	}
	defer release()
	s := u.current()
	for retries, rejections := 0, 0; ; {
		var a answer
		switch k {
		case kindProfile:
			a = l.once(ctx, client, http.MethodGet, "/users", s.access, nil)
		case kindRenew:
			a = l.once(ctx, client, http.MethodPost, "/tokens", "", map[string]string{"refresh_token": s.refresh})
		case kindSignIn:
			a = l.once(ctx, client, http.MethodPost, "/tokens/signin", "", map[string]string{"username": u.name, "password": u.password})
		}
		l.count(a)
		verdict, text := l.judge(u, s, k, a)
		pause := min(200*time.Millisecond<<min(retries, 4), 2*time.Second)
		switch again := a.err != nil || a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests; {
		case verdict == failed && k == kindSignIn && a.status == http.StatusServiceUnavailable && a.after > 0 && rejections < maxRejections:
			rejections++
			pause = a.after
			l.mu.Lock()
			l.report.Rejected++
			l.mu.Unlock()
		case verdict == failed && again && retries < l.order.Retries:
			retries++
			l.mu.Lock()
			l.report.Retried++
			l.mu.Unlock()
		default:
			l.conclude(k, verdict, text)
			return
		}
		select {
		case <-ctx.Done():
			l.conclude(k, failed, text)
			return
		case <-time.After(pause):
		}
	}
}

// prepare makes sure that the session is valid for the request: if the token is about to expire, the request becomes a
// renewal. During a renewal the refresh token must not be used again, so another request is sent.
func (l *Load) prepare(ctx context.Context, u *user, k kind) (kind, func(), error) {
	release := func() { <-u.renewing }
	dying := func() bool { return time.Until(u.current().expires) < 3*time.Second }
	switch k {
	case kindSignIn:
		return k, func() {}, nil
	case kindRenew:
		select {
		case u.renewing <- struct{}{}:
			return k, release, nil
		default:
		}
	}
	if !dying() {
		return kindProfile, func() {}, nil
	}
	select {
	case u.renewing <- struct{}{}:
	case <-ctx.Done():
		return kindProfile, nil, ctx.Err()
	}
	if dying() {
		return kindRenew, release, nil
	}
	release()
	return kindProfile, func() {}, nil
}

// answer is the result of one try.
type answer struct {
	status int
	body   []byte
	after  time.Duration // Retry-After
	err    error
}

func (a answer) into(status int, out any) error {
	if a.err != nil {
		return a.err
	}
	if a.status != status {
		return fmt.Errorf("answered %d, not %d: %.300s", a.status, status, a.body)
	}
	return json.Unmarshal(a.body, out)
}

func (l *Load) once(ctx context.Context, client *http.Client, method, path, token string, body any) answer {
	ctx, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return answer{err: err}
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, l.order.Gateway+path, content)
	if err != nil {
		return answer{err: err}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if l.order.CallerKey != "" {
		request.Header.Set("X-Caller-Key", l.order.CallerKey)
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		a.after = time.Duration(seconds) * time.Second
	}
	a.body, a.err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return a
}

type verdict int

const (
	good verdict = iota
	failed
	wrong
)

// judge checks a reply, and records the tokens of a good one.
func (l *Load) judge(u *user, s session, k kind, a answer) (verdict, string) {
	said := fmt.Sprintf("%d %.300s", a.status, a.body)
	switch {
	case a.err != nil:
		return failed, a.err.Error()
	case a.status >= 500, a.status == http.StatusTooManyRequests:
		return failed, said
	case a.status == http.StatusUnauthorized && k == kindProfile && !time.Now().Before(s.expires):
		return failed, "the token died before there was an answer"
	case a.status != http.StatusOK:
		return wrong, said
	}
	if k == kindProfile {
		var profile struct{ ID, Username string }
		if err := json.Unmarshal(a.body, &profile); err != nil || profile.ID != u.id || profile.Username != u.name {
			return wrong, "the profile of another user, or none"
		}
		return good, ""
	}
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(a.body, &tokens); err != nil || tokens.Access == "" || tokens.Refresh == "" {
		return wrong, "no tokens in what should be some"
	}
	t, owner, err := read(tokens.Access)
	if err != nil {
		return wrong, "the access token cannot be parsed:  " + err.Error()
	}
	if owner != u.id {
		return wrong, "an access token of another user"
	}
	l.verify(t)
	l.mu.Lock()
	l.report.Tokens[t.kid]++
	l.tokens = append(l.tokens, t)
	l.mu.Unlock()
	u.mu.Lock()
	u.session = session{tokens.Access, tokens.Refresh, t.expires}
	u.mu.Unlock()
	return good, ""
}

// read parses a token without verifying it.
func read(token string) (*trackedToken, string, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		return nil, "", err
	}
	var c jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&c); err != nil {
		return nil, "", err
	}
	if c.Expiry == nil || c.IssuedAt == nil {
		return nil, "", errors.New("the token has no exp or no iat")
	}
	return &trackedToken{token: token, kid: parsed.Headers[0].KeyID, issued: c.IssuedAt.Time(), expires: c.Expiry.Time()}, c.Subject, nil
}

// verify has all consumers verify a token.
func (l *Load) verify(t *trackedToken) {
	errs := make([]error, len(l.consumers))
	for i, c := range l.consumers {
		errs[i] = c.Verify(t.token)
	}
	t.next = time.Now().Add(l.pause(t))
	if lastMoment := t.expires.Add(-time.Second); t.next.After(lastMoment) && time.Now().Before(lastMoment) {
		t.next = lastMoment
	}
	if !time.Now().Before(t.expires) {
		return // it may have expired before it was verified: this machine is busy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.consumers {
		l.report.Checks[c.Name].add(t, errs[i])
	}
}

// pause is the time between two verifications of a token.
func (l *Load) pause(t *trackedToken) time.Duration {
	life := t.expires.Sub(t.issued)
	if l.order.Checks > 0 {
		return life / time.Duration(l.order.Checks)
	}
	return min(max(life/6, 3*time.Second), time.Minute)
}

// check verifies the tokens repeatedly until they expire.
func (l *Load) check(ctx context.Context) {
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			l.verifyDue(now)
		}
	}
}

// verifyDue verifies the tokens that are due. If now is zero, it verifies all valid ones.
func (l *Load) verifyDue(now time.Time) {
	var due []*trackedToken
	l.mu.Lock()
	alive := l.tokens[:0]
	for _, t := range l.tokens {
		if !time.Now().Before(t.expires) {
			continue
		}
		alive = append(alive, t)
		if now.IsZero() || !t.next.After(now) {
			due = append(due, t)
		}
	}
	clear(l.tokens[len(alive):])
	l.tokens = alive
	l.mu.Unlock()
	for _, t := range due {
		l.verify(t)
	}
}

func (l *Load) count(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.err != nil {
		l.report.Answers["none"]++
	} else {
		l.report.Answers[strconv.Itoa(a.status)]++
	}
}

func (l *Load) conclude(k kind, v verdict, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	i := Incident{now, string(k), text}
	switch v {
	case good:
		l.report.Good++
		l.report.LongestGap = max(l.report.LongestGap, now.Sub(l.last))
		l.last = now
	case failed:
		l.report.Failed++
		if len(l.report.Failures) < some {
			l.report.Failures = append(l.report.Failures, i)
		}
	case wrong:
		l.report.Wrong++
		if len(l.report.Wrongs) < some {
			l.report.Wrongs = append(l.report.Wrongs, i)
		}
	}
}

// Report returns the state of the load.
func (l *Load) Report() Report {
	surprises := l.fetched.surprised()
	l.mu.Lock()
	defer l.mu.Unlock()
	text, err := json.Marshal(l.report) // a copy that later requests do not change
	var r Report
	if err = errors.Join(err, json.Unmarshal(text, &r)); err != nil {
		panic(err) // a programming error
	}
	now := l.ended
	if now.IsZero() {
		now = time.Now()
		r.LongestGap = max(r.LongestGap, now.Sub(l.last))
	}
	r.Surprises = surprises
	r.Seconds = now.Sub(l.began).Seconds()
	return r
}

// Stop ends the load, waits for requests in flight, and verifies every valid token once more.
func (l *Load) Stop() Report {
	l.mu.Lock()
	if l.ended.IsZero() {
		l.ended = time.Now()
		l.report.LongestGap = max(l.report.LongestGap, l.ended.Sub(l.last))
	}
	l.mu.Unlock()
	l.stop()
	<-l.stopped
	return l.Report()
}

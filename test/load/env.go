package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	issuer     = "http://localhost:8080"
	password   = "note G of 1843"
	cost       = 10
	accessTTL  = 15 * time.Minute
	refreshTTL = 7 * 24 * time.Hour
	sessionTTL = 90 * 24 * time.Hour
)

// An env is a database with signed-in users. The server and the floor have the same keys, so both accept the users'
// tokens.
type env struct {
	db                 *localpostgres.Server
	program            string // the path of the server
	name               string // the name of the database
	algorithm          keys.Algorithm
	accessPassphrase   string
	refreshPassphrase  string
	hash               string
	tokens             *token.Service
	accessKey          floorKey
	refreshKey         floorKey
	document           []byte   // the reply to GET /tokens/keys
	access, refresh    []string // the current tokens, by user
	server, floor      *process // renew only access tokens
	rotating, rotFloor *process // replace the refresh token at each renewal
}

// newEnv has the server create its schema and keys, as in a deployment, and then adds the users by SQL: signing them in
// would take minutes of hashing.
func newEnv(ctx context.Context, db *localpostgres.Server, program, hash string, a keys.Algorithm, users int) (*env, error) {
	r := &env{
		db: db, program: program, name: "load_" + strings.ToLower(string(a)), algorithm: a, hash: hash,
		accessPassphrase: rand.Text(), refreshPassphrase: rand.Text(),
	}
	if err := db.CreateDatabase(ctx, r.name); err != nil {
		return nil, err
	}
	first, err := r.startServer(ctx, nil)
	if err != nil {
		return nil, err
	}
	first.stop()
	if err := r.loadKeys(ctx); err != nil {
		return nil, err
	}
	if err := r.seed(ctx, users); err != nil {
		return nil, fmt.Errorf("seed users: %w", err)
	}
	return r, nil
}

func (r *env) environ(api, metrics string) []string {
	_, port, _ := net.SplitHostPort(api)
	_, metricsPort, _ := net.SplitHostPort(metrics)
	settings := map[string]string{
		config.EnvPort:               port,
		config.EnvHost:               "127.0.0.1",
		config.EnvRefreshPassphrase:  r.refreshPassphrase,
		config.EnvAccessPassphrase:   r.accessPassphrase,
		config.EnvRefreshTokenExpiry: strconv.Itoa(int(refreshTTL.Seconds())),
		config.EnvAccessTokenExpiry:  strconv.Itoa(int(accessTTL.Seconds())),
		config.EnvSaltRounds:         strconv.Itoa(cost),
		config.EnvDBHost:             r.db.Host(),
		config.EnvDBUser:             r.db.User(),
		config.EnvDBPassword:         r.db.Password(),
		config.EnvDBName:             r.name,
		config.EnvDBPort:             strconv.Itoa(r.db.Port()),
		// Servers on one machine need different ports and the same issuer.
		config.EnvMetricsPort:      metricsPort,
		config.EnvIssuer:           issuer,
		config.EnvSigningAlgorithm: string(r.algorithm),
	}
	var environ []string
	for name, value := range settings {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// startServer starts the server and waits until it is ready.
func (r *env) startServer(ctx context.Context, group *cgroup, more ...string) (*process, error) {
	api, err1 := freeAddress()
	metrics, err2 := freeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p, err := launch(ctx, group, append(r.environ(api, metrics), more...), r.program)
	if err != nil {
		return nil, err
	}
	p.address, p.metrics = api, metrics
	return p, r.bring(ctx, p)
}

func (r *env) startFloor(ctx context.Context, rotate bool) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := launchRole(ctx, nil, roleFloor, floorOptions{
		Address: address, DSN: r.db.DSN(r.name), Issuer: issuer,
		Access: r.accessKey, Refresh: r.refreshKey, Document: r.document, Rotate: rotate,
	})
	if err != nil {
		return nil, err
	}
	p.address, p.metrics = address, address
	return p, r.bring(ctx, p)
}

func (r *env) bring(ctx context.Context, p *process) error {
	if err := p.start(); err != nil {
		return err
	}
	err := p.waitUntilReady(ctx)
	if err != nil {
		p.stop()
	}
	return err
}

// startAll starts the servers and floors whose throughput is compared.
func (r *env) startAll(ctx context.Context) (err error) {
	if r.server, err = r.startServer(ctx, nil); err != nil {
		return err
	}
	if r.rotating, err = r.startServer(ctx, nil, config.EnvRefreshTokenRotation+"="+string(config.RotateAlways)); err != nil {
		return err
	}
	if r.floor, err = r.startFloor(ctx, false); err != nil {
		return err
	}
	r.rotFloor, err = r.startFloor(ctx, true)
	return err
}

func (r *env) stopAll() {
	for _, p := range []*process{r.server, r.rotating, r.floor, r.rotFloor} {
		p.stop()
	}
}

// loadKeys opens the keys that the server created.
func (r *env) loadKeys(ctx context.Context) error {
	store, err := postgres.Open(postgres.Config{
		Host: r.db.Host(), Port: r.db.Port(), User: r.db.User(), Password: r.db.Password(), Database: r.name,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	files, _, err := store.LoadRing(ctx)
	if err != nil {
		return err
	}
	ring, err := keys.FromFiles(files)
	if err != nil {
		return err
	}
	opened, err := keys.Open(ring, keys.Passphrases{Access: []string{r.accessPassphrase}, Refresh: []string{r.refreshPassphrase}})
	if err != nil {
		return err
	}
	r.tokens = token.New(token.Config{Issuer: issuer, AccessTTL: accessTTL, Now: time.Now})
	r.tokens.Use(opened)
	if r.accessKey, err = newFloorKey(opened.Signer(keys.Access), "at+jwt"); err != nil {
		return err
	}
	if r.refreshKey, err = newFloorKey(opened.Signer(keys.Refresh), "rt+jwt"); err != nil {
		return err
	}
	r.document, err = json.Marshal(map[string]keys.JWKSet{
		"access_token": keys.JWKS(ring, keys.Access, true), "refresh_token": keys.JWKS(ring, keys.Refresh, true),
	})
	return err
}

func newFloorKey(s keys.Signer, typ string) (floorKey, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.Private)
	return floorKey{Header: encodedHeader(s, typ), PKCS8: der}, err
}

// The IDs of user n and their session are UUIDs.
func userID(n int) string    { return fmt.Sprintf("00000000-0000-7000-8000-%012x", n) }
func sessionID(n int) string { return fmt.Sprintf("00000000-0000-7000-9000-%012x", n) }
func username(n int) string  { return "user" + strconv.Itoa(n) }

func (r *env) seed(ctx context.Context, users int) (err error) {
	conn, err := pgx.Connect(ctx, r.db.DSN(r.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	now := time.Now().UTC().Truncate(time.Second)
	if _, err := conn.Exec(ctx, `
		INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
			scope, password_hash, email_verified_at, activated_at)
		SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user' || n, 'user' || n,
			'user' || n || '@example.com', 'user' || n || '@example.com', 'Ada', 'Lovelace',
			'profile email', $2, now(), now()
		FROM generate_series(0, $1::int - 1) n`, users, r.hash); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `
		INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at)
		SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid,
			('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'profile email', $2, $2, $3, $4
		FROM generate_series(0, $1::int - 1) n`, users, now, now.Add(refreshTTL), now.Add(sessionTTL)); err != nil {
		return err
	}
	// Without VACUUM ANALYZE, both would use plans for empty tables.
	if _, err := conn.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return err
	}
	r.refresh, err = r.freshRefresh(users, 0)
	if err == nil {
		r.access, err = r.freshAccess(min(users, active))
	}
	return err
}

// freshAccess creates access tokens that no server has seen.
func (r *env) freshAccess(count int) ([]string, error) {
	return tokens(count, func(n int) (string, error) {
		return r.tokens.SignAccess(token.Access{
			Subject: userID(n), SessionID: sessionID(n), Scope: "profile email", EmailVerified: true,
			Username: username(n), Email: username(n) + "@example.com", Name: "Ada Lovelace",
		})
	})
}

// freshRefresh creates refresh tokens of generation 0, which differ for each age.
func (r *env) freshRefresh(count int, age time.Duration) ([]string, error) {
	issued := time.Now().Add(-age)
	return tokens(count, func(n int) (string, error) {
		return r.tokens.SignRefresh(token.Refresh{
			Subject: userID(n), SessionID: sessionID(n), IssuedAt: issued, ExpiresAt: issued.Add(refreshTTL),
		})
	})
}

func tokens(count int, sign func(n int) (string, error)) ([]string, error) {
	list := make([]string, count)
	var err error
	for n := range list {
		if list[n], err = sign(n); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Users below active read and renew. The refresh tokens of the next active users are rotated, which would invalidate
// the others'.
const active = 1000

func (r *env) read(access []string) job {
	return job{slots: len(access), prepare: func(n int, request *fasthttp.Request) {
		request.SetRequestURI("http://gateway/users")
		request.Header.Set("Authorization", "Bearer "+access[n])
	}}
}

func (r *env) keys() job {
	return job{slots: active, prepare: func(_ int, request *fasthttp.Request) { request.SetRequestURI("http://gateway/tokens/keys") }}
}

// policies are those that the requests of decide ask for.
const policies = config.EnvAuthzPolicies + `=[{"name": "shop", "scopes": ["profile"]}]`

func (r *env) decide(access []string) job {
	return job{slots: len(access), prepare: func(n int, request *fasthttp.Request) {
		request.SetRequestURI("http://gateway/authz/shop/orders/17?page=2")
		request.Header.Set("Authorization", "Bearer "+access[n])
	}}
}

// startDeciding starts a server that decides, and waits until it knows which sessions have ended.
func (r *env) startDeciding(ctx context.Context, group *cgroup) (*process, error) {
	p, err := r.startServer(ctx, group, policies)
	for try := 0; err == nil; try++ {
		one := drive(p.address, 1, time.Second, job{limit: 1, prepare: r.decide(r.access).prepare})
		if one.good == 1 {
			return p, nil
		}
		if err = ctx.Err(); try == 100 {
			err = one.problem()
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.stop()
	return nil, err
}

func (r *env) renew(refresh []string) job {
	return job{slots: len(refresh), prepare: func(n int, request *fasthttp.Request) {
		post(request, "http://gateway/tokens", `{"refresh_token":"`+refresh[n]+`"}`)
	}}
}

func (r *env) rotate() job {
	refresh := r.refresh[active : 2*active]
	j := r.renew(refresh)
	j.accept = func(n int, response *fasthttp.Response) { refresh[n] = member(response.Body(), "refresh_token") }
	return j
}

// signIn returns a job that signs in the users of no other job.
func (r *env) signIn() job {
	rest := len(r.refresh) - 2*active
	return job{slots: rest, prepare: func(n int, request *fasthttp.Request) {
		body, _ := json.Marshal(map[string]string{"username": username(2*active + n), "password": password})
		post(request, "http://gateway/tokens/signin", string(body))
	}}
}

func health() job {
	return job{prepare: func(_ int, request *fasthttp.Request) { request.SetRequestURI("http://gateway/healthz") }}
}

func post(request *fasthttp.Request, url, body string) {
	request.SetRequestURI(url)
	request.Header.SetMethod(fasthttp.MethodPost)
	request.Header.SetContentType("application/json")
	request.SetBodyString(body)
}

// member returns the value of a member of a flat JSON object whose values contain no escapes. A parser would cost more
// than the server's work.
func member(body []byte, name string) string {
	_, rest, _ := bytes.Cut(body, []byte(`"`+name+`":"`))
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}

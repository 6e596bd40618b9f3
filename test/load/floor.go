package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/keys"
)

// The floor is the baseline that the server is compared with: Fiber and pgx, the statements of internal/postgres, and a
// signature that the standard library checks or creates. It validates, limits, logs, counts and caches nothing, so no
// correct server does less.

// floorStatement is one of internal/postgres' statements.
type floorStatement struct {
	sql    string
	params []string
}

func floorSQL(name string) (st floorStatement) {
	st.sql, st.params = postgres.Statement(name)
	return st
}

var (
	findUser        = floorSQL("FindUser")
	findSession     = floorSQL("FindSession")
	advanceSession  = floorSQL("AdvanceSession")
	findCredentials = floorSQL("FindCredentialsByUsername")
	openSession     = floorSQL("OpenSession")
)

// queryRow runs a statement, and scans its row.
func (f *floor) queryRow(st floorStatement, args pgx.NamedArgs, dest ...any) error {
	values := make([]any, len(st.params))
	for i, name := range st.params {
		values[i] = args[name]
	}
	return f.pool.QueryRow(background, st.sql, values...).Scan(dest...)
}

// floorOptions are sent to the floor's process on its standard input.
type floorOptions struct {
	Address, DSN, Issuer string
	Access, Refresh      floorKey
	Document             []byte // the reply to GET /tokens/keys
	Rotate               bool
}

// floorKey signs and verifies tokens of one use. The keys are the server's, so both accept the same tokens.
type floorKey struct {
	Header  string // of the tokens, encoded
	PKCS8   []byte
	private crypto.Signer
}

// background is never canceled, which spares the driver from watching it.
var background = context.Background()

type floor struct {
	floorOptions
	pool *pgxpool.Pool
}

func serveFloor(ctx context.Context, o floorOptions) error {
	for _, key := range []*floorKey{&o.Access, &o.Refresh} {
		if err := key.open(); err != nil {
			return err
		}
	}
	config, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return err
	}
	config.MaxConns = 10 // the server's default
	f := &floor{floorOptions: o}
	if f.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/tokens/keys", func(c *fiber.Ctx) error { return c.Send(f.Document) })
	app.Get("/users", f.user)
	app.Post("/tokens", f.renew)
	app.Post("/tokens/signin", f.signIn)
	app.Get("/authz/*", f.decide)
	app.Get("/healthz", func(c *fiber.Ctx) error { return c.SendStatus(fiber.StatusOK) })
	app.Get("/readyz", func(c *fiber.Ctx) error { return f.pool.Ping(background) })
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return err
	}
	return app.Listener(listener)
}

type floorUserReply struct {
	ID         string    `json:"id"`
	Username   string    `json:"username"`
	Email      string    `json:"email"`
	FirstName  string    `json:"first_name"`
	LastName   string    `json:"last_name"`
	Name       string    `json:"name"`
	Scope      string    `json:"scope"`
	IsVerified bool      `json:"is_verified"`
	Language   string    `json:"-"`
	Roles      string    `json:"-"`
	Metadata   string    `json:"-"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
}

func (u *floorUserReply) dest() []any {
	return []any{
		&u.ID, &u.Username, &u.Email, &u.FirstName, &u.LastName, &u.Scope, &u.IsVerified, &u.Language,
		&u.CreatedAt, &u.UpdatedAt, &u.Roles, &u.Metadata,
	}
}

type floorSessionRow struct {
	ID, Scope                              string
	Generation                             int64
	OpenedAt, RefreshedAt, ExpiresAt, Ends time.Time
	User                                   floorUserReply
}

func (s *floorSessionRow) dest() []any {
	session := []any{&s.ID, &s.Scope, &s.Generation, &s.OpenedAt, &s.RefreshedAt, &s.ExpiresAt, &s.Ends}
	return append(session, s.User.dest()...)
}

func (f *floor) user(c *fiber.Ctx) error {
	claims, err := f.Access.verify(strings.TrimPrefix(c.Get("Authorization"), "Bearer "))
	if err != nil {
		return err
	}
	var u floorUserReply
	if err := f.queryRow(findUser, claims.session(time.Now()), u.dest()...); err != nil {
		return err
	}
	u.Name = u.FirstName + " " + u.LastName
	return c.JSON(&u)
}

// decide has the cost of a route that reads nothing, such as that of the keys, and of one verification.
func (f *floor) decide(c *fiber.Ctx) error {
	claims, err := f.Access.verify(strings.TrimPrefix(c.Get("Authorization"), "Bearer "))
	if err != nil {
		return err
	}
	c.Set("X-Auth-Subject", claims.Subject)
	return c.SendStatus(fiber.StatusOK)
}

func (f *floor) renew(c *fiber.Ctx) error {
	var body struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.Unmarshal(c.Body(), &body); err != nil {
		return err
	}
	claims, err := f.Refresh.verify(body.RefreshToken)
	if err != nil {
		return err
	}
	now := time.Now()
	st, args := findSession, claims.session(now)
	if f.Rotate {
		st = advanceSession
		args["generation"], args["refreshed_at"], args["lifetime"] = claims.Generation, now.Truncate(time.Second), refreshTTL
		body.RefreshToken = ""
	}
	var s floorSessionRow
	if err := f.queryRow(st, args, s.dest()...); err != nil {
		return err
	}
	return f.tokens(c, s, body.RefreshToken)
}

func (f *floor) signIn(c *fiber.Ctx) error {
	var body struct{ Username, Password string }
	if err := json.Unmarshal(c.Body(), &body); err != nil {
		return err
	}
	var u floorUserReply
	var hash string
	var key []byte
	var failures int
	var since int64
	var found, activated, suspended, known bool
	err := f.queryRow(findCredentials, pgx.NamedArgs{"username": body.Username, "network": ""}, append(u.dest(),
		&found, &hash, &activated, &suspended, &key, &known, &failures, &since)...)
	if err != nil {
		return err
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(body.Password)); err != nil {
		return err
	}
	now := time.Now().Truncate(time.Second)
	s := floorSessionRow{
		ID: uuid.NewString(), Scope: u.Scope, User: u,
		OpenedAt: now, RefreshedAt: now, ExpiresAt: now.Add(refreshTTL), Ends: now.Add(sessionTTL),
	}
	err = f.queryRow(openSession, pgx.NamedArgs{
		"session_id": s.ID, "user_id": u.ID, "scope": s.Scope, "user_agent": "",
		"opened_at": s.OpenedAt, "expires_at": s.ExpiresAt, "ends_at": s.Ends, "keep": 100,
		"password_hash": hash, "throttle": key, "failures": 0, "failure_limit": 10, "forgive": true,
		"network": "", "known_networks": identity.KnownNetworks, "event": nil,
	})
	if err != nil {
		return err
	}
	return f.tokens(c, s, "")
}

// floorClaims are the claims of the server's tokens of both uses; absent claims are omitted.
type floorClaims struct {
	Issuer        string `json:"iss"`
	Subject       string `json:"sub"`
	Audience      string `json:"aud"`
	Expires       int64  `json:"exp"`
	Issued        int64  `json:"iat"`
	ID            string `json:"jti"`
	Scope         string `json:"scope,omitempty"`
	SessionID     string `json:"sid"`
	Generation    *int64 `json:"gen,omitempty"`
	Username      string `json:"username,omitempty"`
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified,omitempty"`
	Name          string `json:"name,omitempty"`
	AuthTime      int64  `json:"auth_time,omitempty"`
}

// tokens signs the same tokens as the server.
func (f *floor) tokens(c *fiber.Ctx, s floorSessionRow, refresh string) (err error) {
	now, lifetime := time.Now().Unix(), int64(accessTTL.Seconds())
	access, err := f.Access.sign(floorClaims{
		Issuer: f.Issuer, Subject: s.User.ID, Audience: f.Issuer, Expires: now + lifetime, Issued: now, ID: rand.Text(),
		Scope: s.Scope, SessionID: s.ID, Username: s.User.Username, Email: s.User.Email, EmailVerified: s.User.IsVerified,
		Name: s.User.FirstName + " " + s.User.LastName, AuthTime: s.OpenedAt.Unix(),
	})
	if err != nil {
		return err
	}
	if refresh == "" {
		refresh, err = f.Refresh.sign(floorClaims{
			Issuer: f.Issuer, Subject: s.User.ID, Audience: f.Issuer, Expires: s.ExpiresAt.Unix(), Issued: s.RefreshedAt.Unix(),
			ID: s.ID + "." + strconv.FormatInt(s.Generation, 10), SessionID: s.ID, Generation: &s.Generation,
		})
		if err != nil {
			return err
		}
	}
	return c.JSON(struct {
		AccessToken      string `json:"access_token"`
		TokenType        string `json:"token_type"`
		ExpiresIn        int64  `json:"expires_in"`
		RefreshToken     string `json:"refresh_token"`
		RefreshExpiresIn int64  `json:"refresh_expires_in"`
		Scope            string `json:"scope"`
	}{access, "Bearer", lifetime, refresh, s.ExpiresAt.Unix() - now, s.Scope})
}

var errSignature = errors.New("the signature is wrong")

// bearer is the part of a token that the floor needs.
type bearer struct {
	Subject    string `json:"sub"`
	SessionID  string `json:"sid"`
	Generation int64  `json:"gen"`
}

// session returns the parameters that the statements take from a token.
func (b bearer) session(now time.Time) pgx.NamedArgs {
	return pgx.NamedArgs{"session_id": b.SessionID, "user_id": b.Subject, "now": now}
}

func (k *floorKey) verify(token string) (claims bearer, err error) {
	dot := strings.LastIndexByte(token, '.')
	_, payload, found := strings.Cut(token[:max(dot, 0)], ".")
	if !found {
		return claims, errSignature
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		return claims, err
	}
	digest := sha256.Sum256([]byte(token[:dot]))
	switch public := k.private.Public().(type) {
	case *ecdsa.PublicKey:
		if len(signature) != 64 || !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]),
			new(big.Int).SetBytes(signature[32:])) {
			return claims, errSignature
		}
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
			return claims, err
		}
	case ed25519.PublicKey:
		if !ed25519.Verify(public, []byte(token[:dot]), signature) {
			return claims, errSignature
		}
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return claims, err
	}
	return claims, json.Unmarshal(text, &claims)
}

func (k *floorKey) sign(claims floorClaims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := k.Header + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	var signature []byte
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			return "", err
		}
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	case *rsa.PrivateKey:
		if signature, err = rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:]); err != nil {
			return "", err
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(private, []byte(text))
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func (k *floorKey) open() error {
	parsed, err := x509.ParsePKCS8PrivateKey(k.PKCS8)
	if err != nil {
		return err
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return errors.New("a key that cannot sign")
	}
	k.private = private
	return nil
}

// encodedHeader returns the first segment of the tokens that a key signs.
func encodedHeader(s keys.Signer, typ string) string {
	header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":%q}`, s.Algorithm, s.ID, typ)
	return base64.RawURLEncoding.EncodeToString([]byte(header))
}

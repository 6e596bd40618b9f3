// Package grpcauth authenticates the callers of a gRPC server with the access tokens of an Auth Gateway.
//
//	auth := grpcauth.New(v,
//		grpcauth.Scopes("/shop.Orders/List", "orders:read"),
//		grpcauth.Public("/grpc.health.v1.Health/Check"))
//	server := grpc.NewServer(grpc.UnaryInterceptor(auth.Unary), grpc.StreamInterceptor(auth.Stream))
//
// A method finds the claims with verify.FromContext. Clients send the token in the metadata, as authorization: Bearer
// TOKEN. Every method needs a token unless Public names it.
package grpcauth

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/auth-gateway/auth-gateway/verify"
)

// Auth has the interceptors of a server.
type Auth struct {
	all     *verify.Verifier
	methods map[string]*verify.Verifier // with their requirements
	public  map[string]bool
}

// Option configures New.
type Option func(*Auth)

// Scopes requires all of some scopes for a method, named as in /package.Service/Method.
func Scopes(method string, scopes ...string) Option { return Require(method, verify.Scopes(scopes...)) }

// Require sets requirements of a method, such as verify.MaxAge.
func Require(method string, requirements ...verify.Requirement) Option {
	return func(a *Auth) {
		v := a.methods[method]
		if v == nil {
			v = a.all
		}
		a.methods[method] = v.With(requirements...)
	}
}

// Public names methods that need no token.
func Public(methods ...string) Option {
	return func(a *Auth) {
		for _, m := range methods {
			a.public[m] = true
		}
	}
}

// New returns the interceptors for a Verifier.
func New(v *verify.Verifier, options ...Option) *Auth {
	a := &Auth{all: v, methods: map[string]*verify.Verifier{}, public: map[string]bool{}}
	for _, o := range options {
		o(a)
	}
	return a
}

// Unary is a grpc.UnaryServerInterceptor.
func (a *Auth) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := a.verify(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Stream is a grpc.StreamServerInterceptor. It verifies the token when the stream begins; the context of the stream
// ends when the token expires.
func (a *Auth) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := a.verify(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if c := verify.FromContext(ctx); c != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, c.ExpiresAt, status.Error(codes.Unauthenticated, "The access token has expired."))
		defer cancel()
	}
	return handler(server, authenticated{stream, ctx})
}

// authenticated is a stream with the claims in its context.
type authenticated struct {
	grpc.ServerStream

	ctx context.Context
}

// Context returns the context with the claims.
func (s authenticated) Context() context.Context { return s.ctx }

// verify returns a context with the claims, or an error with a status.
func (a *Auth) verify(ctx context.Context, method string) (context.Context, error) {
	if a.public[method] {
		return ctx, nil
	}
	v := a.methods[method]
	if v == nil {
		v = a.all
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	token, err := verify.TokenOf(values, false)
	if err == nil {
		var c *verify.Claims
		if c, err = v.Verify(ctx, token); err == nil {
			return verify.NewContext(ctx, c), nil
		}
	}
	code := codes.Unauthenticated
	switch {
	case errors.Is(err, verify.ErrUnavailable), errors.Is(err, verify.ErrSource):
		code = codes.Unavailable
	case errors.Is(err, verify.ErrScope):
		code = codes.PermissionDenied
	}
	_, description := verify.Describe(err)
	return nil, status.Error(code, description)
}

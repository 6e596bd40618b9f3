package grpcauth_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/grpcauth"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

const (
	check = "/grpc.health.v1.Health/Check"
	list  = "/grpc.health.v1.Health/List"
	watch = "/grpc.health.v1.Health/Watch"
)

// healthServer has three methods; Check answers only if the claims reach it.
type healthServer struct{ *health.Server }

func (s healthServer) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if verify.FromContext(ctx).Subject == "" {
		return nil, status.Error(codes.Internal, "no claims")
	}
	return s.Server.Check(ctx, r)
}

func serve(t *testing.T, auth *grpcauth.Auth) grpc_health_v1.HealthClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.UnaryInterceptor(auth.Unary), grpc.StreamInterceptor(auth.Stream))
	grpc_health_v1.RegisterHealthServer(server, healthServer{health.NewServer()})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return grpc_health_v1.NewHealthClient(connection)
}

func with(t *testing.T, values ...string) context.Context {
	t.Helper()
	m := metadata.MD{}
	m.Append("authorization", values...)
	return metadata.NewOutgoingContext(t.Context(), m)
}

func TestInterceptorsAnswerWithAStatus(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v, err := verify.New(t.Context(), issuer.Source(), verify.Audience(verifytest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	client := serve(t, grpcauth.New(v, grpcauth.Public(list), grpcauth.Scopes(watch, "orders:read"),
		grpcauth.Require(watch, verify.MaxAge(time.Minute))))
	good := "Bearer " + issuer.Token(verifytest.Claim("scope", "orders:read"))
	request := &grpc_health_v1.HealthCheckRequest{}
	unary := func(ctx context.Context) error { _, err := client.Check(ctx, request); return err }
	public := func(ctx context.Context) error {
		_, err := client.List(ctx, &grpc_health_v1.HealthListRequest{})
		return err
	}
	stream := func(ctx context.Context) error {
		s, err := client.Watch(ctx, request)
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	for _, tt := range []struct {
		name string
		call func(context.Context) error
		ctx  context.Context
		code codes.Code
		text string
	}{
		{"a good token", unary, with(t, good), codes.OK, ""},
		{"no token", unary, with(t), codes.Unauthenticated, "An access token is required."},
		{"a bad token", unary, with(t, "Bearer x"), codes.Unauthenticated, "The access token is not valid."},
		{"two tokens", unary, with(t, good, good), codes.Unauthenticated, "Send one access token, in the header Authorization."},
		{"a public method", public, with(t), codes.OK, ""},
		{"a stream", stream, with(t, good), codes.OK, ""},
		{"a stream without the scope", stream, with(t, "Bearer "+issuer.Token()), codes.PermissionDenied, "The access token lacks a scope."},
		{"a stream after an old sign-in", stream, with(t, "Bearer "+issuer.Token(verifytest.Claim("scope", "orders:read"), verifytest.Claim("auth_time", 1))), codes.Unauthenticated, "Sign in again."},
	} {
		err := tt.call(tt.ctx)
		if status.Code(err) != tt.code || status.Convert(err).Message() != tt.text {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v, err := verify.New(t.Context(), issuer.Source(), verify.Audience(verifytest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	client := serve(t, grpcauth.New(v))
	token := issuer.Token(verifytest.Claim("exp", time.Now().Add(2*time.Second).Unix()))
	s, err := client.Watch(with(t, "Bearer "+token), &grpc_health_v1.HealthCheckRequest{})
	for err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) == codes.OK || t.Context().Err() != nil {
		t.Error(err)
	}
}

func TestAServerWithoutKeysIsUnavailable(t *testing.T) {
	v, err := verify.New(t.Context(), verify.FromURL("http://127.0.0.1:1"), verify.Audience(verifytest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	_, err = serve(t, grpcauth.New(v)).Check(with(t, "Bearer x"), &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

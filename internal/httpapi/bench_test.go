package httpapi_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// idle is a domain that costs nothing, so the benchmark measures only this layer.
type idle struct{ httpapi.Accounts }

func (idle) Profile(context.Context, string) (identity.User, error) { return theUser(), nil }
func (idle) Renew(context.Context, string) (identity.Tokens, error) { return theTokens(), nil }

const (
	profileWire = "GET /users HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
		"Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzaWQiOiIuLi4ifQ.c2lnbmF0dXJl\r\n\r\n"
	keysWire  = "GET /tokens/keys HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	renewWire = "POST /tokens HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
		"Content-Type: application/json\r\nContent-Length: 92\r\n\r\n" +
		`{"refresh_token":"eyJhbGciOiJFUzI1NiIsInR5cCI6InJ0K2p3dCJ9.eyJzaWQiOiIuLi4ifQ.c2lnbmF0dXJl"}`
)

// BenchmarkLayer compares the cost of a request, over a socket, with that of bare Fiber, which parses and checks nothing.
func BenchmarkLayer(b *testing.B) {
	ours := httpapi.New(httpapi.Options{
		Accounts: idle{}, Keys: newSource(theRing()), Metrics: prometheus.NewRegistry(),
		Log: slog.New(slog.NewJSONHandler(io.Discard, nil)),
	})
	document := make([]byte, 1500) // about as long as that of two keys of each use
	bare := fiber.New(fiber.Config{DisableStartupMessage: true})
	bare.Get("/users", func(c *fiber.Ctx) error {
		return c.JSON(fiber.Map{"id": userID, "username": "ada", "email": "ada@example.com", "name": c.Get("Authorization")})
	})
	bare.Get("/tokens/keys", func(c *fiber.Ctx) error {
		c.Set("Content-Type", "application/json")
		return c.Send(document)
	})
	bare.Post("/tokens", func(c *fiber.Ctx) error {
		var in struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := c.BodyParser(&in); err != nil {
			return err
		}
		return c.JSON(fiber.Map{"access_token": "a.b.c", "refresh_token": in.RefreshToken, "expires_in": 900})
	})
	for _, server := range []struct {
		name  string
		serve func(net.Listener) error
	}{{"ours", ours.Serve}, {"bare", bare.Listener}} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		testenv.NoError(b, err)
		go func() { _ = server.serve(listener) }()
		for name, wire := range map[string]string{"keys": keysWire, "profile": profileWire, "renew": renewWire} {
			b.Run(name+"/"+server.name, func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					c, err := net.Dial("tcp", listener.Addr().String())
					if err != nil {
						b.Error(err)
						return
					}
					defer c.Close()
					reply := make([]byte, 4096)
					for pb.Next() {
						_, _ = c.Write([]byte(wire))
						if n, err := c.Read(reply); err != nil || string(reply[:15]) != "HTTP/1.1 200 OK" {
							b.Errorf("%s %v", reply[:n], err)
							return
						}
					}
				})
			})
		}
	}
}

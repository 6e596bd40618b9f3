// Package fiberauth authenticates the callers of a Fiber 3 application with the access tokens of an Auth Gateway.
//
//	app.Get("/orders", fiberauth.Require(v, "orders:read"), func(c fiber.Ctx) error {
//		return c.JSON(ordersOf(fiberauth.Claims(c).Subject))
//	})
//
// For Fiber 2 see fiberv2auth.
package fiberauth

import (
	"github.com/gofiber/fiber/v3"

	"github.com/auth-gateway/auth-gateway/verify"
)

// Require returns a handler that passes on requests with a valid access token that has all of some scopes. It answers
// others as verify.Verifier.Require does.
func Require(v *verify.Verifier, scopes ...string) fiber.Handler {
	v = v.With(verify.Scopes(scopes...))
	return func(c fiber.Ctx) error {
		r := c.Request()
		var values []string // copies: Fiber reuses the memory of a request
		for _, value := range r.Header.PeekAll(fiber.HeaderAuthorization) {
			values = append(values, string(value))
		}
		token, err := verify.TokenOf(values, r.URI().QueryArgs().Has("access_token"))
		if err == nil {
			var claims *verify.Claims
			if claims, err = v.Verify(c.Context(), token); err == nil {
				c.SetContext(verify.NewContext(c.Context(), claims))
				return c.Next()
			}
		}
		answer := v.Answer(err)
		for name, value := range answer.Header {
			c.Set(name, value)
		}
		return c.Status(answer.Status).SendString(answer.Body)
	}
}

// Claims returns the claims of the token that Require accepted, or nil.
func Claims(c fiber.Ctx) *verify.Claims { return verify.FromContext(c.Context()) }

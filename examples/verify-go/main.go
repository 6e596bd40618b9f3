package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

func main() {
	issuer, token := os.Args[1], os.Args[2]
	// RefreshInterval: a revoked key is refused within a minute.
	keys, err := keyfunc.NewDefaultOverrideCtx(context.Background(),
		[]string{issuer + "/.well-known/jwks.json"}, keyfunc.Override{RefreshInterval: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	var claims jwt.MapClaims
	parsed, err := jwt.ParseWithClaims(token, &claims, keys.Keyfunc, jwt.WithValidMethods([]string{"ES256"}),
		jwt.WithIssuer(issuer), jwt.WithAudience(issuer), jwt.WithExpirationRequired())
	if err != nil {
		log.Fatal(err)
	}
	if parsed.Header["typ"] != "at+jwt" {
		log.Fatal("not an access token")
	}
	fmt.Println("verified:", claims["sub"], claims["scope"])
}

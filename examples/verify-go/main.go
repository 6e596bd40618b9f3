package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/auth-gateway/auth-gateway/verify"
)

func main() {
	ctx, issuer, token := context.Background(), os.Args[1], os.Args[2]
	// The audience is your service. It is the issuer unless the gateway's AUDIENCE is set.
	v, err := verify.New(ctx, verify.FromURL(issuer), verify.Audience(issuer))
	if err != nil {
		log.Fatal(err)
	}
	claims, err := v.Verify(ctx, token)
	if err != nil {
		log.Fatal(err) // the message names the mistake, such as a refresh token
	}
	fmt.Println("verified:", claims.Subject, claims.Scope)
}

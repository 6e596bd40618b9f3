package verify_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
)

// A service in the gateway's namespace mounts the ConfigMap NAME-public-keys.
func Example() {
	v, err := verify.New(context.Background(), verify.FromDir("/etc/auth-gateway"), verify.Audience("https://shop.example.com"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "orders of", verify.FromContext(r.Context()).Subject)
	})
	http.Handle("/orders", v.Require("orders:read")(orders))
	log.Print(http.ListenAndServe(":8080", nil))

	// Output: verify: there is no directory /etc/auth-gateway; mount the ConfigMap NAME-public-keys there
}

// A payment needs a recent sign-in. The other routes do not.
func ExampleVerifier_With() {
	v, err := verify.New(context.Background(), verify.FromURL("https://auth.example.com"), verify.Audience("https://shop.example.com"))
	if err != nil {
		log.Fatal(err)
	}
	recent := v.With(verify.MaxAge(5 * time.Minute))
	http.Handle("/pay", recent.Require("pay")(http.NotFoundHandler()))
}

// Messages name the mistake.
func ExampleVerifier_Verify() {
	source := verify.FromFunc(func(context.Context) (verify.Document, error) {
		return verify.Document{Issuer: "https://auth.example.com", JWKS: []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1",
			"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)}, nil
	})
	v, err := verify.New(context.Background(), source, verify.Audience("https://shop.example.com"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	for _, token := range []string{
		"",
		"Bearer eyJhbGciOiJub25lIn0.e30.",
		"eyJhbGciOiJub25lIn0.e30.",
		"eyJhbGciOiJFUzI1NiIsInR5cCI6InJ0K2p3dCJ9.e30.AAAA",
	} {
		_, err := v.Verify(context.Background(), token)
		fmt.Println(err)
		fmt.Println(errors.Is(err, verify.ErrForm), errors.Is(err, verify.ReasonRefreshToken))
	}

	// Output:
	// verify: the token is empty
	// true false
	// verify: the text begins with "Bearer"; pass only what follows it
	// true false
	// verify: the token says alg none: it is unsigned, and so a forgery or a mistake in a test
	// false false
	// verify: this is a refresh token; send the access token, which was issued with it
	// false true
}

// Tokens of ended sessions are refused within a second or so.
func ExampleWithRevocations() {
	const issuer = "https://auth.example.com"
	v, err := verify.New(context.Background(), verify.FromURL(issuer), verify.Audience("https://shop.example.com"),
		verify.WithRevocations(verify.Feed{URL: issuer}, verify.MaxLag(30*time.Second), verify.FailClosed))
	if err != nil {
		log.Fatal(err)
	}
	if err := v.Wait(context.Background()); err != nil {
		log.Fatal(err)
	}
}

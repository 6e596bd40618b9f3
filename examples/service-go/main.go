package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/auth-gateway/auth-gateway/verify"
)

func main() {
	issuer := os.Args[1]
	v, err := verify.New(context.Background(), verify.FromURL(issuer), verify.Audience(issuer))
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/", v.Require("profile")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", verify.FromContext(r.Context()).Username)
	})))
	log.Fatal(http.ListenAndServe("localhost:9000", nil))
}

// Command backend-go is a backend that uses Auth Gateway with EXPOSURE=internal,
// the default: it signs users up, mails their codes, and has a route for
// signed-in users.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/mail"
	"net/smtp"
	"os"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
)

var (
	listen   = cmp.Or(os.Getenv("LISTEN"), "localhost:3000")
	mailHost = cmp.Or(os.Getenv("SMTP"), "localhost:1025") // the mailbox of make run
	mailFrom = cmp.Or(os.Getenv("MAIL_FROM"), "shop@example.com")
	gateway  = Gateway{
		URL:       cmp.Or(os.Getenv("GATEWAY"), "http://localhost:8080"),
		CallerKey: os.Getenv("TRUSTED_CALLER_KEY"),
	}
)

func main() {
	// If the gateway does not answer yet, requests get 503 until it does.
	verifier, err := verify.New(context.Background(), verify.FromURL(gateway.URL), verify.Audience(gateway.URL))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("POST /signup", signUp)
	http.HandleFunc("POST /verify", pass("/users/verify-user"))
	http.HandleFunc("POST /signin", pass("/tokens/signin"))
	http.HandleFunc("POST /renew", pass("/tokens"))
	http.Handle("GET /orders", verifier.Require("profile")(http.HandlerFunc(orders)))

	server := &http.Server{Addr: listen, ReadHeaderTimeout: 10 * time.Second}
	log.Print("listening on http://", listen)
	log.Fatal(server.ListenAndServe())
}

// signUp creates the account and mails its code. The code must go only to this
// address and must not be in the reply: it proves that the user reads the mail.
func signUp(w http.ResponseWriter, r *http.Request) {
	var person struct {
		Username  string `json:"username"`
		Email     string `json:"email"`
		FirstName string `json:"first_name"`
		LastName  string `json:"last_name"`
		Password  string `json:"password"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&person); err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error_description": "The body is not JSON."})
		return
	}
	var created struct {
		Code string `json:"code"`
	}
	answer, err := gateway.Call(r, "/users", person)
	if err == nil && answer.Status == http.StatusCreated {
		if err = json.Unmarshal(answer.Body, &created); err == nil {
			err = mailCode(person.Email, created.Code)
		}
	}
	switch {
	case err != nil:
		// The user can request another code: POST /users/verification-code.
		log.Print(err)
		reply(w, http.StatusServiceUnavailable, map[string]string{"error_description": "Something went wrong. Try again."})
	case answer.Status != http.StatusCreated:
		answer.Write(w) // its error_description is for people; reason and fields are for pages
	default:
		reply(w, http.StatusAccepted, map[string]string{"message": "Check your inbox."})
	}
}

// mailCode sends a code to the address that it was made for.
func mailCode(to, code string) error {
	address, err := mail.ParseAddress(to) // no line breaks, no second recipient
	if err != nil {
		return err
	}
	text := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: Confirm your email address\r\n\r\n"+
		"Enter this code to confirm your email address:\r\n\r\n%s\r\n\r\nDon't share this code with anyone.\r\n",
		mailFrom, address.Address, code)
	return smtp.SendMail(mailHost, nil, mailFrom, []string{address.Address}, []byte(text))
}

// pass forwards a body to the gateway, and its answer to the client.
func pass(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&body); err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error_description": "The body is not JSON."})
			return
		}
		answer, err := gateway.Call(r, path, body)
		if err != nil {
			log.Print(err)
			reply(w, http.StatusServiceUnavailable, map[string]string{"error_description": "Something went wrong. Try again."})
			return
		}
		answer.Write(w)
	}
}

// orders is one of the shop's own routes, for signed-in users.
func orders(w http.ResponseWriter, r *http.Request) {
	user := verify.FromContext(r.Context())
	reply(w, http.StatusOK, map[string]any{"user": user.Subject, "name": strings.TrimSpace(user.Name), "orders": []string{}})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/examples/browser"
	"github.com/auth-gateway/auth-gateway/internal/config"
)

// These name the ports of this program's pages. They are not settings of the server.
const (
	envMailboxPort = "MAILBOX_PORT"
	envAppPort     = "APP_PORT"

	usualSMTPPort    = 1025
	usualMailboxPort = 8025
	usualAppPort     = 8026
)

// surroundings are the servers that run beside the server: a mailbox, and with EXPOSURE=public an application.
type surroundings struct {
	app     string // the URL of the application; "" without EXPOSURE=public
	mailbox string // the URL of the mailbox; "" if mail goes elsewhere
	smtp    string // the address of the mailbox's SMTP server
	servers []interface{ Close() error }
}

// startSurroundings starts them and adds their addresses to the settings. It does not overwrite settings of the
// environment: if SMTP_HOST is set, mail goes there.
func (r runner) startSurroundings(ctx context.Context, settings map[string]string) (_ *surroundings, err error) {
	p := new(surroundings)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	unlessSet := func(name, value string) {
		if _, given := os.LookupEnv(name); !given {
			settings[name] = value
		}
	}
	if os.Getenv(config.EnvSMTPHost) == "" && os.Getenv(config.EnvMailWebhookURL) == "" {
		if err := r.startMailbox(ctx, p, settings); err != nil {
			return nil, err
		}
		unlessSet(config.EnvMailFrom, "Auth Gateway <no-reply@example.com>")
	}
	if os.Getenv(config.EnvExposure) != string(config.Public) {
		return p, nil
	}
	l, err := r.listen(ctx, host, envAppPort, usualAppPort)
	if err != nil {
		return nil, err
	}
	p.app = urlOf(l)
	handler, err := appHandler(serverURL(settings, config.EnvPort), cmp.Or(os.Getenv(config.EnvSignupRequired),
		strings.Join(config.Defaults().SignupRequired, ",")))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	p.serve(l, handler)
	unlessSet(config.EnvCORSAllowedOrigins, p.app)
	unlessSet(config.EnvMailLinkVerification, p.app+"/#verify={code}")
	unlessSet(config.EnvMailLinkPasswordReset, p.app+"/#reset={code}")
	unlessSet(config.EnvMailLinkEmailChange, p.app+"/#email={code}")
	unlessSet(config.EnvMailLinkInvitation, p.app+"/#reset={code}")
	return p, nil
}

func (r runner) startMailbox(ctx context.Context, p *surroundings, settings map[string]string) error {
	page, err := r.listen(ctx, host, envMailboxPort, usualMailboxPort)
	if err != nil {
		return err
	}
	p.mailbox = urlOf(page)
	box := &mailbox{out: r.out, url: p.mailbox}
	p.serve(page, box.handler())

	l, err := r.listen(ctx, host, config.EnvSMTPPort, usualSMTPPort)
	if err != nil {
		return err
	}
	server := box.smtpServer()
	p.servers = append(p.servers, closing{l, server})
	go func() { _ = server.Serve(l) }() // until it is closed
	p.smtp = l.Addr().String()
	settings[config.EnvSMTPHost], settings[config.EnvSMTPPort] = host, portOf(l)
	settings[config.EnvSMTPTLS] = string(config.NoTLS) // it is on the same machine
	return nil
}

// closing closes a listener, even if its server has not started to use it.
type closing []interface{ Close() error }

func (c closing) Close() error {
	for _, one := range c {
		_ = one.Close() // it may be closed already
	}
	return nil
}

func (p *surroundings) serve(l net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: largestDelay, WriteTimeout: largestDelay, IdleTimeout: time.Minute}
	p.servers = append(p.servers, closing{l, server})
	go func() { _ = server.Serve(l) }() // until it is closed
}

func (p *surroundings) close() error {
	var all error
	for _, server := range p.servers {
		all = errors.Join(all, server.Close())
	}
	return all
}

// appHandler serves the application. Its config.json has the URL of the gateway and the names that the gateway requires
// at sign-up. As usual in production, its origin differs from the gateway's.
func appHandler(gateway, required string) (http.Handler, error) {
	where, err := json.Marshal(map[string]string{"gateway": gateway, "signup_required": required})
	if err != nil {
		return nil, err
	}
	// Injected content cannot run scripts, create scripts from text, or connect to other servers.
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' " + gateway +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(browser.Files))
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(where)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		strict(w.Header(), policy)
		mux.ServeHTTP(w, r)
	}), nil
}

func urlOf(l net.Listener) string { return "http://" + net.JoinHostPort(host, portOf(l)) }

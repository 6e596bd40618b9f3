package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/config"
)

// Where the two pages are; not settings of the server.
const (
	envMailboxPort = "MAILBOX_PORT"
	envAppPort     = "APP_PORT"

	usualSMTPPort    = 1025
	usualMailboxPort = 8025
	usualAppPort     = 8026
)

//go:embed app
var appFiles embed.FS

// public is what EXPOSURE=public needs around the server to be tried: an
// application in the browser, and somebody who takes the mail.
type public struct {
	app     string // its URL
	mailbox string // the URL of its page; "" where mail goes elsewhere
	servers []interface{ Close() error }
}

// startPublic starts both, and adds to the settings what leads to them. What our
// own environment sets stays as it is: with SMTP_HOST in it, mail goes there.
func (r runner) startPublic(ctx context.Context, settings map[string]string) (_ *public, err error) {
	p := new(public)
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

	l, err := r.listen(ctx, envAppPort, usualAppPort)
	if err != nil {
		return nil, err
	}
	p.app = urlOf(l)
	handler, err := appHandler("http://" + net.JoinHostPort(host, settings[config.EnvPort]))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	p.serve(l, handler)
	unlessSet(config.EnvCORSAllowedOrigins, p.app)
	unlessSet(config.EnvMailLinkVerification, p.app+"/#verify={code}")
	unlessSet(config.EnvMailLinkPasswordReset, p.app+"/#reset={code}")
	unlessSet(config.EnvMailLinkEmailChange, p.app+"/#email={code}")
	return p, nil
}

func (r runner) startMailbox(ctx context.Context, p *public, settings map[string]string) error {
	page, err := r.listen(ctx, envMailboxPort, usualMailboxPort)
	if err != nil {
		return err
	}
	p.mailbox = urlOf(page)
	box := &mailbox{out: r.out, url: p.mailbox}
	p.serve(page, box.handler())

	l, err := r.listen(ctx, config.EnvSMTPPort, usualSMTPPort)
	if err != nil {
		return err
	}
	server := box.smtpServer()
	p.servers = append(p.servers, closing{l, server})
	go func() { _ = server.Serve(l) }() // until it is closed
	settings[config.EnvSMTPHost], settings[config.EnvSMTPPort] = host, portOf(l)
	settings[config.EnvSMTPTLS] = string(config.NoTLS) // it is on this very machine
	return nil
}

// closing closes a listener also where its server has not begun to use it yet.
type closing []interface{ Close() error }

func (c closing) Close() error {
	for _, one := range c {
		_ = one.Close() // the other has closed it already
	}
	return nil
}

func (p *public) serve(l net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: largestDelay, WriteTimeout: largestDelay, IdleTimeout: time.Minute}
	p.servers = append(p.servers, closing{l, server})
	go func() { _ = server.Serve(l) }() // until it is closed
}

// close is for a nil one too: in exposure internal there is none.
func (p *public) close() error {
	if p == nil {
		return nil
	}
	var all error
	for _, server := range p.servers {
		all = errors.Join(all, server.Close())
	}
	return all
}

// appHandler serves the application, and tells it where the gateway is. Its origin
// is another than the gateway's, as it mostly is in production.
func appHandler(gateway string) (http.Handler, error) {
	files, err := fs.Sub(appFiles, "app")
	if err != nil {
		return nil, err
	}
	where, err := json.Marshal(map[string]string{"gateway": gateway})
	if err != nil {
		return nil, err
	}
	// Whatever gets into the page can run no script of its own, make none from
	// text, and talk to nobody else.
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' " + gateway +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(where)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		strict(w.Header(), policy)
		mux.ServeHTTP(w, r)
	}), nil
}

// greet tells where all of it is.
func (p *public) greet(r runner, url string) {
	var where strings.Builder
	fmt.Fprintf(&where, "\nAuth Gateway runs at %s\n  its documentation   %[1]s/docs\n  its database        %s\n", url, r.dir)
	if p.mailbox != "" {
		fmt.Fprintf(&where, "  its mail            %s, and here\n", p.mailbox)
	}
	fmt.Fprintf(r.out, `%s
Open the application that uses it, sign up, and follow the link in the mail:

  %s

Ctrl-C stops it. The data stays in %s; remove that folder to begin anew.

`, &where, p.app, r.dir)
}

func urlOf(l net.Listener) string { return "http://" + net.JoinHostPort(host, portOf(l)) }

package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// mailbox is a mail server that delivers nothing. It takes mail from whoever has
// spoken TLS and signed in, under any name: the suite asks under which.
type mailbox struct {
	mu    sync.Mutex
	mails []received
}

// received is a mail, as far as the suite looks at it.
type received struct {
	User    string   `json:"user"` // who handed it over
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	Text    string   `json:"text"`
}

// serve takes mail until ctx ends. tlsDir has tls.crt and tls.key.
func (m *mailbox) serve(ctx context.Context, address, tlsDir string) error {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(tlsDir, "tls.crt"), filepath.Join(tlsDir, "tls.key"))
	if err != nil {
		return err
	}
	s := m.server(certificate)
	s.Addr = address
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return s.ListenAndServe()
}

func (m *mailbox) server(certificate tls.Certificate) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &delivery{to: m}, nil }))
	s.Domain = "mail"
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	s.MaxMessageBytes, s.MaxRecipients = 1<<20, 10
	s.ReadTimeout, s.WriteTimeout = time.Minute, time.Minute
	return s
}

// list answers with all that has come, the oldest first.
func (m *mailbox) list(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	all := slices.Clone(m.mails)
	m.mu.Unlock()
	reply(w, http.StatusOK, map[string]any{"mails": all})
}

// delivery is one connection.
type delivery struct {
	to      *mailbox
	user    string
	present received
}

func (d *delivery) AuthMechanisms() []string { return []string{sasl.Plain} }

func (d *delivery) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, _ string) error {
		d.user = user
		return nil
	}), nil
}

func (d *delivery) Mail(from string, _ *smtp.MailOptions) error {
	if d.user == "" { // which takes TLS: go-smtp offers AUTH to nobody else
		return smtp.ErrAuthRequired
	}
	d.present = received{User: d.user, From: from}
	return nil
}

func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.present.To = append(d.present.To, to)
	return nil
}

func (d *delivery) Data(r io.Reader) error {
	message, err := mail.ReadMessage(r)
	if err == nil {
		d.present.Subject, err = new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	}
	if err == nil {
		d.present.Text, err = text(message.Header.Get("Content-Type"), message.Header.Get("Content-Transfer-Encoding"), message.Body)
	}
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "this is no mail: " + err.Error()}
	}
	d.to.mu.Lock()
	defer d.to.mu.Unlock()
	d.to.mails = append(d.to.mails, d.present)
	return nil
}

func (d *delivery) Reset()        { d.present = received{} }
func (d *delivery) Logout() error { return nil }

// text is the plain text of a mail, or of one of its parts.
func text(contentType, encoding string, body io.Reader) (string, error) {
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", fmt.Errorf("content type: %w", err)
	}
	if strings.HasPrefix(kind, "multipart/") {
		parts := multipart.NewReader(body, parameters["boundary"])
		for {
			part, err := parts.NextRawPart()
			if err != nil {
				return "", fmt.Errorf("it has no text: %w", err)
			}
			if found, err := text(part.Header.Get("Content-Type"), part.Header.Get("Content-Transfer-Encoding"), part); err == nil {
				return found, nil
			}
		}
	}
	if kind != "text/plain" {
		return "", fmt.Errorf("%s is no plain text", kind)
	}
	switch strings.ToLower(encoding) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	content, err := io.ReadAll(body)
	return string(content), err
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// mailbox is a mail server that delivers nothing. It accepts mail over TLS from clients that have signed in, with any
// name, which it records.
type mailbox struct {
	mu    sync.Mutex
	mails []received
}

// received is the part of a mail that the tests check.
type received struct {
	User    string   `json:"user"` // that signed in
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	Text    string   `json:"text"`
}

// serve receives mail until ctx ends. tlsDir has tls.crt and tls.key.
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
	s := smtpsink.Sink{Receive: m.receive, SignIn: true}.Server()
	s.Domain = "mail"
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	s.MaxMessageBytes, s.MaxRecipients = 1<<20, 10
	s.ReadTimeout, s.WriteTimeout = time.Minute, time.Minute
	return s
}

// list returns all mails, oldest first.
func (m *mailbox) list(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	all := slices.Clone(m.mails)
	m.mu.Unlock()
	reply(w, http.StatusOK, map[string]any{"mails": all})
}

func (m *mailbox) receive(sent smtpsink.Mail) error {
	content, err := smtpsink.Read(sent.Raw)
	if err == nil && content.Text == "" {
		err = errors.New("it has no text")
	}
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "not a mail: " + err.Error()}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails = append(m.mails, received{User: sent.User, From: sent.From, To: sent.To, Subject: content.Subject, Text: content.Text})
	return nil
}

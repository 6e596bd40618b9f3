// Package smtpsink is an SMTP server that delivers no mail: it hands each mail that it receives to a function.
package smtpsink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Mail is a mail with its envelope.
type Mail struct {
	User string // the name that the client signed in with, or ""
	From string
	To   []string
	Raw  []byte
}

// Sink configures what a server does with mail.
type Sink struct {
	Receive func(Mail) error                      // if it returns an error, the mail is rejected
	Stream  func(Mail, io.Reader, net.Conn) error // used instead of Receive; it reads the mail from the client's connection
	SignIn  bool                                  // only clients that have signed in may send; a sign-in requires TLS
}

// Server returns a server that has no address yet.
func (s Sink) Server() *smtp.Server {
	return smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{sink: s, client: c.Conn()}, nil
	}))
}

// session is one client's connection.
type session struct {
	sink   Sink
	client net.Conn
	mail   Mail
}

func (*session) AuthMechanisms() []string { return []string{sasl.Plain} }

// Auth accepts every name and password. go-smtp offers it only over TLS.
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, _ string) error {
		s.mail.User = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.sink.SignIn && s.mail.User == "" {
		return smtp.ErrAuthRequired
	}
	s.mail.From = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(body io.Reader) (err error) {
	if s.sink.Stream != nil {
		return s.sink.Stream(s.mail, body, s.client)
	}
	if s.mail.Raw, err = io.ReadAll(body); err != nil {
		return err
	}
	return s.sink.Receive(s.mail)
}

func (s *session) Reset()        { s.mail = Mail{User: s.mail.User} }
func (s *session) Logout() error { return nil }

// Content is the part of a mail that a reader sees.
type Content struct {
	From, Subject string
	Text, HTML    string // decoded
}

// Read decodes a mail. If part of it cannot be decoded, the rest is returned with the error.
func Read(raw []byte) (Content, error) {
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil && !message.IsUnknownCharset(err) {
		return Content{}, err
	}
	var c Content
	c.From = r.Header.Get("From")
	if from, err := r.Header.Text("From"); err == nil {
		c.From = from
	}
	if c.Subject, err = r.Header.Subject(); err != nil {
		c.Subject = r.Header.Get("Subject")
	}
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil && !message.IsUnknownCharset(err) {
			return c, err
		}
		header, inline := part.Header.(*mail.InlineHeader)
		if !inline {
			continue
		}
		mediaType, _, _ := header.ContentType()
		body, err := io.ReadAll(part.Body)
		if err != nil {
			return c, fmt.Errorf("%s: %w", mediaType, err)
		}
		if strings.EqualFold(mediaType, "text/html") {
			c.HTML += string(body)
		} else {
			c.Text += string(body)
		}
	}
}

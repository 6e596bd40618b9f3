package mail

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	netmail "net/mail"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
	"golang.org/x/net/idna"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	connectTimeout = 15 * time.Second // for connecting, TLS and authentication
	hangUpTimeout  = 2 * time.Second
	idleTimeout    = 10 * time.Second // servers close idle connections, and allow few
)

// TLSMode says how TLS to an SMTP server starts.
type TLSMode string

// The modes. StartTLS never falls back to plain text.
const (
	StartTLS    TLSMode = "starttls"
	ImplicitTLS TLSMode = "implicit"
	NoTLS       TLSMode = "none"
)

// SMTPOptions configure the connection to an SMTP server.
type SMTPOptions struct {
	Host     string
	Port     int
	TLS      TLSMode
	CAFile   string // "": the system's
	Username string // "": no authentication
	Password func() string
	From     string // an address, or Name <address>
	Hello    string // our host name; the server writes it into the mail
}

// SMTP sends mails through an SMTP server, with one connection for each Conn.
type SMTP struct {
	options SMTPOptions
	name    string // host and port
	from    netmail.Address
	connect time.Duration // shorter in tests
	idle    time.Duration
}

var _ Transport = (*SMTP)(nil)

// NewSMTP returns a transport. It checks the options, but does not connect.
func NewSMTP(o SMTPOptions) (*SMTP, error) {
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("the sender %q is not an email address: write one such as no-reply@example.com", o.From)
	}
	if from.Address, err = asciiAddress(from.Address); err != nil {
		return nil, fmt.Errorf("the sender %q: %w", o.From, err)
	}
	if o.Password == nil {
		o.Password = func() string { return "" }
	}
	s := &SMTP{
		options: o, from: *from, connect: connectTimeout, idle: idleTimeout,
		name: net.JoinHostPort(o.Host, strconv.Itoa(o.Port)),
	}
	_, err = s.tlsConfig()
	return s, err
}

// tlsConfig reads the certificates each time, so that a replaced file takes effect without a restart.
func (s *SMTP) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.options.Host, MinVersion: tls.VersionTLS12}
	if s.options.CAFile == "" || s.options.TLS == NoTLS {
		return c, nil
	}
	pem, err := os.ReadFile(s.options.CAFile)
	if err != nil {
		return nil, fmt.Errorf("the CA certificates of the mail server: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, hint(s.options.CAFile + " contains no PEM certificate: write the CA certificate of the mail server to it")
	}
	return c, nil
}

// asciiAddress returns an address with the A-labels of its domain. Not all servers support
// internationalized mail (RFC 6531), and domains do not need it.
func asciiAddress(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return "", errors.New("it contains no @")
	}
	for i := range at {
		if address[i] < ' ' || address[i] > '~' {
			return "", errors.New("only ASCII is allowed before the @")
		}
	}
	domain, err := idna.Lookup.ToASCII(address[at+1:])
	if err != nil {
		return "", errors.New("the text after the @ is not a domain")
	}
	return address[:at+1] + domain, nil
}

// Open returns a Conn that connects when it is needed.
func (s *SMTP) Open() Conn { return &smtpConn{server: s} }

// An smtpConn is one connection. It is kept open for some seconds after a mail.
type smtpConn struct {
	server *SMTP

	mu     sync.Mutex
	conn   net.Conn // below TLS; closing it unblocks every read and write
	client *smtp.Client
	timer  *time.Timer
}

// Ready connects, unless the connection still works.
func (c *smtpConn) Ready(ctx context.Context) (certain bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.rest()
	c.stopTimer()
	if c.client != nil && c.stillThere(ctx) {
		return true, nil
	}
	err = c.dial(ctx)
	return err == nil, err
}

// Send sends one mail. If a connection that was used before is broken, and the mail was
// not sent yet, it connects once more.
func (c *smtpConn) Send(ctx context.Context, m identity.Message, letter Letter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.rest()
	c.stopTimer()

	// The recipient must be the exact text that accounts are compared by. Mail to another
	// folding of it would prove the address to someone else.
	to, err := asciiAddress(m.To)
	if err == nil && to != m.To {
		err = errors.New("it is not in canonical form")
	}
	if err != nil {
		err = fmt.Errorf("the recipient's address: %w", err)
		return &MailError{Transport: c.server.name, Step: "writing the mail", Permanent: true, Err: err}
	}
	content, err := c.server.compose(to, letter)
	if err != nil {
		return &MailError{Transport: c.server.name, Step: "writing the mail", Permanent: true, Err: err}
	}
	if c.client != nil && c.stillThere(ctx) { // RSET also clears the state that a refused mail has left
		err := c.begin(ctx)
		if err == nil {
			return c.handOver(ctx, to, content)
		}
		if !isGone(err) {
			return err
		}
	}
	if err := c.dial(ctx); err != nil {
		return err
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	return c.handOver(ctx, to, content)
}

// isGone reports whether the server closed the connection, which it may do at any time,
// for example after a number of mails. Another connection may work.
func isGone(err error) bool {
	e, ok := errors.AsType[*TransportError](err)
	return ok && (e.Reply.Code == 0 || e.Reply.Code == 421)
}

// Close ends the connection.
func (c *smtpConn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopTimer()
	c.hangUp()
}

func (c *smtpConn) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// rest closes the connection after it was idle for a while.
func (c *smtpConn) rest() {
	if c.client != nil {
		c.timer = time.AfterFunc(c.server.idle, c.Close)
	}
}

// hangUp sends QUIT, and does not wait long for the reply.
func (c *smtpConn) hangUp() {
	if c.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangUpTimeout)
	defer cancel()
	defer c.guard(ctx)()
	_ = c.client.Quit()
	c.drop()
}

func (c *smtpConn) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.client = nil, nil
}

// guard closes the connection when ctx ends: only that unblocks every read and write.
func (c *smtpConn) guard(ctx context.Context) (release func() bool) {
	conn := c.conn
	return context.AfterFunc(ctx, func() { _ = conn.Close() })
}

func (c *smtpConn) stillThere(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.server.connect)
	defer cancel()
	defer c.guard(ctx)()
	if err := c.client.Reset(); err != nil {
		c.drop()
		return false
	}
	return true
}

// dial connects, starts TLS and authenticates.
func (c *smtpConn) dial(ctx context.Context) (err error) {
	o := c.server.options
	ctx, cancel := context.WithTimeout(ctx, c.server.connect)
	defer cancel()
	c.drop()
	defer func() {
		if err != nil {
			c.drop()
		}
	}()
	config, err := c.server.tlsConfig()
	if err != nil {
		return c.transportError(ctx, "connecting", err)
	}
	if c.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", c.server.name); err != nil {
		return c.transportError(ctx, "connecting", err)
	}
	defer c.guard(ctx)()

	conn := c.conn
	if o.TLS == ImplicitTLS {
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return c.transportError(ctx, "starting TLS", err)
		}
		conn = secured
	}
	client, err := smtp.NewClient(conn, o.Host)
	if err != nil {
		return c.transportError(ctx, "waiting for its greeting", err)
	}
	client.SkipSMTPUTF8(true) // our addresses are ASCII, and the next server may not support it
	if err := client.Hello(o.Hello); err != nil {
		return c.transportError(ctx, "greeting it", err)
	}
	if o.TLS == StartTLS {
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return c.transportError(ctx, "starting TLS", errNoSTARTTLS)
		}
		if err := client.StartTLS(config); err != nil {
			return c.transportError(ctx, "starting TLS", err)
		}
	}
	if o.Username != "" {
		auth, err := c.server.auth(client)
		if err != nil {
			return c.transportError(ctx, "authenticating", err)
		}
		if err := client.Auth(auth); err != nil {
			return c.transportError(ctx, "authenticating", err)
		}
	}
	c.client = client
	return nil
}

// hint is an error with our own text, which may be logged.
type hint string

func (h hint) Error() string { return string(h) }

const (
	errNoSTARTTLS hint = "it does not offer STARTTLS, and mail is never sent in plain text: " +
		"use the port that offers it (usually 587), or implicit TLS (usually port 465)"
	errNoAuth       hint = "it does not offer authentication: remove the user and the password, or use the port that offers it (usually 587)"
	errNoClearAuth  hint = "it offers no authentication that keeps the password secret without TLS: use STARTTLS or implicit TLS"
	errNoCommonAuth hint = "it offers none of SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN and LOGIN for authentication"
	errNotSMTP      hint = "its reply is not SMTP: check host, port and TLS"
	errTooSlow      hint = "it took too long"
	errStopped      hint = "the gateway is stopping"
)

// auth chooses the authentication mechanism. A password is only sent in plain text over TLS or to the local host.
func (s *SMTP) auth(client *smtp.Client) (smtp.Auth, error) {
	offered, list := client.Extension("AUTH")
	if !offered {
		return nil, errNoAuth
	}
	o, password := s.options, s.options.Password()
	private := o.TLS != NoTLS || isLoopback(o.Host)
	mechanisms := strings.Fields(strings.ToUpper(list))
	for _, m := range []struct {
		name  string
		plain bool
		auth  func() smtp.Auth
	}{
		{"SCRAM-SHA-256", false, func() smtp.Auth { return smtp.ScramSHA256Auth(o.Username, password) }},
		{"SCRAM-SHA-1", false, func() smtp.Auth { return smtp.ScramSHA1Auth(o.Username, password) }},
		{"CRAM-MD5", false, func() smtp.Auth { return smtp.CRAMMD5Auth(o.Username, password) }},
		{"PLAIN", true, func() smtp.Auth { return smtp.PlainAuth("", o.Username, password, o.Host, private) }},
		{"LOGIN", true, func() smtp.Auth { return smtp.LoginAuth(o.Username, password, o.Host, private) }},
	} {
		if slices.Contains(mechanisms, m.name) && (private || !m.plain) {
			return m.auth(), nil
		}
	}
	if !private && (slices.Contains(mechanisms, "PLAIN") || slices.Contains(mechanisms, "LOGIN")) {
		return nil, errNoClearAuth
	}
	return nil, errNoCommonAuth
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// begin sends MAIL FROM. A refusal of our sender applies to every mail.
func (c *smtpConn) begin(ctx context.Context) error {
	defer c.guard(ctx)()
	if err := c.client.Mail(angle(c.server.from.Address)); err != nil {
		defer c.drop()
		return c.transportError(ctx, "naming the sender", err)
	}
	return nil
}

// handOver sends RCPT TO and the mail.
func (c *smtpConn) handOver(ctx context.Context, to string, content []byte) error {
	defer c.guard(ctx)()
	if err := c.client.Rcpt(angle(to)); err != nil {
		return c.mailError(ctx, "naming the recipient", err)
	}
	w, err := c.client.Data()
	if err != nil {
		return c.mailError(ctx, "starting the mail", err)
	}
	if _, err := w.Write(content); err != nil {
		return c.mailError(ctx, "sending the mail", err)
	}
	// If this fails without a reply, the server may have accepted the mail.
	if err := w.Close(); err != nil {
		return c.mailError(ctx, "ending the mail", err)
	}
	return nil
}

// angle returns an address as a path (RFC 5321 section 4.1.2), quoted if necessary.
func angle(address string) string { return (&netmail.Address{Address: address}).String() }

func (c *smtpConn) transportError(ctx context.Context, step string, err error) error {
	reply, err := c.explain(ctx, err)
	return &TransportError{Transport: c.server.name, Step: step, Reply: reply, Err: err}
}

// mailError distinguishes a refusal of this mail from a refusal of all mails.
func (c *smtpConn) mailError(ctx context.Context, step string, err error) error {
	reply, err := c.explain(ctx, err)
	switch reply.Code {
	case 421, // RFC 5321 section 3.8: the server closes the connection
		530, 535, 538: // RFC 4954 section 6: authentication is required
		c.drop()
		return &TransportError{Transport: c.server.name, Step: step, Reply: reply, Err: err}
	}
	if reply.Code < 400 || reply.Code > 599 {
		c.drop() // the connection broke, or the reply is not SMTP
	}
	return &MailError{Transport: c.server.name, Step: step, Reply: reply, Permanent: reply.Code >= 500 && reply.Code <= 599, Err: err}
}

// enhancedCode matches the start of a reply (RFC 2034).
var enhancedCode = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}\b`)

// explain returns the part of an error that may be logged. It leaves out the texts of
// replies, and errors that quote them.
func (c *smtpConn) explain(ctx context.Context, err error) (Reply, error) {
	var (
		reply   *textproto.Error
		network net.Error
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		path    *os.PathError
		known   hint
	)
	switch {
	case errors.As(err, &reply):
		return Reply{Code: reply.Code, Enhanced: enhancedCode.FindString(reply.Msg)}, nil
	case errors.As(err, &known):
		return Reply{}, known
	case errors.Is(ctx.Err(), context.Canceled):
		return Reply{}, errStopped
	case ctx.Err() != nil:
		return Reply{}, errTooSlow
	case errors.As(err, &cert):
		return Reply{}, cert
	case errors.As(err, &record):
		return Reply{}, errors.New("its reply is not TLS: check host, port and TLS")
	case errors.As(err, &alert):
		return Reply{}, alert
	case errors.As(err, &path):
		return Reply{}, path
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reply{}, errors.New("it closed the connection")
	case errors.As(err, &network):
		return Reply{}, network
	case strings.HasPrefix(err.Error(), "tls: "):
		return Reply{}, err
	}
	return Reply{}, errNotSMTP
}

// compose writes the mail. Each copy has a new Message-ID, because it has a new code:
// different mails must not look like duplicates to a mail server.
func (s *SMTP) compose(to string, letter Letter) ([]byte, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&s.from)
	if err := msg.To(angle(to)); err != nil {
		return nil, errors.New("the recipient's address is not allowed in a mail header")
	}
	msg.Subject(letter.Subject)
	msg.SetDateWithValue(time.Now().UTC())
	msg.SetMessageIDWithValue(rand.Text() + s.from.Address[strings.LastIndexByte(s.from.Address, '@'):])
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: prevents automatic replies
	msg.SetBodyString(gomail.TypeTextPlain, letter.Text)
	if letter.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, letter.HTML)
	}
	var content bytes.Buffer
	if _, err := msg.WriteTo(&content); err != nil {
		return nil, errors.New("the mail cannot be written as MIME")
	}
	return content.Bytes(), nil
}

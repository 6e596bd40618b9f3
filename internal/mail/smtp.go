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
	connectTimeout = 15 * time.Second // until the server has said that it is ready, and let us in
	hangUpTimeout  = 2 * time.Second
	idleTimeout    = 10 * time.Second // servers close idle connections, and have few of them
)

// TLSMode says how TLS to an SMTP server begins.
type TLSMode string

// The ways. StartTLS never falls back to sending in the clear.
const (
	StartTLS    TLSMode = "starttls"
	ImplicitTLS TLSMode = "implicit"
	NoTLS       TLSMode = "none"
)

// SMTPOptions says which server takes the mail.
type SMTPOptions struct {
	Host     string
	Port     int
	TLS      TLSMode
	CAFile   string // "": the system's
	Username string // "": without signing in
	Password func() string
	From     string // an address, or Name <address>
	Hello    string // a host name of ours; the server writes it into the mail
}

// SMTP hands mails to an SMTP server. It makes a connection for each Conn.
type SMTP struct {
	options SMTPOptions
	name    string // host and port
	from    netmail.Address
	connect time.Duration // tests have less time
	idle    time.Duration
}

var _ Transport = (*SMTP)(nil)

// NewSMTP checks what can be checked without the server.
func NewSMTP(o SMTPOptions) (*SMTP, error) {
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("the sender %q is no email address: write one, such as no-reply@example.com", o.From)
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

// tlsConfig reads the certificates each time, so that a file that was replaced counts
// without a restart.
func (s *SMTP) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.options.Host, MinVersion: tls.VersionTLS12}
	if s.options.CAFile == "" || s.options.TLS == NoTLS {
		return c, nil
	}
	pem, err := os.ReadFile(s.options.CAFile)
	if err != nil {
		return nil, fmt.Errorf("the certificates to check the mail server with: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, hint(s.options.CAFile + " has no certificate in PEM to check the mail server with: write there the one of its authority")
	}
	return c, nil
}

// asciiAddress gives the address as it goes over the wire: servers that know
// internationalized mail (RFC 6531) are not everywhere, and domains need none.
func asciiAddress(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return "", errors.New("there is no @ in it")
	}
	for i := range at {
		if address[i] < ' ' || address[i] > '~' {
			return "", errors.New("only ASCII may stand before the @")
		}
	}
	domain, err := idna.Lookup.ToASCII(address[at+1:])
	if err != nil {
		return "", errors.New("what stands after the @ is no domain")
	}
	return address[:at+1] + domain, nil
}

// Open gives a line that connects when it is needed.
func (s *SMTP) Open() Conn { return &smtpConn{server: s} }

// An smtpConn is one connection, kept for some seconds after a mail.
type smtpConn struct {
	server *SMTP

	mu     sync.Mutex
	conn   net.Conn // below TLS; closing it ends whatever waits
	client *smtp.Client
	timer  *time.Timer
}

// Ready connects where there is no connection that works.
func (l *smtpConn) Ready(ctx context.Context) (certain bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.rest()
	l.stopTimer()
	if l.client != nil && l.stillThere(ctx) {
		return true, nil
	}
	err = l.dial(ctx)
	return err == nil, err
}

// Send hands one mail over. Where a connection that was used before turns out to be
// dead before the mail was handed over, it connects once more.
func (l *smtpConn) Send(ctx context.Context, m identity.Message, letter Letter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.rest()
	l.stopTimer()

	// The recipient is the text that accounts are compared by, and no folding of it:
	// mail that went elsewhere would prove an address to someone else.
	to, err := asciiAddress(m.To)
	if err == nil && to != m.To {
		err = errors.New("it is not in canonical form")
	}
	if err != nil {
		return &MailError{Transport: l.server.name, Step: "writing the mail", Permanent: true, Err: fmt.Errorf("the recipient's address: %w", err)}
	}
	content, err := l.server.compose(to, letter)
	if err != nil {
		return &MailError{Transport: l.server.name, Step: "writing the mail", Permanent: true, Err: err}
	}
	if l.client != nil {
		// RSET also clears what a mail that was refused has left.
		if l.stillThere(ctx) {
			err := l.begin(ctx)
			if err == nil {
				return l.handOver(ctx, to, content)
			}
			if !isGone(err) {
				return err
			}
		}
	}
	if err := l.dial(ctx); err != nil {
		return err
	}
	if err := l.begin(ctx); err != nil {
		return err
	}
	return l.handOver(ctx, to, content)
}

// isGone tells that a server ended a connection, which it may do at any time, and
// does after so and so many mails; another one may work.
func isGone(err error) bool {
	var c *TransportError
	return errors.As(err, &c) && (c.Reply.Code == 0 || c.Reply.Code == 421)
}

// Close ends the connection.
func (l *smtpConn) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimer()
	l.hangUp()
}

func (l *smtpConn) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// rest closes the connection when nothing has needed it for a while.
func (l *smtpConn) rest() {
	if l.client != nil {
		l.timer = time.AfterFunc(l.server.idle, l.Close)
	}
}

// hangUp says goodbye, and does not wait long for the reply.
func (l *smtpConn) hangUp() {
	if l.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangUpTimeout)
	defer cancel()
	defer l.guard(ctx)()
	_ = l.client.Quit()
	l.drop()
}

func (l *smtpConn) drop() {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	l.conn, l.client = nil, nil
}

// guard closes the connection when ctx ends: nothing else ends every read and write.
func (l *smtpConn) guard(ctx context.Context) (release func() bool) {
	conn := l.conn
	return context.AfterFunc(ctx, func() { _ = conn.Close() })
}

func (l *smtpConn) stillThere(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, l.server.connect)
	defer cancel()
	defer l.guard(ctx)()
	if err := l.client.Reset(); err != nil {
		l.drop()
		return false
	}
	return true
}

// dial connects, secures the connection and signs in.
func (l *smtpConn) dial(ctx context.Context) (err error) {
	o := l.server.options
	ctx, cancel := context.WithTimeout(ctx, l.server.connect)
	defer cancel()
	l.drop()
	defer func() {
		if err != nil {
			l.drop()
		}
	}()
	config, err := l.server.tlsConfig()
	if err != nil {
		return l.transportError(ctx, "connecting", err)
	}
	if l.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.server.name); err != nil {
		return l.transportError(ctx, "connecting", err)
	}
	defer l.guard(ctx)()

	conn := l.conn
	if o.TLS == ImplicitTLS {
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return l.transportError(ctx, "beginning TLS", err)
		}
		conn = secured
	}
	client, err := smtp.NewClient(conn, o.Host)
	if err != nil {
		return l.transportError(ctx, "waiting for its greeting", err)
	}
	client.SkipSMTPUTF8(true) // our addresses are ASCII, and where they go on to may not know it
	if err := client.Hello(o.Hello); err != nil {
		return l.transportError(ctx, "greeting it", err)
	}
	if o.TLS == StartTLS {
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return l.transportError(ctx, "beginning TLS", errNoSTARTTLS)
		}
		if err := client.StartTLS(config); err != nil {
			return l.transportError(ctx, "beginning TLS", err)
		}
	}
	if o.Username != "" {
		auth, err := l.server.auth(client)
		if err != nil {
			return l.transportError(ctx, "signing in", err)
		}
		if err := client.Auth(auth); err != nil {
			return l.transportError(ctx, "signing in", err)
		}
	}
	l.client = client
	return nil
}

// hint is an error whose text is ours, so it may be shown.
type hint string

func (h hint) Error() string { return string(h) }

const (
	errNoSTARTTLS   hint = "it does not offer STARTTLS, and nothing is sent in the clear: use the port that offers it (mostly 587), or implicit TLS (mostly port 465)"
	errNoAuth       hint = "it offers no way to sign in: take the user and the password away, or use the port that offers it (mostly 587)"
	errNoClearAuth  hint = "it offers no way to sign in that keeps the password secret without TLS: use STARTTLS or implicit TLS"
	errNoCommonAuth hint = "it offers none of SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN and LOGIN to sign in with"
	errNotSMTP      hint = "its reply is not SMTP: check host, port and TLS"
	errTooSlow      hint = "it took too long"
	errStopped      hint = "we are stopping"
)

// auth chooses how to sign in. A password goes as it is over TLS alone, or to this
// very machine.
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

// begin names the sender. A refusal of ours is a refusal of every mail.
func (l *smtpConn) begin(ctx context.Context) error {
	defer l.guard(ctx)()
	if err := l.client.Mail(angle(l.server.from.Address)); err != nil {
		defer l.drop()
		return l.transportError(ctx, "naming the sender", err)
	}
	return nil
}

// handOver names the recipient and sends the mail.
func (l *smtpConn) handOver(ctx context.Context, to string, content []byte) error {
	defer l.guard(ctx)()
	if err := l.client.Rcpt(angle(to)); err != nil {
		return l.mailError(ctx, "naming the recipient", err)
	}
	w, err := l.client.Data()
	if err != nil {
		return l.mailError(ctx, "beginning the mail", err)
	}
	if _, err := w.Write(content); err != nil {
		return l.mailError(ctx, "sending the mail", err)
	}
	// Where this fails without a reply, the server may have taken the mail.
	if err := w.Close(); err != nil {
		return l.mailError(ctx, "ending the mail", err)
	}
	return nil
}

// angle writes an address as a path (RFC 5321 section 4.1.2), quoted where it has to be.
func angle(address string) string { return (&netmail.Address{Address: address}).String() }

func (l *smtpConn) transportError(ctx context.Context, step string, err error) error {
	reply, err := l.explain(ctx, err)
	return &TransportError{Transport: l.server.name, Step: step, Reply: reply, Err: err}
}

// mailError tells a refusal of this mail from one of all mails.
func (l *smtpConn) mailError(ctx context.Context, step string, err error) error {
	reply, err := l.explain(ctx, err)
	switch reply.Code {
	case 421, // RFC 5321 section 3.8: the server closes the connection
		530, 535, 538: // RFC 4954 section 6: sign in first
		l.drop()
		return &TransportError{Transport: l.server.name, Step: step, Reply: reply, Err: err}
	}
	if reply.Code < 400 || reply.Code > 599 {
		l.drop() // it is gone, or we do not understand each other
	}
	return &MailError{Transport: l.server.name, Step: step, Reply: reply, Permanent: reply.Code >= 500 && reply.Code <= 599, Err: err}
}

// enhancedCode is at the beginning of a reply (RFC 2034).
var enhancedCode = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}\b`)

// explain keeps of an error what may be shown. Texts of replies, and errors that
// quote them, are left out.
func (l *smtpConn) explain(ctx context.Context, err error) (Reply, error) {
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

// compose writes the mail. Its identity is new each time, for so is its code: two
// mails that are different must not look like one to who sorts out duplicates.
func (s *SMTP) compose(to string, letter Letter) ([]byte, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&s.from)
	if err := msg.To(angle(to)); err != nil {
		return nil, errors.New("the recipient's address cannot be written into a mail")
	}
	msg.Subject(letter.Subject)
	msg.SetDateWithValue(time.Now().UTC())
	msg.SetMessageIDWithValue(rand.Text() + s.from.Address[strings.LastIndexByte(s.from.Address, '@'):])
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: so that no holiday reply comes
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

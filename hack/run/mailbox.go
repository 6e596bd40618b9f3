package main

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
	"github.com/emersion/go-smtp"
)

// mailbox takes the mail of every address, and shows it in the terminal and on a
// page.
type mailbox struct {
	out io.Writer
	url string // of its page

	mu    sync.Mutex
	mails []caught // the oldest first
	count int
}

const (
	mostMails    = 100
	largestMail  = 1 << 20
	largestDelay = 10 * time.Second // of whoever talks to it
)

// caught is a mail that was taken.
type caught struct {
	ID                int
	At                time.Time
	From, To, Subject string
	Text, HTML        string // decoded
	Link, Code        string // the first of each in the text, or ""
}

var (
	linkPattern = regexp.MustCompile(`https?://[^\s<>"]+`)
	codePattern = regexp.MustCompile(`\b[A-Z2-7]{5}(-?[A-Z2-7]{5}){3}-?[A-Z2-7]{6}\b`) // in groups or not
)

// smtpServer takes mail without TLS and without asking who sends it. It listens
// on this machine alone.
func (m *mailbox) smtpServer() *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &delivery{mailbox: m}, nil
	}))
	s.Domain = host
	s.MaxMessageBytes = largestMail
	s.MaxRecipients = 10
	s.ReadTimeout, s.WriteTimeout = largestDelay, largestDelay
	return s
}

// delivery is one client's connection.
type delivery struct {
	mailbox *mailbox
	from    string
	to      []string
}

func (d *delivery) Mail(from string, _ *smtp.MailOptions) error {
	d.from = from
	return nil
}

func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.to = append(d.to, to)
	return nil
}

func (d *delivery) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	d.mailbox.add(d.from, d.to, raw)
	return nil
}

func (d *delivery) Reset() { d.from, d.to = "", nil }

func (d *delivery) Logout() error { return nil }

// add keeps a mail, and forgets the oldest where there are too many.
func (m *mailbox) add(from string, to []string, raw []byte) {
	c := readMail(raw)
	c.At = time.Now()
	c.From, c.To = cmp.Or(c.From, from), strings.Join(to, ", ") // of the envelope: that is who gets it
	c.Link, c.Code = linkPattern.FindString(c.Text), codePattern.FindString(c.Text)

	m.mu.Lock()
	m.count++
	c.ID = m.count
	m.mails = append(m.mails, c)
	if len(m.mails) > mostMails {
		m.mails = slices.Delete(m.mails, 0, len(m.mails)-mostMails)
	}
	m.mu.Unlock()

	var said strings.Builder
	fmt.Fprintf(&said, "\nMail to %s: %s\n", printable(c.To), printable(c.Subject))
	for _, line := range []struct{ name, value string }{{"link", c.Link}, {"code", c.Code}, {"all ", fmt.Sprintf("%s/mails/%d", m.url, c.ID)}} {
		if line.value != "" {
			fmt.Fprintf(&said, "  %s  %s\n", line.name, printable(line.value))
		}
	}
	fmt.Fprintln(m.out, said.String())
}

// printable keeps what would steer a terminal out of it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

// readMail decodes a mail. What cannot be decoded is shown as it came: this is
// for people who look at what their templates make.
func readMail(raw []byte) caught {
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil && !message.IsUnknownCharset(err) {
		return caught{Text: string(raw)}
	}
	var c caught
	c.From = r.Header.Get("From")
	if from, err := r.Header.Text("From"); err == nil {
		c.From = from
	}
	if c.Subject, err = r.Header.Subject(); err != nil {
		c.Subject = r.Header.Get("Subject")
	}
	for {
		part, err := r.NextPart()
		if err != nil && !message.IsUnknownCharset(err) {
			if !errors.Is(err, io.EOF) {
				c.Text += "\n" + err.Error() + "\n" + string(raw)
			}
			return c
		}
		header, inline := part.Header.(*mail.InlineHeader)
		if !inline {
			continue
		}
		kind, _, _ := header.ContentType()
		body, err := io.ReadAll(part.Body)
		if err != nil {
			c.Text += "\n" + err.Error() + "\n" + string(raw)
			return c
		}
		if kind == "text/html" {
			c.HTML += string(body)
		} else {
			c.Text += string(body)
		}
	}
}

var (
	//go:embed mailbox
	mailboxFiles embed.FS

	mailboxPages = template.Must(template.ParseFS(mailboxFiles, "mailbox/*.html"))
)

// mailboxPolicy holds for the HTML of a mail too, which is in a frame without an
// origin: it may set styles and show pictures that it brings along, and nothing
// else. The page itself has no script.
const mailboxPolicy = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (m *mailbox) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		render(w, "list.html", struct {
			Mails []caught
			Most  int
		}{m.newestFirst(), mostMails})
	})
	mux.HandleFunc("GET /mails/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.PathValue("id"))
		mails := m.newestFirst()
		i := slices.IndexFunc(mails, func(c caught) bool { return c.ID == id })
		if err != nil || i < 0 {
			http.Error(w, "There is no such mail, or not any more.", http.StatusNotFound)
			return
		}
		render(w, "mail.html", mails[i])
	})
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, mailboxFiles, "mailbox/style.css")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page elsewhere could have its own name lead here (DNS rebinding), and
		// read the mail.
		if name, _, err := net.SplitHostPort(r.Host); err != nil || name != host && name != "127.0.0.1" && name != "::1" {
			http.Error(w, "This is at http://localhost alone.", http.StatusMisdirectedRequest)
			return
		}
		strict(w.Header(), mailboxPolicy)
		mux.ServeHTTP(w, r)
	})
}

// strict has a browser do what the policy says, and tell nobody where it was.
func strict(h http.Header, policy string) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

func (m *mailbox) newestFirst() []caught {
	m.mu.Lock()
	defer m.mu.Unlock()
	mails := slices.Clone(m.mails)
	slices.Reverse(mails)
	return mails
}

func render(w http.ResponseWriter, page string, data any) {
	var b bytes.Buffer
	if err := mailboxPages.ExecuteTemplate(&b, page, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

// piece is a part of a text: a link, or what stands between two.
type piece struct {
	Text string
	URL  bool
}

// Pieces takes the text apart, so that its links can be followed.
func (c caught) Pieces() []piece {
	var pieces []piece
	at := 0
	for _, l := range linkPattern.FindAllStringIndex(c.Text, -1) {
		pieces = append(pieces, piece{Text: c.Text[at:l[0]]}, piece{Text: c.Text[l[0]:l[1]], URL: true})
		at = l[1]
	}
	return append(pieces, piece{Text: c.Text[at:]})
}

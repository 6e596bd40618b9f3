package main

import (
	"bytes"
	"cmp"
	"embed"
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

	"github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// mailbox receives the mail for every address, and shows it in the terminal and on a page.
type mailbox struct {
	out io.Writer
	url string // of the page

	mu    sync.Mutex
	mails []caught // oldest first
	count int
}

const (
	mostMails    = 100
	largestMail  = 1 << 20
	largestDelay = 10 * time.Second // of a client
)

// caught is a mail that was received.
type caught struct {
	smtpsink.Content

	ID         int
	At         time.Time
	To         string
	Link, Code string // the first of each in the text, or ""
}

var (
	linkPattern = regexp.MustCompile(`https?://[^\s<>"]+`)
	codePattern = regexp.MustCompile(`\b[A-Z2-7]{5}(-?[A-Z2-7]{5}){3}-?[A-Z2-7]{6}\b`) // in groups or not
)

// smtpServer receives mail without TLS and without authentication. It listens only on this machine.
func (m *mailbox) smtpServer() *smtp.Server {
	s := smtpsink.Sink{Receive: m.add}.Server()
	s.Domain = host
	s.MaxMessageBytes = largestMail
	s.MaxRecipients = 10
	s.ReadTimeout, s.WriteTimeout = largestDelay, largestDelay
	return s
}

// add stores a mail and prints it. If there are too many mails, the oldest is deleted.
func (m *mailbox) add(sent smtpsink.Mail) error {
	c := caught{At: time.Now(), To: strings.Join(sent.To, ", ")} // the recipients of the envelope get the mail
	var err error
	if c.Content, err = smtpsink.Read(sent.Raw); err != nil {
		c.Text += "\n" + err.Error() + "\n" + string(sent.Raw) // it helps developers of mail templates
	}
	c.From = cmp.Or(c.From, sent.From)
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
	for _, line := range []struct{ name, value string }{{"link", c.Link}, {"code", c.Code}, {"all ",
		fmt.Sprintf("%s/mails/%d", m.url, c.ID)}} {
		if line.value != "" {
			fmt.Fprintf(&said, "  %s  %s\n", line.name, printable(line.value))
		}
	}
	fmt.Fprintln(m.out, said.String())
	return nil
}

// printable replaces characters that would control a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

var (
	//go:embed mailbox
	mailboxFiles embed.FS

	mailboxPages = template.Must(template.ParseFS(mailboxFiles, "mailbox/*.html"))
)

// mailboxPolicy also applies to the HTML of a mail, which is in a frame without an origin: only its styles and embedded
// pictures are shown. The page itself has no script.
const mailboxPolicy = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src data:; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'"

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
			http.Error(w, "There is no such mail; it may have been deleted.", http.StatusNotFound)
			return
		}
		render(w, "mail.html", mails[i])
	})
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, mailboxFiles, "mailbox/style.css")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Otherwise another site could resolve its own name to this address (DNS rebinding) and read the mail.
		if name, _, err := net.SplitHostPort(r.Host); err != nil || name != host && name != "127.0.0.1" && name != "::1" {
			http.Error(w, "Open this page as http://localhost.", http.StatusMisdirectedRequest)
			return
		}
		strict(w.Header(), mailboxPolicy)
		mux.ServeHTTP(w, r)
	})
}

// strict sets the policy and other security headers. The browser sends no Referer and caches nothing.
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

// piece is a part of a text: a link, or the text between two links.
type piece struct {
	Text string
	URL  bool
}

// Pieces splits the text, so the page can show its links as links.
func (c caught) Pieces() []piece {
	var pieces []piece
	at := 0
	for _, l := range linkPattern.FindAllStringIndex(c.Text, -1) {
		pieces = append(pieces, piece{Text: c.Text[at:l[0]]}, piece{Text: c.Text[l[0]:l[1]], URL: true})
		at = l[1]
	}
	return append(pieces, piece{Text: c.Text[at:]})
}

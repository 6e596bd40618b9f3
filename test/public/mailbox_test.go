package public

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// mailbox is an SMTP server, well or in trouble, and what it has taken.
type mailbox struct {
	address string

	mu      sync.Mutex
	mails   map[string][]string // by recipient
	taken   int
	trouble string
	lines   map[net.Conn]bool
	well    chan struct{} // closed when the trouble ends

	turn sync.Mutex
	pace time.Duration
}

func receive(t *testing.T) *mailbox {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := &mailbox{address: listener.Addr().String(), mails: map[string][]string{}, lines: map[net.Conn]bool{}, well: make(chan struct{})}
	server := smtpsink.Sink{Stream: box.take}.Server()
	server.ErrorLog = silence{}
	go func() { _ = server.Serve(door{listener, box}) }()
	t.Cleanup(func() {
		box.setTrouble("")
		_ = server.Close()
	})
	return box
}

type silence struct{}

func (silence) Printf(string, ...any) {}
func (silence) Println(...any)        {}

// door is where nobody gets in while the server is away.
type door struct {
	net.Listener
	box *mailbox
}

func (d door) Accept() (net.Conn, error) {
	for {
		line, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		d.box.mu.Lock()
		away := d.box.trouble == "is away"
		d.box.lines[line] = true
		d.box.mu.Unlock()
		if !away {
			return line, nil
		}
		_ = line.Close()
	}
}

// setTrouble has the server hang, refuse, drop the line, or be away; "" ends it.
func (b *mailbox) setTrouble(trouble string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if trouble == "" && b.trouble != "" {
		close(b.well)
		b.well = make(chan struct{})
	}
	b.trouble = trouble
	if trouble == "is away" {
		for line := range b.lines {
			_ = line.Close()
		}
	}
}

// setPace is how long the server works on each mail, one after the other.
func (b *mailbox) setPace(pace time.Duration) { b.pace = pace }

// of gives the mails that an address has been sent, the last one last.
func (b *mailbox) of(address string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mails[address])
}

// all is how many mails have been sent to anybody.
func (b *mailbox) all() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

func (b *mailbox) take(m smtpsink.Mail, body io.Reader, client net.Conn) error {
	b.mu.Lock()
	trouble, well := b.trouble, b.well
	b.mu.Unlock()
	switch trouble {
	case "hangs":
		<-well
	case "refuses":
		return &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "not now"}
	case "drops the line":
		_, _ = io.CopyN(io.Discard, body, 100)
		_ = client.Close()
		return errors.New("the connection is closed")
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if b.pace > 0 {
		b.turn.Lock()
		time.Sleep(b.pace)
		b.turn.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, to := range m.To {
		b.mails[to] = append(b.mails[to], string(text))
		b.taken++
	}
	return nil
}

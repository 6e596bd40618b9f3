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

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// mailbox is an SMTP server that can be made to fail, and the mails that it received.
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
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
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

// door rejects connections while the server is down.
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
		away := d.box.trouble == "is down"
		d.box.lines[line] = true
		d.box.mu.Unlock()
		if !away {
			return line, nil
		}
		_ = line.Close()
	}
}

// setTrouble makes the server hang, refuse, drop connections, or be down. "" ends that.
func (b *mailbox) setTrouble(trouble string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if trouble == "" && b.trouble != "" {
		close(b.well)
		b.well = make(chan struct{})
	}
	b.trouble = trouble
	if trouble == "is down" {
		for line := range b.lines {
			_ = line.Close()
		}
	}
}

// setPace sets the time that the server spends on each mail, one after another.
func (b *mailbox) setPace(pace time.Duration) { b.pace = pace }

// of returns the mails to an address, the newest last.
func (b *mailbox) of(address string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mails[address])
}

// all returns the number of mails to all addresses.
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

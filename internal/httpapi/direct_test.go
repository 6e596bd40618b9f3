//go:build unix

package httpapi

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// However data is sent and read, a direct returns what a connection would, and holds no buffer while it waits.
func TestDirectReadReturnsWhatWasSent(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		server, client := sockets(t)
		sent := make([]byte, r.IntN(4*aheadSize))
		for i := range sent {
			sent[i] = byte(r.Uint32())
		}
		pieces := r.IntN(5)
		go func() {
			rest := sent
			for range pieces {
				n := len(rest) / 2
				_, _ = client.Write(rest[:n])
				rest = rest[n:]
				time.Sleep(time.Millisecond)
			}
			_, _ = client.Write(rest)
			_ = client.Close()
		}()
		ahead, received := newDirect(server), []byte(nil)
		for {
			p := make([]byte, max(1, r.IntN(2)*r.IntN(2*aheadSize)))
			n, err := ahead.read(p)
			received = append(received, p[:n]...)
			if err != nil {
				if !errors.Is(err, io.EOF) || n > 0 {
					t.Errorf("read: %d, %v", n, err)
				}
				break
			}
		}
		if !bytes.Equal(received, sent) || ahead.holds() {
			t.Fatalf("received %d bytes of %d, and holds a buffer: %v", len(received), len(sent), ahead.holds())
		}
	}
}

func TestDirectReadKeepsToDeadlines(t *testing.T) {
	t.Parallel()
	server, client := sockets(t)
	ahead := newDirect(server)
	testenv.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := ahead.read(make([]byte, 1))
	var timeout net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() || ahead.holds() {
		t.Errorf("after the deadline: %v, and holds a buffer: %v", err, ahead.holds())
	}
	// As a connection, it can be used again.
	testenv.NoError(t, server.SetReadDeadline(time.Time{}))
	testenv.Must(client.Write([]byte("GET")))(t)
	p := make([]byte, 1)
	testenv.Must(ahead.read(p))(t)
	if p[0] != 'G' || !ahead.holds() {
		t.Errorf("read %q, and holds the rest: %v", p, ahead.holds())
	}
	p = make([]byte, 10)
	if n := testenv.Must(ahead.read(p))(t); string(p[:n]) != "ET" || ahead.holds() {
		t.Errorf("read %q, and holds a buffer: %v", p[:n], ahead.holds())
	}
	testenv.NoError(t, server.Close())
	if _, err := ahead.read(p[:1]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A client that resets the connection is no end of a stream.
func TestDirectReadReportsAReset(t *testing.T) {
	t.Parallel()
	server, client := sockets(t)
	testenv.NoError(t, client.(*net.TCPConn).SetLinger(0))
	testenv.NoError(t, client.Close())
	if _, err := newDirect(server).read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after a reset: %v", err)
	}
}

// sockets returns the two ends of a connection.
func sockets(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	client = testenv.Must(net.Dial("tcp", l.Addr().String()))(t)
	server = testenv.Must(l.Accept())(t)
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	return server, client
}

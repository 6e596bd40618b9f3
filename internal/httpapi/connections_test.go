package httpapi

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// served returns a connection as fasthttp gets it, and its other end.
func served(t *testing.T, all *connections) (c, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testenv.OK(t, err)
	defer l.Close()
	client = testenv.Must(net.Dial("tcp", l.Addr().String()))(t)
	t.Cleanup(func() { _ = client.Close() })
	c = testenv.Must(newListener(l, all).Accept())(t)
	t.Cleanup(func() { _ = c.Close() })
	return c, client
}

func TestConnectionThatIsEvictedReadsWhatHasArrived(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]string{"a request": "GET / HTTP/1.1\r\n\r\n", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := newConnections(0, 100)
			c, client := served(t, all)
			testenv.Must(io.WriteString(client, arrives))(t)
			testenv.Until(t, 10*time.Second, "the request arrives", func() bool { return arrives == "" || bytesWait(c) })
			all.evictOne()
			got := make([]byte, 100)
			n, err := io.ReadFull(c, got[:max(len(arrives), 1)])
			if string(got[:n]) != arrives || (err == nil) != (arrives != "") {
				t.Errorf("it reads %q, %v", got[:n], err)
			}
			if open, held := all.count(); open != 1 || arrives != "" && held != requestCost {
				t.Errorf("%d connections are open and use %d bytes", open, held)
			}
		})
	}
}

func TestConnectionWithUnreadBytesIsNotEvicted(t *testing.T) {
	t.Parallel()
	all := newConnections(0, 100)
	c, client := served(t, all)
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // as fasthttp does it
		t.Fatal(err)
	}
	all.evictOne()
	if got, err := io.ReadFull(c, make([]byte, 15)); err != nil {
		t.Errorf("after %d bytes: %v", got, err)
	}
	all.evictOne()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("an unfinished request is not evicted")
	}
}

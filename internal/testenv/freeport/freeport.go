// Package freeport chooses ports for programs that need one in their settings.
//
// The kernel could choose them too, but it gives the same numbers to outgoing connections. Whenever other tests run, such
// a connection may have the number before the program listens, and the program then fails to start.
package freeport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Linux gives the ports from 32768 on to outgoing connections, and Kubernetes those from 30000 on to Services.
const (
	first = 15000
	end   = 30000
)

var (
	mu     sync.Mutex
	chosen = map[int]bool{}
)

// Choose returns a port that is free at the loopback address, and that this process has not chosen before.
// Another process can take it in the meantime, but only one that also chooses at random.
func Choose(ctx context.Context) (int, error) {
	for range 1000 {
		port := first + rand.IntN(end-first)
		if choose(port) && isFree(ctx, port) {
			return port, nil
		}
	}
	return 0, errors.New("no port of " + strconv.Itoa(first) + " to " + strconv.Itoa(end) + " is free")
}

// choose reports whether a port is chosen for the first time.
func choose(port int) bool {
	mu.Lock()
	defer mu.Unlock()
	again := chosen[port]
	chosen[port] = true
	return !again
}

// isFree reports whether a program could listen at the loopback address. On Linux none listens at all addresses then. The
// others are not tried, because macOS asks its user whether a program may accept connections there.
func isFree(ctx context.Context, port int) bool {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
	return err == nil && l.Close() == nil
}

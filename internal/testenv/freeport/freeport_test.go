package freeport

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestChosenPortsDifferAndAreNotThoseOfConnections(t *testing.T) {
	t.Parallel()
	lowest := end
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil { // on Linux
		if lowest, err = strconv.Atoi(strings.Fields(string(text))[0]); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[int]bool{}
	for range 100 {
		port, err := Choose(t.Context())
		if err != nil || seen[port] || port >= lowest {
			t.Errorf("port %d, %v: chosen before %t; connections have the ports from %d on", port, err, seen[port], lowest)
		}
		seen[port] = true
	}
}

func TestAPortWithAListenerIsNotFree(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if port := l.Addr().(*net.TCPAddr).Port; isFree(t.Context(), port) {
			t.Errorf("port %d is free beside a listener at %s", port, address)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

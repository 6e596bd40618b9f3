package kubernetestest

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// childVariable makes the test below wait to be killed.
const childVariable = "KUBERNETESTEST_CHILD"

func TestTheServerDoesNotOutliveAKilledTest(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		fmt.Printf("\n%s %s\n", Config(t).Host, shared.env.ControlPlane.Etcd.URL)
		select {}
	}
	t.Parallel()
	temporary := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childVariable+"=1", "TMPDIR="+temporary)
	child.Stderr = os.Stderr
	out := testenv.Must(child.StdoutPipe())(t)
	testenv.NoError(t, child.Start())
	var addresses []string
	lines := bufio.NewScanner(out)
	for len(addresses) == 0 && lines.Scan() {
		for word := range strings.FieldsSeq(lines.Text()) {
			if u, err := url.Parse(word); err == nil && u.Port() != "" {
				addresses = append(addresses, u.Host)
			}
		}
	}
	testenv.NoError(t, child.Process.Kill())
	_ = child.Wait()
	if len(addresses) != 2 {
		t.Fatalf("the child did not print the addresses of its server and its etcd: %q", addresses)
	}
	for _, address := range addresses {
		testenv.Until(t, 10*time.Second, address+" no longer answers", func() bool {
			connection, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
			if err == nil {
				_ = connection.Close()
			}
			return err != nil
		})
	}
}

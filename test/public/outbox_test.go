package public

import (
	"context"
	"crypto/sha256"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// replica is a process of the server.
type replica struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// replicas starts n processes of the server over one database, and waits until they are ready.
func (g *gateway) replicas(n int, environ map[string]string) (all []*replica) {
	g.t.Helper()
	program := testenv.Program(g.t, "./cmd/authserver")
	var ready []string
	for range n {
		api, metrics := strconv.Itoa(testenv.FreePort(g.t)), strconv.Itoa(testenv.FreePort(g.t))
		cmd := exec.CommandContext(context.WithoutCancel(g.t.Context()), program)
		for name, value := range environ {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		cmd.Env = append(cmd.Env, "PORT="+api, "METRICS_PORT="+metrics)
		if err := cmd.Start(); err != nil {
			g.t.Fatal(err)
		}
		r := &replica{cmd: cmd, ended: make(chan struct{})}
		go func() {
			defer close(r.ended)
			_ = cmd.Wait() // it was killed
		}()
		g.t.Cleanup(r.kill)
		all = append(all, r)
		ready = append(ready, "http://127.0.0.1:"+metrics+"/readyz")
	}
	for _, url := range ready {
		testenv.Until(g.t, time.Minute, "a replica is ready", func() bool {
			request, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, url, http.NoBody)
			if err != nil {
				g.t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusOK
		})
	}
	return all
}

// kill ends a replica with SIGKILL.
func (r *replica) kill() {
	_ = r.cmd.Process.Kill() // it may have ended already
	<-r.ended
}

// holds reports whether a mail contains a valid code.
func (g *gateway) holds(mail string) bool {
	for _, text := range aCode.FindAllString(mail, -1) {
		hash := sha256.Sum256([]byte(strings.ReplaceAll(text, "-", "")))
		if g.number("SELECT count(*) FROM codes WHERE hash = $1", hash[:]) == 1 {
			return true
		}
	}
	return false
}

// aCode matches a one-time code in groups, as mails show it.
var aCode = regexp.MustCompile(`\b(?:[A-Z2-7]{5}-){4}[A-Z2-7]{6}\b`)

// Ten thousand mails wait when the mail server recovers. Three replicas send them, and one is killed meanwhile. Each
// recipient gets a mail, and the code in the last one is valid.
func TestOutboxOfTenThousandMailsOutlivesAReplica(t *testing.T) {
	const mails, connections = 10_000, 4
	g := prepare(t)
	const pace = 2 * time.Millisecond // of the mail server for each mail
	g.mail.setPace(pace)
	g.populate(mails)
	environ := g.environ(map[string]string{"SMTP_CONNECTIONS": strconv.Itoa(connections)})
	all := g.replicas(3, environ)
	g.exec(`INSERT INTO mails (purpose, recipient, canonical_recipient)
		SELECT 'recovery', email, canonical_email FROM users WHERE username LIKE $1`, verified+"%")
	began := time.Now()
	testenv.Until(g.t, 5*time.Minute, "a third has been sent", func() bool { return g.mail.all() > mails/3 })
	all[0].kill()
	testenv.Until(g.t, 10*time.Minute, "all have been sent", func() bool {
		return g.mail.all() >= mails &&
			g.number("SELECT count(*) FROM mails") == 0
	})
	took := time.Since(began)

	lost, twice := 0, 0
	for i := range mails {
		got := g.mail.of(address(verified, i))
		switch {
		case len(got) == 0:
			lost++
			continue
		case len(got) > 1:
			twice += len(got) - 1
		}
		if !g.holds(got[len(got)-1]) {
			t.Errorf("the last code for %s is not valid", address(verified, i))
		}
	}
	if lost > 0 || twice > connections {
		t.Errorf("%d mails are lost and %d arrived twice; at most %d were in flight when the replica was killed", lost, twice, connections)
	}
	t.Logf("%d mails by 3 replicas, one of which was killed: %d arrived twice; "+
		"%.0f a second, including the wait for the dead one's lease; the server accepts %.0f",
		mails, twice, mails/took.Seconds(), float64(time.Second/pace))
}

// No request for a code waits for the mail server, whatever its state, and the mails are sent when it recovers.
func TestOutboxKeepsRequestsFromWaitingForTheMailServer(t *testing.T) {
	g := start(t, map[string]string{"LIMIT_CODES": "off", "LIMIT_MAILS": "off"})
	g.populate(pairs)
	ask := func(i int) time.Duration {
		began := time.Now()
		if r := g.post("/users/forgot-password", nil, byAddress(verified, i)); r.status != http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return time.Since(began)
	}
	for range 50 {
		ask(0)
	}
	g.drained()
	well := make([]time.Duration, 0, pairs/4)
	for i := range pairs / 4 {
		well = append(well, ask(i))
	}
	g.drained()
	for _, trouble := range []string{"hangs", "refuses", "drops the line", "is down"} {
		g.mail.setTrouble(trouble)
		before, asked := g.mail.all(), pairs/4
		ill := make([]time.Duration, 0, asked)
		for i := range asked {
			ill = append(ill, ask(i))
		}
		waiting := g.number("SELECT count(*) FROM mails")
		g.mail.setTrouble("")
		g.drained()
		t.Logf("the server %s: a request takes %v (median), without failure %v; %d of %d mails waited; all were sent after recovery",
			trouble, median(ill), median(well), waiting, asked)
		if sent := g.mail.all() - before; sent < asked {
			t.Errorf("the server %s: of %d mails only %d were sent", trouble, asked, sent)
		}
		// A mail server's delays are seconds, so this bound can be loose.
		if median(ill) > 20*median(well)+50*time.Millisecond {
			t.Errorf("the server %s: a request takes %v, and %v without failure", trouble, median(ill), median(well))
		}
	}
}

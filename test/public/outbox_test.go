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

// replicas starts so many processes of the server over one database, and waits
// until they are ready.
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
			_ = cmd.Wait() // it is killed
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

// kill ends a replica without a word (SIGKILL).
func (r *replica) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.ended
}

// holds tells whether a mail has a code that holds.
func (g *gateway) holds(mail string) bool {
	for _, text := range aCode.FindAllString(mail, -1) {
		hash := sha256.Sum256([]byte(strings.ReplaceAll(text, "-", "")))
		if g.number("SELECT count(*) FROM codes WHERE hash = $1", hash[:]) == 1 {
			return true
		}
	}
	return false
}

// aCode matches a one-time code as mails show it, in groups.
var aCode = regexp.MustCompile(`\b(?:[A-Z2-7]{5}-){4}[A-Z2-7]{6}\b`)

// Ten thousand people wait for a mail when the mail server comes to itself; three
// replicas send, and one is killed on the way. Everybody gets a mail, and the code
// in the last one that they get holds.
func TestTenThousandMailsOutliveAReplica(t *testing.T) {
	const mails, connections = 10_000, 4
	g := prepare(t)
	const pace = 2 * time.Millisecond // of the mail server, for all of its clients together
	g.mail.setPace(pace)
	g.populate(mails)
	environ := g.environ(map[string]string{"SMTP_CONNECTIONS": strconv.Itoa(connections)})
	all := g.replicas(3, environ)
	g.exec(`INSERT INTO mails (purpose, recipient, canonical_recipient)
		SELECT 'recovery', email, canonical_email FROM users WHERE username LIKE $1`, verified+"%")
	began := time.Now()
	testenv.Until(g.t, 5*time.Minute, "a third has been sent", func() bool { return g.mail.all() > mails/3 })
	all[0].kill()
	testenv.Until(g.t, 10*time.Minute, "all have been sent", func() bool { return g.mail.all() >= mails && g.number("SELECT count(*) FROM mails") == 0 })
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
			t.Errorf("the code that %s got last does not hold", address(verified, i))
		}
	}
	if lost > 0 || twice > connections {
		t.Errorf("%d mails are lost, and %d came twice; those on the way when a replica is killed are %d at most", lost, twice, connections)
	}
	t.Logf("%d mails by 3 replicas, one of which was killed: %d twice; %.0f a second, of %.0f that the server takes, the wait for the lease of the dead one included",
		mails, twice, mails/took.Seconds(), float64(time.Second/pace))
}

// Whatever the mail server does, nobody who asks for a code waits for it, and what
// was asked for meanwhile is sent when it is well again.
func TestNoRequestWaitsForTheMailServer(t *testing.T) {
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
	for _, trouble := range []string{"hangs", "refuses", "drops the line", "is away"} {
		g.mail.setTrouble(trouble)
		before, asked := g.mail.all(), pairs/4
		ill := make([]time.Duration, 0, asked)
		for i := range asked {
			ill = append(ill, ask(i))
		}
		waiting := g.number("SELECT count(*) FROM mails")
		g.mail.setTrouble("")
		g.drained()
		t.Logf("the server %s: a request takes %v (median), with a server that is well %v; %d of %d mails waited; all were sent when it was well again",
			trouble, median(ill), median(well), waiting, asked)
		if sent := g.mail.all() - before; sent < asked {
			t.Errorf("the server %s: of %d mails %d were sent", trouble, asked, sent)
		}
		// What a mail server takes is seconds: this is no measurement.
		if median(ill) > 20*median(well)+50*time.Millisecond {
			t.Errorf("the server %s: a request takes %v, and %v when it is well", trouble, median(ill), median(well))
		}
	}
}

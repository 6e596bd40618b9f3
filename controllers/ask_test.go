package controllers_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

var loopback atomic.Int64

// answering starts an HTTP server at the operations port of a new address.
func answering(t *testing.T, answer http.HandlerFunc) (ip string) {
	t.Helper()
	n := loopback.Add(1)
	ip = fmt.Sprintf("127.77.%d.%d", n/250, n%250+1)
	l := testenv.Must(net.Listen("tcp", ip+":9090"))(t)
	s := &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return ip
}

const wellSaid = `{"version":"1","ready":true,"reason":"","keys":{"generation":7,"held":["a"],"ready":["a"]},"later":{}}`

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func TestAskGoesToThePodDirectly(t *testing.T) {
	asked := false
	proxy := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		_, _ = w.Write([]byte(wellSaid))
	})
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://"+proxy+":9090")
	}
	s, err := controllers.AskAPod(t.Context(), answering(t, says(wellSaid)))
	if err != nil || s.Keys.Generation != 7 || len(s.Keys.Ready) != 1 {
		t.Errorf("got %+v, %v", s, err)
	}
	if asked {
		t.Error("the request went to the proxy")
	}
}

func TestAskRefusesWhatIsNoAnswerOfAServer(t *testing.T) {
	var led atomic.Bool
	elsewhere := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		led.Store(true)
		_, _ = w.Write([]byte(wellSaid))
	})
	const private = "what the operator has no business with"
	for about, c := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"a redirect": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "http://"+elsewhere+":9090/state?"+private, http.StatusFound)
		}, "it answered with status 302"},
		"another status": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, wellSaid,
				http.StatusForbidden)
		}, "it answered with status 403"},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
			"it answered with status 204"},
		"a page":             {says("<html>" + private), "not that of a server"},
		"another's JSON":     {says(`{"reason":"` + private + `"}`), "not that of a server"},
		"null":               {says("null"), "not that of a server"},
		"a negative one":     {says(`{"version":"1","keys":{"generation":-1}}`), "not that of a server"},
		"more keys than any": {says(`{"version":"1","keys":{"held":["` + strings.Repeat(`a","`, 1000) + `a"]}}`), "not that of a server"},
		"an endless one":     {says(`{"version":"1","reason":"` + strings.Repeat("x", 1<<20) + `"}`), "longer than that of a server"},
		"none":               {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "closed the connection"},
	} {
		s, err := controllers.AskAPod(t.Context(), answering(t, c.answer))
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), private) || s.Version != "" {
			t.Errorf("%s: got %+v, %v", about, s, err)
		}
	}
	if led.Load() {
		t.Error("a redirect was followed")
	}
	if _, err := controllers.AskAPod(t.Context(), "127.77.255.1"); err == nil || err.Error() != "connection refused" {
		t.Errorf("a closed port: %v", err)
	}
}

// The status shows a server's reason as one line of limited length.
func TestAskBoundsTheReason(t *testing.T) {
	text, err := json.Marshal(map[string]any{"version": "1", "reason": "one\nline\x1b[31m " + strings.Repeat("é", 1000)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := controllers.AskAPod(t.Context(), answering(t, says(string(text))))
	if err != nil || len(s.Reason) > 511 || !strings.HasPrefix(s.Reason, "one line[31m éé") {
		t.Errorf("the reason has %d bytes: %q, %v", len(s.Reason), s.Reason, err)
	}
}

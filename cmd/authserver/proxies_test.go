package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// The configurations of docs/proxies.md run unchanged, except for ports, files, and the idle timeout of connections: a
// second instead of a minute, because the test waits for it.
func TestProxyConfigurationsOfTheManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/proxies.md")
	testenv.NoError(t, err)
	for _, proxy := range []struct {
		name, language string
		idle           [2]string // in the document, and in the test
		wrap           func(config, dir string) string
		command        func(file, dir string) []string
	}{
		{
			"nginx", "nginx", [2]string{"keepalive_timeout 60s", "keepalive_timeout 1s"},
			func(config, dir string) string {
				return "daemon off; error_log stderr; pid " + dir + "/pid; user root;\nevents {}\nhttp { access_log off;\n" +
					"client_body_temp_path " + dir + "/b; proxy_temp_path " + dir + "/p; fastcgi_temp_path " + dir + "/f; uwsgi_temp_path " + dir + "/u; scgi_temp_path " + dir + "/s;\n" +
					config + "}\n"
			},
			func(file, dir string) []string { return []string{"-p", dir, "-c", file} },
		},
		{
			"haproxy", "haproxy", [2]string{"pool-purge-delay 60s", "pool-purge-delay 1s"},
			func(config, _ string) string { return config },
			func(file, _ string) []string { return []string{"-db", "-f", file} },
		},
		{
			"caddy", "caddyfile", [2]string{"keepalive 60s", "keepalive 1s"},
			func(config, _ string) string { return "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + config },
			func(file, _ string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} },
		},
	} {
		t.Run(proxy.name, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(proxy.name)
			if err != nil {
				if program, err = exec.LookPath("/usr/sbin/" + proxy.name); err != nil {
					t.Skipf("%s is not installed; hack/test.sh installs it on Debian", proxy.name)
				}
			}
			_, text, found := strings.Cut(string(page), "```"+proxy.language+"\n")
			config, _, ended := strings.Cut(text, "```")
			if !found || !ended || !strings.Contains(config, proxy.idle[0]) {
				t.Fatalf("docs/proxies.md has no configuration of %s with %s", proxy.name, proxy.idle[0])
			}
			p := launch(t, postgrestest.Config(t), []string{"serve"},
				"ISSUER=https://auth.example.com/auth", "TRUSTED_PROXY_HOPS=1", "TRUSTED_PROXY_FIELD=X-Forwarded-For")
			dir := t.TempDir()
			roots := certificate(t, dir)
			port := strconv.Itoa(testenv.FreePort(t))
			config = strings.NewReplacer(
				proxy.idle[0], proxy.idle[1], "127.0.0.1:8080", strings.TrimPrefix(p.api, "http://"),
				"listen 443", "listen 127.0.0.1:"+port, "bind :443", "bind 127.0.0.1:"+port, "auth.example.com {",
				"https://auth.example.com:"+port+" {",
				"/etc/ssl/", dir+"/").Replace(config)
			file := filepath.Join(dir, "proxy.conf")
			testenv.NoError(t, os.WriteFile(file, []byte(proxy.wrap(config, dir)), 0o600))
			runProxy(t, program, dir, proxy.command(file, dir)...)
			p.waitReady()
			behind(t, p, port, roots)
		})
	}
}

// runProxy runs a program until the test ends.
func runProxy(t *testing.T, program, home string, args ...string) {
	t.Helper()
	said := new(testenv.Output)
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.Stdout, cmd.Stderr = said, said
	testenv.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
		if t.Failed() {
			t.Logf("the output of %s:\n%s", program, said)
		}
	})
}

// behind checks the replies to a client through a proxy.
func behind(t *testing.T, p *process, port string, roots *x509.CertPool) {
	const base = "https://auth.example.com/auth"
	// Clients come from another address than the proxy.
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
		MaxIdleConnsPerHost: 64,
	}}
	t.Cleanup(client.CloseIdleConnections)
	send := func(method, path, body string, fields ...string) (*http.Response, string) {
		target := base + path
		if strings.HasPrefix(path, "https://") {
			target = path
		}
		req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return &http.Response{}, ""
		}
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		for i := 0; i < len(fields); i += 2 {
			req.Header.Set(fields[i], fields[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", method, path, err)
			return &http.Response{}, ""
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp, string(text)
	}
	testenv.Until(t, 20*time.Second, "the proxy listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

	// The links of the page, and its requests, keep the path prefix.
	for _, path := range []string{"", "/", "/docs/", "/docs"} {
		if resp, text := send("GET", path, ""); resp.StatusCode != 200 || resp.Request.URL.Path != "/auth/docs" ||
			!strings.Contains(text, "swagger-ui") {
			t.Errorf("%s led to %v: %d", path, resp.Request.URL, resp.StatusCode)
		}
	}
	resp, text := send("GET", "/openapi.json", "")
	var document struct{ Servers []struct{ URL string } }
	if err := json.Unmarshal([]byte(text), &document); err != nil || len(document.Servers) != 1 {
		t.Fatalf("the document: %v %d %v", err, resp.StatusCode, document)
	}
	// In OpenAPI 3.1, the URL is relative to that of the document.
	if server := resp.Request.URL.ResolveReference(&url.URL{Path: document.Servers[0].URL}); server.String() != base+"/" {
		t.Errorf("the document's server is %v", server)
	}

	// The metadata, where OpenID Connect expects it and where RFC 8414 does.
	for _, path := range []string{"/.well-known/openid-configuration", "https://auth.example.com/.well-known/oauth-authorization-server/auth"} {
		if resp, text := send("GET", path, ""); resp.StatusCode != 200 || !strings.Contains(text, `"issuer": "`+base+`"`) {
			t.Errorf("%s got %d %.200s", path, resp.StatusCode, text)
		}
	}

	if resp, text := send("HEAD", "/tokens/keys", ""); resp.StatusCode != 200 || text != "" || resp.ContentLength <= 0 {
		t.Errorf("HEAD got %d with a length of %d", resp.StatusCode, resp.ContentLength)
	}
	if resp, text := send("OPTIONS", "/tokens/keys", "", "Origin", "https://app.example.com",
		"Access-Control-Request-Method", "GET"); resp.StatusCode != 405 || !strings.Contains(text, `"reason"`) {
		t.Errorf("OPTIONS got %d", resp.StatusCode)
	}
	if resp, text := send("GET", "/users", "", "Authorization", "Bearer "+strings.Repeat("t",
		8<<10)); resp.StatusCode != 401 || !strings.Contains(text, `"reason"`) {
		t.Errorf("a token of 8 KiB got %d %.200s", resp.StatusCode, text)
	}
	if resp, _ := send("GET", "/tokens/keys", "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key",
		"dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version", "13"); resp.StatusCode != 200 {
		t.Errorf("an upgrade got %d", resp.StatusCode)
	}
	if resp, _ := send("GET", "/users/", ""); resp.StatusCode != 404 {
		t.Errorf("/users/ got %d", resp.StatusCode)
	}

	// The address is that of the client, whatever fields it sends.
	send("POST", "/tokens/signin", `{"username":"unknown.user","password":"wrong password"}`, "X-Forwarded-For",
		"203.0.113.9", "Forwarded", "for=203.0.113.9")
	address := regexp.MustCompile(`"address":"([^"]*)"`)
	testenv.Until(t, 10*time.Second, "the audit trail has the sign-in", func() bool { return address.MatchString(p.stderr.String()) })
	for _, found := range address.FindAllStringSubmatch(p.stderr.String(), -1) {
		if found[1] != "127.0.0.2" {
			t.Errorf("the client's address is %s", found[1])
		}
	}

	// Requests that must not be repeated get their reply, also around the time at which the proxy closes idle connections.
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			for round := range 2 {
				if resp, text := send("POST", "/tokens", `{"refresh_token":"a.b.c"}`); resp.StatusCode != 401 {
					t.Errorf("round %d: POST got %d %.100s", round, resp.StatusCode, text)
				}
				time.Sleep(time.Second + time.Duration(i-12)*5*time.Millisecond)
			}
			if resp, text := send("POST", "/tokens", `{"refresh_token":"a.b.c"}`); resp.StatusCode != 401 {
				t.Errorf("at the timeout: POST got %d %.100s", resp.StatusCode, text)
			}
		})
	}
	clients.Wait()
}

// certificate writes a certificate for auth.example.com, in the three forms that proxies need.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "auth.example.com"}, DNSNames: []string{"auth.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := testenv.Must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	keyDER := testenv.Must(x509.MarshalPKCS8PrivateKey(key))(t)
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, content := range map[string][]byte{".crt": crt, ".key": secret, ".pem": append(crt[:len(crt):len(crt)], secret...)} {
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, "auth.example.com"+name), content, 0o600))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(crt)
	return roots
}

// With only the required settings, a server starts even if another program uses the default METRICS_PORT. It logs the
// address of its metrics.
func TestMetricsPortDefaultInUseIsReplaced(t *testing.T) {
	prometheus, err := net.Listen("tcp", "127.0.0.1:9090")
	if err == nil {
		defer prometheus.Close()
	} // otherwise another program uses it already
	withoutMetricsPort := func(cmd *exec.Cmd) {
		var kept []string
		for _, setting := range cmd.Env {
			if !strings.HasPrefix(setting, "METRICS_PORT=") {
				kept = append(kept, setting)
			}
		}
		cmd.Env = kept
	}
	warning := regexp.MustCompile(`"METRICS_PORT is not set and its default is in use.*"in_use":"127.0.0.1:9090","metrics":"([^"]*)"`)
	for range 2 {
		p := launchIn(t, withoutMetricsPort, postgrestest.Config(t), []string{"serve"})
		testenv.Until(t, 20*time.Second, "the port is logged", func() bool { return warning.MatchString(p.stderr.String()) })
		p.ops = "http://" + warning.FindStringSubmatch(p.stderr.String())[1]
		p.waitReady()
	}
	// If the API uses that port, the metrics get another one.
	if prometheus != nil {
		_ = prometheus.Close()
		p := launchIn(t, withoutMetricsPort, postgrestest.Config(t), []string{"serve"}, "PORT=9090")
		testenv.Until(t, 20*time.Second, "the port is logged", func() bool { return warning.MatchString(p.stderr.String()) })
	}
	// A port that is set explicitly is not replaced.
	p := launch(t, postgrestest.Config(t), []string{"serve"})
	p.waitReady()
	second := launch(t, postgrestest.Config(t), []string{"serve"}, "METRICS_PORT="+p.ops[strings.LastIndexByte(p.ops, ':')+1:])
	if code := second.wait(20 * time.Second); code == 0 || !strings.Contains(second.stderr.String(), "METRICS_PORT: cannot listen") {
		t.Errorf("exit code %d: %s", code, second.stderr)
	}
}

// D11.
func TestHOSTThatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, settings, want string }{
		{"healthcheck", "HOST=[::1]", "HOST: \"[::1]\" is neither"},
		{"serve", "HOST=[::1]", "HOST: \"[::1]\" is neither"},
		{"healthcheck", "METRICS_PORT=http", "METRICS_PORT: "},
		{"healthcheck", "METRICS_PORT=0", "METRICS_PORT is 0"},
		{"serve", "HOST=203.0.113.7", "HOST: this machine does not have that address"},
		{"serve", "HOST=no-such-host.invalid", "HOST: the host does not exist"},
	} {
		p := launch(t, postgrestest.Config(t), []string{tc.args}, tc.settings)
		if code := p.wait(20 * time.Second); code == 0 || !strings.Contains(p.stderr.String(), tc.want) ||
			strings.Contains(p.stderr.String(), "authserver: PORT") {
			t.Errorf("%s with %s: exit code %d, %s", tc.args, tc.settings, code, p.stderr)
		}
	}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = l.Close()
		p := launch(t, postgrestest.Config(t), []string{"serve"}, "HOST=::1")
		port := p.ops[strings.LastIndexByte(p.ops, ':'):]
		p.ops = "http://[::1]" + port
		p.waitReady()
		if code := launch(t, postgrestest.Config(t), []string{"healthcheck"}, "HOST=::1",
			"METRICS_PORT="+port[1:]).wait(20 * time.Second); code != 0 {
			t.Errorf("healthcheck of ::1: exit code %d", code)
		}
	}
}

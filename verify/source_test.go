package verify_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

var background = context.Background()

func TestADirectoryIsFollowed(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	dir := issuer.Dir()
	v := open(t, verify.FromDir(dir))
	first := issuer.Token()
	verified := func(token string) error { _, err := v.Verify(background, token); return err }
	if err := verified(first); err != nil {
		t.Fatal(err)
	}
	generation := v.Stats().Generation
	issuer.Rotate()
	if err := verified(issuer.Token()); err != nil {
		t.Error("a new key is not found:", err)
	}
	if err := verified(first); err != nil {
		t.Error("the former key is not kept:", err)
	}
	got := v.Stats()
	if got.Generation != generation+1 || len(got.KeyIDs) != 2 || got.Issuer != issuer.Name() || got.Source != dir || got.Age < 0 {
		t.Errorf("%+v", got)
	}
	issuer.Drop()
	if err := v.Refresh(background); err != nil {
		t.Fatal(err)
	}
	refused(t, verified(first), first, verify.ErrKey, verify.ReasonUnknownKey, "unknown")

	// What cannot be used leaves the last good keys in place.
	verifytest.WriteVolume(t, dir, map[string][]byte{"jwks.json": []byte(`{"keys":[]}`), "keys.json": []byte(`{"issuer":"x"}`)})
	if err := v.Refresh(background); !errors.Is(err, verify.ReasonEmptyKeySet) {
		t.Error(err)
	}
	if err := verified(issuer.Token()); err != nil || v.Ready() != nil {
		t.Error("the last good keys are gone:", err)
	}
	if s := v.Stats(); !errors.Is(s.Err, verify.ReasonEmptyKeySet) || s.Failures != 1 {
		t.Errorf("%+v", s)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := v.Refresh(background); err == nil || verified(issuer.Token()) != nil {
		t.Error("a directory that is gone:", err)
	}
}

func TestARevokedKeyInKeysJSONIsNotUsed(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	dir, token := t.TempDir(), issuer.Token()
	verifytest.WriteVolume(t, dir, map[string][]byte{
		"jwks.json": issuer.JWKS(),
		"keys.json": fmt.Appendf(nil, `{"issuer":%q,"generation":7,"revoked":[%q]}`, issuer.Name(), issuer.KeyID()),
	})
	_, err := verify.New(background, verify.FromDir(dir), audience)
	refused(t, err, token, verify.ErrSource, verify.ReasonNoUsableKey, "every key was revoked")

	former := issuer.KeyID()
	issuer.Rotate()
	verifytest.WriteVolume(t, dir, map[string][]byte{
		"jwks":      issuer.JWKS(),
		"keys.json": fmt.Appendf(nil, `{"issuer":%q,"generation":8,"revoked":[%q]}`, issuer.Name(), former),
	})
	v := open(t, verify.FromDir(dir))
	_, err = v.Verify(background, token)
	refused(t, err, token, verify.ErrKey, verify.ReasonKeyRevoked, "it was revoked")
}

// TestADirectoryIsNeverMixed replaces the volume all the time: the issuer and the keys are of one version.
func TestADirectoryIsNeverMixed(t *testing.T) {
	a := verifytest.NewIssuer(t, verifytest.Name("https://a.example.com"))
	b := verifytest.NewIssuer(t, verifytest.Name("https://b.example.com"))
	dir := t.TempDir()
	write := func(i *verifytest.Issuer) {
		verifytest.WriteVolume(t, dir, map[string][]byte{
			"jwks.json": i.JWKS(), "openid-configuration": fmt.Appendf(nil, `{"issuer":%q}`, i.Name()),
		})
	}
	write(a)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Add(1)
	go func() {
		defer writer.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				write([]*verifytest.Issuer{b, a}[i%2])
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		writer.Wait()
	})
	v := open(t, verify.FromDir(dir))
	read := map[string]int{}
	for deadline := time.Now().Add(20 * time.Second); read[a.Name()] < 50 || read[b.Name()] < 50; {
		err := v.Refresh(background)
		if errors.Is(err, verify.ReasonUnreachable) && time.Now().Before(deadline) {
			continue // the volume was replaced at each attempt
		}
		if err != nil {
			t.Fatal(err, read)
		}
		s := v.Stats()
		want := map[string]string{a.Name(): a.KeyID(), b.Name(): b.KeyID()}[s.Issuer]
		if !slices.Equal(s.KeyIDs, []string{want}) {
			t.Fatalf("%s has the keys %s", s.Issuer, s.KeyIDs)
		}
		read[s.Issuer]++
	}
}

func TestASubPathMountIsRefused(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"jwks.json": string(issuer.JWKS()), "keys.json": `{"issuer":"https://auth.example.com"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const kubelet = "/var/lib/kubelet/pods/8f/"
	for _, tt := range []struct {
		name, root, point string
		refused           bool
	}{
		{"a ConfigMap", kubelet + "volumes/kubernetes.io~configmap/keys", dir, false},
		{"a host directory", "/srv/keys", dir, false},
		{"another file", "/srv/app.yaml", dir + "/app.yaml", false},
		{"a parent", "/", filepath.Dir(dir), false},
		{"a file by subPath", kubelet + "volumes/kubernetes.io~configmap/keys/..2026_11_29_01_02_03.4/jwks.json", dir + "/jwks.json", true},
		{"a file of a host", "/srv/keys/jwks.json", dir + "/jwks.json", true},
		{"keys.json only", "/srv/keys/keys.json", dir + "/keys.json", true},
		{"a directory by subPath", kubelet + "volume-subpaths/keys/app/0", dir, true},
		{"a version of the volume", kubelet + "volumes/kubernetes.io~configmap/keys/..2026_11_29_01_02_03.4", dir, true},
	} {
		mounts := filepath.Join(t.TempDir(), "mountinfo")
		escaped := strings.ReplaceAll(tt.point, " ", `\040`)
		line := fmt.Sprintf("22 1 0:21 / / rw - ext4 /dev/vda rw\n36 35 98:0 %s %s rw,noatime master:1 - ext4 /dev/root rw\n", tt.root, escaped)
		if err := os.WriteFile(mounts, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := verify.New(background, verify.WithMounts(dir, mounts), audience)
		if v != nil {
			v.Close()
		}
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.refused {
			refused(t, err, "", verify.ErrSource, verify.ReasonSubPath, tt.point+" is mounted with subPath and will never be updated")
		}
	}
}

func TestAServiceMayStartBeforeTheGateway(t *testing.T) {
	for _, name := range []string{"directory", "URL"} {
		issuer := verifytest.NewIssuer(t)
		empty, address := t.TempDir(), issuer.URL()
		issuer.Outage(true)
		v := open(t, map[string]verify.Source{"directory": verify.FromDir(empty), "URL": verify.FromURL(address)}[name])
		token := issuer.Token()
		_, err := v.Verify(background, token)
		refused(t, err, token, verify.ErrUnavailable, verify.ReasonNoKeys, "there are no keys yet: ")
		if status, challenge := v.Challenge(err); status != http.StatusServiceUnavailable || challenge != "" {
			t.Errorf("%s: %d %s", name, status, challenge)
		}
		if err := v.Ready(); !errors.Is(err, verify.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(background, time.Millisecond)
		if err := v.Wait(ctx); !errors.Is(err, verify.ReasonNoKeys) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		issuer.Outage(false)
		verifytest.WriteVolume(t, empty, map[string][]byte{
			"jwks.json": issuer.JWKS(), "keys.json": fmt.Appendf(nil, `{"issuer":%q}`, issuer.Name()),
		})
		if err := v.Wait(background); err != nil { // no Refresh: it retries on its own
			t.Fatal(err)
		}
		if _, err := v.Verify(background, issuer.Token()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := verify.New(ctx, verify.FromURL(verifytest.NewIssuer(t).URL()), audience); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAURLIsFetchedWithETagsAndRotations(t *testing.T) {
	clock := newClock()
	issuer := verifytest.NewIssuer(t)
	v := open(t, verify.FromURL(issuer.URL()), verify.Clock(clock.now))
	first := issuer.Token()
	if _, err := v.Verify(background, first); err != nil {
		t.Fatal(err)
	}
	if err := v.Refresh(background); err != nil {
		t.Fatal(err)
	}
	if s := v.Stats(); s.Generation != 1 || s.Reads != 2 || s.ClockSkew.Abs() > 5*time.Second {
		t.Errorf("%+v", s)
	}
	const metadata, keys = "/.well-known/openid-configuration", "/.well-known/jwks.json"
	if issuer.Requests(metadata) != 1 || issuer.Requests(keys) != 2 {
		t.Errorf("%d requests for the metadata, %d for the keys", issuer.Requests(metadata), issuer.Requests(keys))
	}
	issuer.Rotate()
	if _, err := v.Verify(background, issuer.Token()); err != nil {
		t.Error("a new key is not fetched:", err)
	}
	if s := v.Stats(); s.Generation != 2 {
		t.Errorf("%+v", s)
	}
	issuer.Outage(true)
	if err := v.Refresh(background); !errors.Is(err, verify.ErrSource) || errors.Is(err, verify.ReasonUnreachable) {
		t.Error(err)
	}
	if _, err := v.Verify(background, first); err != nil {
		t.Error("an outage of the gateway reaches its consumers:", err)
	}
	strict := open(t, issuer.Source(), verify.Clock(clock.now), verify.MaxStale(time.Hour))
	clock.advance(2 * time.Hour)
	_, err := strict.Verify(background, first)
	refused(t, err, first, verify.ErrUnavailable, verify.ReasonStaleKeys, "longer than MaxStale (1h0m0s)")
	if strict.Ready() == nil || v.Ready() != nil {
		t.Error("Ready does not follow MaxStale")
	}
}

func TestAnAddressMayDifferFromTheIssuer(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verifytest.Name("https://auth.example.com/tenant"))
	address := issuer.URL()
	if _, err := verify.New(background, verify.FromURL(address), audience); !errors.Is(err, verify.ReasonOtherIssuer) {
		t.Error("another issuer is accepted:", err)
	}
	v := open(t, verify.FromURL(address), verify.Issuer(issuer.Name()))
	if _, err := v.Verify(background, issuer.Token()); err != nil {
		t.Error(err)
	}
}

func TestUnknownKeysCauseOneReadAMinute(t *testing.T) {
	clock := newClock()
	issuer, attacker := verifytest.NewIssuer(t, verifytest.Clock(clock.now)), verifytest.NewIssuer(t, verifytest.Clock(clock.now))
	var reads atomic.Int32
	gate := make(chan struct{})
	close(gate)
	v := open(t, verify.FromFunc(func(ctx context.Context) (verify.Document, error) {
		reads.Add(1)
		<-gate
		return verify.Document{Issuer: issuer.Name(), JWKS: issuer.JWKS()}, nil
	}), verify.Clock(clock.now))
	gate = make(chan struct{}) // the next read waits
	before := reads.Load()
	var group sync.WaitGroup
	for i := range 50 {
		group.Add(1)
		go func() {
			defer group.Done()
			_, err := v.Verify(background, attacker.Token(verifytest.Header("kid", fmt.Sprint("random", i))))
			if !errors.Is(err, verify.ErrKey) {
				t.Error(err)
			}
		}()
	}
	eventually(t, "a token with an unknown key causes a read", func() bool { return reads.Load() > before })
	begin := time.Now()
	for range 20 { // tokens with known keys do not wait for it
		if _, err := v.Verify(background, issuer.Token()); err != nil {
			t.Error(err)
		}
	}
	if time.Since(begin) > 2*time.Second {
		t.Error("tokens with known keys wait for the read of unknown ones")
	}
	close(gate)
	group.Wait()
	unknown := func() { _, _ = v.Verify(background, attacker.Token()) }
	for range 20 {
		unknown()
	}
	if n := reads.Load() - before; n != 1 {
		t.Errorf("%d reads for unknown keys, want 1", n)
	}
	clock.advance(time.Minute)
	unknown()
	unknown()
	if n := reads.Load() - before; n != 2 {
		t.Errorf("%d reads after a minute, want 2", n)
	}
	clock.advance(time.Minute)
	for _, change := range []verifytest.TokenOption{ // nothing to find
		verifytest.Claim("iss", "https://other.example.com"), verifytest.Claim("aud", "other"),
		verifytest.Claim("exp", clock.now().Unix()), verifytest.Without("sub"),
	} {
		_, _ = v.Verify(background, attacker.Token(verifytest.Claim("iat", clock.now().Unix()-1), change))
	}
	if n := reads.Load() - before; n != 2 {
		t.Errorf("%d reads for tokens that cannot be ours, want none", n-2)
	}
}

func TestACacheAndAProxyAreObeyed(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verifytest.Name("http://auth.example.com"))
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		if strings.HasSuffix(r.URL.Path, "jwks.json") {
			_, _ = w.Write(issuer.JWKS())
		} else {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer.Name(), issuer.Name()+"/keys/jwks.json")
		}
	}))
	defer proxy.Close()
	at, _ := url.Parse(proxy.URL)
	v := open(t, verify.FromURL(issuer.Name()), verify.HTTPClient(&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}))
	if got := asked.Load(); got != "http://auth.example.com/keys/jwks.json" {
		t.Errorf("the proxy was asked for %v", got)
	}
	if _, err := v.Verify(background, issuer.Token()); err != nil {
		t.Error(err)
	}
	// The date in the answers shows that the clocks differ.
	if skew := v.Stats().ClockSkew; skew > -59*time.Minute || skew < -61*time.Minute {
		t.Errorf("the clock skew is %v", skew)
	}
	now := time.Now().Unix()
	expired := issuer.Token(verifytest.Claim("iat", now-100), verifytest.Claim("exp", now-20))
	_, err := v.Verify(background, expired)
	refused(t, err, expired, verify.ErrExpired, verify.ReasonClock, "about an hour behind")
}

func TestABodyIsBoundedAndADowngradeRefused(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large/.well-known/openid-configuration":
			_, _ = w.Write(make([]byte, 2<<20))
		case "/loop/.well-known/openid-configuration":
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		case "/down/.well-known/openid-configuration":
			http.Redirect(w, r, "http://"+r.Host+"/", http.StatusFound)
		case "/insecure/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":"https://%s/insecure","jwks_uri":"http://%s/keys"}`, r.Host, r.Host)
		}
	}))
	defer server.Close()
	for path, want := range map[string]verify.Reason{
		"/large": verify.ReasonTooLarge, "/down": verify.ReasonRedirect, "/insecure": verify.ReasonMalformedMetadata,
	} {
		_, err := verify.New(background, verify.FromURL(server.URL+path), audience, verify.HTTPClient(server.Client()))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	v := open(t, verify.FromURL(server.URL+"/loop"), verify.HTTPClient(server.Client()))
	if err := v.Ready(); err == nil || !strings.Contains(err.Error(), "more than 3 redirects") {
		t.Error(err)
	}
	v = open(t, verify.FromURL(server.URL+"/loop")) // a CA that is not trusted
	if err := v.Ready(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func TestCheckedTokensAreCachedUntilTheKeysChange(t *testing.T) {
	clock := newClock()
	issuer := verifytest.NewIssuer(t, verifytest.Clock(clock.now))
	v := open(t, issuer.Source(), verify.Clock(clock.now), verify.Cache(64))
	tokens := make([]string, 500)
	for i := range tokens {
		tokens[i] = issuer.Token()
		for range 2 {
			if _, err := v.Verify(background, tokens[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := v.Stats().Cached; n == 0 || n > 64 {
		t.Errorf("%d tokens are cached, want 64 at most", n)
	}
	last := tokens[len(tokens)-1]
	first, _ := v.Verify(background, last)
	second, _ := v.Verify(background, last)
	if first != second {
		t.Error("a token that was just verified is verified again")
	}
	if _, err := v.With(verify.Scopes("admin")).Verify(background, last); !errors.Is(err, verify.ErrScope) {
		t.Error("the cache skips requirements:", err)
	}
	if _, err := v.Verify(background, strings.Replace(last, ".", ".A", 1)); err == nil {
		t.Error("the cache accepts another token")
	}
	clock.advance(verifytest.Lifetime + time.Minute)
	if _, err := v.Verify(background, last); !errors.Is(err, verify.ErrExpired) {
		t.Error("the cache accepts an expired token:", err)
	}
	fresh := issuer.Token()
	if _, err := v.Verify(background, fresh); err != nil {
		t.Fatal(err)
	}
	issuer.Rotate()
	issuer.Drop()
	if err := v.Refresh(background); err != nil || v.Stats().Cached != 0 {
		t.Error("the cache outlives its keys:", err)
	}
	if _, err := v.Verify(background, fresh); !errors.Is(err, verify.ErrKey) {
		t.Error(err)
	}
}

func TestCloseEndsTheBackgroundWork(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v, err := verify.New(background, issuer.Source(), audience)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	v.Close()
	if err := v.Refresh(background); !errors.Is(err, verify.ReasonClosed) {
		t.Error(err)
	}
	if _, err := v.Verify(background, issuer.Token()); err != nil {
		t.Error("the last keys are gone:", err)
	}
	if _, err := v.Verify(background, verifytest.NewIssuer(t).Token()); !errors.Is(err, verify.ErrKey) {
		t.Error(err)
	}
}

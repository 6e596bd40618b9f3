package localkubernetes

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// fill writes empty files with the names of programs.
func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o700))
	}
}

func TestTheFolderThatIsNamedIsTakenOrItsLackIsTold(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(variable, dir)
	fill(t, dir, "etcd")
	if _, err := Assets(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(),
		variable+" is "+dir+", which has no kube-apiserver") {
		t.Errorf("without kube-apiserver: %v", err)
	}
	fill(t, dir, "kube-apiserver")
	if got, err := Assets(t.Context(), io.Discard); err != nil || got != dir {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestThoseWhoAskAtOnceGetWhatOneOfThemHasGot(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "made", "on", "demand")
	var calls atomic.Int32
	slow := func(_ context.Context, _ io.Writer, scratch string) (string, error) {
		calls.Add(1)
		time.Sleep(300 * time.Millisecond) // so the other calls find the lock taken
		fill(t, scratch, "etcd", "kube-apiserver")
		return scratch, nil
	}
	var dirs sync.Map
	var wait sync.WaitGroup
	for i := range 5 {
		wait.Go(func() {
			var log bytes.Buffer
			dir, err := cached(t.Context(), &log, filepath.Join(cache, "programs"), apiServer, slow)
			if err != nil || missingIn(dir, apiServer) != "" {
				t.Errorf("%q, %v", dir, err)
			}
			dirs.Store(dir, i)
			if got := log.String(); got != "" && got != "waiting for another process that downloads or builds the programs\n" {
				t.Errorf("the log is %q", got)
			}
		})
	}
	wait.Wait()
	never := func(context.Context, io.Writer, string) (string, error) {
		return "", errors.New("this source must not be used")
	}
	dir, err := cached(t.Context(), io.Discard, filepath.Join(cache, "programs"), apiServer, never)
	if err != nil {
		t.Errorf("with a filled cache: %v", err)
	}
	dirs.Store(dir, 0)
	if n := calls.Load(); n != 1 {
		t.Errorf("the programs were created %d times", n)
	}
	dirs.Range(func(dir, _ any) bool {
		want := filepath.Join(cache, "programs")
		if dir != want {
			t.Errorf("got %s, want %s", dir, want)
		}
		return true
	})
}

func TestWhoeverWaitsForAnotherCanBeCalledOff(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	held, release := make(chan struct{}), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		_, _ = cached(context.Background(), io.Discard, filepath.Join(cache, "programs"), apiServer, func(context.Context,
			io.Writer, string) (string, error) {
			close(held)
			<-release
			return "", errors.New("enough")
		})
	})
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := cached(ctx, io.Discard, filepath.Join(cache, "programs"), apiServer); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
	wait.Wait()
}

func TestTheNextSourceIsAskedAndOnlyWholeFoldersAreKept(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	fails := func(context.Context, io.Writer, string) (string, error) { return "", errors.New("no way out") }
	half := func(_ context.Context, _ io.Writer, scratch string) (string, error) {
		fill(t, scratch, "etcd")
		return scratch, nil
	}
	_, err := cached(t.Context(), io.Discard, filepath.Join(cache, "programs"), apiServer, fails, half)
	for _, want := range []string{"no way out", "kube-apiserver is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(cache, "programs*"))
	if len(left) != 1 || !strings.HasSuffix(left[0], ".lock") {
		t.Errorf("files are left: %v", left)
	}

	below := func(_ context.Context, _ io.Writer, scratch string) (string, error) {
		if missingIn(scratch, apiServer) != "etcd" {
			t.Error("the files of the previous source were not removed")
		}
		dir := filepath.Join(scratch, "below")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		fill(t, dir, "etcd", "kube-apiserver")
		return dir, nil
	}
	var log bytes.Buffer
	dir, err := cached(t.Context(), &log, filepath.Join(cache, "programs"), apiServer, fails, half, below)
	if err != nil || missingIn(dir, apiServer) != "" {
		t.Errorf("%q, %v", dir, err)
	}
	if log.Len() != 0 {
		t.Errorf("a source that fails is logged: %q", log.String())
	}
	if _, err := os.Stat(dir + ".unfinished"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished folder is still there (%v)", err)
	}
}

func TestAFolderThatLostAProgramIsFilledAnew(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	whole := func(_ context.Context, _ io.Writer, scratch string) (string, error) {
		fill(t, scratch, "etcd", "kube-apiserver")
		return scratch, nil
	}
	dir, err := cached(t.Context(), io.Discard, filepath.Join(cache, "programs"), apiServer, whole)
	if err != nil {
		t.Fatal(err)
	}
	testenv.NoError(t, os.Remove(filepath.Join(dir, "etcd")))
	if dir, err = cached(t.Context(), io.Discard, filepath.Join(cache, "programs"), apiServer, whole); err != nil ||
		missingIn(dir, apiServer) != "" {
		t.Errorf("%q, %v", dir, err)
	}
}

func TestAnIndexThatDoesNotAnswerIsGivenUpWithinSeconds(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections, and never replies
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	for name, index := range map[string]string{
		"silent":       "http://" + silent.Addr().String(),
		"without it":   missing.URL,
		"of no server": "http://127.0.0.1:1",
	} {
		begin := time.Now()
		var log bytes.Buffer
		if dir, err := downloadFrom(index)(t.Context(), &log, t.TempDir()); err == nil {
			t.Errorf("%s: got %s", name, dir)
		}
		if took := time.Since(begin); took > 6*time.Second || log.Len() != 0 {
			t.Errorf("%s: took %v, and the log is %q", name, took, log.String())
		}
	}
}

func TestWhatCanBeDownloadedGetsIntoTheCache(t *testing.T) {
	t.Parallel()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	w := tar.NewWriter(zipped)
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		content := "#!/bin/sh\n"
		if err := w.WriteHeader(&tar.Header{Name: "controller-tools/envtest/" + name, Typeflag: tar.TypeReg, Mode: 0o755,
			Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		testenv.NoError(t, testenv.Err(io.WriteString(w, content)))
	}
	testenv.NoError(t, errors.Join(w.Close(), zipped.Close()))
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/archive" {
			_, _ = w.Write(archive.Bytes())
			return
		}
		sum := sha512.Sum512(archive.Bytes())
		fmt.Fprintf(w, "releases:\n  v%[1]s.%[2]s.9:\n    envtest-v%[1]s.%[2]s.9-%[3]s-%[4]s.tar.gz: {hash: %[5]s, selfLink: %[6]s/archive}\n",
			major, minor, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(sum[:]), server.URL)
	}))
	defer server.Close()

	var log bytes.Buffer
	dir, err := cached(t.Context(), &log, filepath.Join(t.TempDir(), "programs"), apiServer, downloadFrom(server.URL+"/index"))
	if err != nil {
		t.Fatal(err)
	}
	if missingIn(dir, apiServer) != "" {
		t.Errorf("there is no %s in %s", missingIn(dir, apiServer), dir)
	}
	if !strings.HasPrefix(log.String(), "downloading kube-apiserver and etcd") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestABuildShowsThatItGoesOnAndSaysWhyItFails(t *testing.T) {
	t.Parallel()
	root, into := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"go.mod":  "module example.com/slow\n\ngo 1.26.0\n",
		"main.go": "package main\n\nfunc main() {}\n",
	} {
		testenv.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	var log bytes.Buffer
	right := program{name: "slow", from: ".", path: "example.com/slow", takes: "no time"}
	testenv.NoError(t, right.build(t.Context(), &log, root, into, time.Millisecond))
	want := regexp.MustCompile(`^building slow for Kubernetes v\S+ from source; this happens once ` +
		`and takes up to no time on 2 cores\n(still building slow, after \S+\n)+$`)
	if !want.MatchString(log.String()) {
		t.Errorf("the log is %q", log.String())
	}
	if _, err := os.Stat(filepath.Join(into, "slow")); err != nil {
		t.Error(err)
	}

	wrong := program{name: "wrong", from: ".", path: "example.com/slow/missing"}
	if err := wrong.build(t.Context(), io.Discard, root, into, time.Minute); err == nil || !strings.Contains(err.Error(),
		"example.com/slow/missing") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := right.build(ctx, io.Discard, root, into, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestTheVersionIsThatOfTheModuleAndOfAllThatItReplaces(t *testing.T) {
	t.Parallel()
	root := testenv.Must(Root())(t)
	content := testenv.Must(os.ReadFile(filepath.Join(root, "hack", "kubernetes", "go.mod")))(t)
	if !strings.Contains(string(content), "k8s.io/kubernetes "+version+"\n") {
		t.Errorf("hack/kubernetes/go.mod does not require k8s.io/kubernetes %s", version)
	}
	parts := "v0" + strings.TrimPrefix(version, "v"+major)
	replaced := regexp.MustCompile(`(?m)^\t(k8s\.io/\S+) => (\S+) (\S+)$`).FindAllStringSubmatch(string(content), -1)
	if len(replaced) < 30 {
		t.Errorf("%d modules are replaced", len(replaced))
	}
	for _, r := range replaced {
		if r[1] != r[2] || r[3] != parts {
			t.Errorf("%s: want version %s", strings.TrimSpace(r[0]), parts)
		}
	}
}

package localpostgres

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// jar packs the programs of this machine in the format of the repository that the library embedded-postgres uses.
func jar(t *testing.T) []byte {
	t.Helper()
	programs := testenv.Must(Programs(t.Context(), os.Stderr))(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	root := filepath.Dir(programs)
	names := []string{"bin/postgres", "bin/initdb", "bin/pg_ctl"}
	libraries, _ := filepath.Glob(filepath.Join(root, "lib", "*.so"))
	if len(libraries) == 0 {
		t.Skip("the programs need libraries in other folders")
	}
	for _, library := range libraries {
		names = append(names, "lib/"+filepath.Base(library))
	}
	for _, name := range names {
		content := testenv.Must(os.ReadFile(filepath.Join(root, name)))(t)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		testenv.NoError(t, testenv.Err(w.Write(content)))
	}
	testenv.NoError(t, w.Close())
	xz := exec.CommandContext(t.Context(), "xz", "-0", "--stdout")
	xz.Stdin = &archive
	compressed, err := xz.Output()
	if err != nil {
		t.Skip("xz is needed to pack the programs: ", err)
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	file := testenv.Must(z.Create("postgres.txz"))(t)
	testenv.NoError(t, testenv.Err(file.Write(compressed)))
	testenv.NoError(t, z.Close())
	return out.Bytes()
}

func repository(t *testing.T) *httptest.Server {
	t.Helper()
	content := jar(t)
	sum := sha256.Sum256(content)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".jar"):
			_, _ = w.Write(content)
		case strings.HasSuffix(r.URL.Path, ".jar.sha256"):
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestTheProgramsAreFetchedWhereThereAreNone(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(repositoryVariable, repository(t).URL)
	t.Setenv("TMPDIR", t.TempDir()) // the library leaves its log there
	var progress bytes.Buffer
	dir := testenv.Must(fetch(t.Context(), cache, &progress))(t)
	if !hasPrograms(dir) || !strings.Contains(progress.String(), "downloading") {
		t.Errorf("%s lacks the programs; the progress is %q", dir, progress.String())
	}
	left, err := os.ReadDir(cache)
	if err != nil || len(left) != 1 {
		t.Errorf("left in the cache: %v (%v)", left, err)
	}
}

// As root only the first half of the library's start succeeds. The test therefore runs itself again as a user for whom
// the second half succeeds too.
func TestTheProgramsAreFetchedWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the test above covers this case")
	}
	if _, err := Programs(t.Context(), os.Stderr); err != nil { // while we are root
		t.Fatal(err)
	}
	account := testenv.Must(unprivileged())(t)
	// The account cannot enter t.TempDir.
	home, err := os.MkdirTemp("", temporaryPrefix+"home-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	program := filepath.Join(home, "test")
	content := testenv.Must(os.ReadFile(os.Args[0]))(t)
	testenv.NoError(t, os.WriteFile(program, content, 0o700))
	testenv.NoError(t, account.own(home))
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.run=FetchedWhereThereAreNone|TemporaryServer")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(account.uid), Gid: uint32(account.gid)}}
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("%s", out)
	}
	if err != nil || bytes.Count(out, []byte("--- PASS")) != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAFetchThatFailsSaysWhatToDo(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	t.Setenv(repositoryVariable, server.URL)
	t.Setenv("TMPDIR", t.TempDir()) // the library leaves its log there
	_, err := fetch(t.Context(), t.TempDir(), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "install PostgreSQL") {
		t.Error(err)
	}
}

func TestAFolderWithoutProgramsIsRefusedByName(t *testing.T) {
	t.Setenv(binDirVariable, t.TempDir())
	if _, err := Programs(t.Context(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), binDirVariable) {
		t.Error(err)
	}
}

func TestTheNewestVersionIsTaken(t *testing.T) {
	for path, want := range map[string]int{
		"/usr/lib/postgresql/15/bin":            15,
		"/usr/pgsql-17/bin":                     17,
		"/opt/homebrew/opt/postgresql@9.6/bin":  0,
		"/opt/homebrew/opt/postgresql@18/bin":   18,
		"/usr/lib/postgresql/something/bin/bin": 0,
	} {
		if got := majorVersion(path); got != want {
			t.Errorf("%s is version %d, want %d", path, got, want)
		}
	}
}

func TestTheSystemClusterIsLeftOutUnlessSomeoneHasChosen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "createcluster.conf")
	for content, want := range map[string]string{
		"#create_main_cluster = true\n": "#create_main_cluster = true\n\ncreate_main_cluster = false\n",
		"create_main_cluster = true\n":  "create_main_cluster = true\n",
		"":                              "\ncreate_main_cluster = false\n",
	} {
		testenv.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		testenv.NoError(t, noSystemCluster(path))
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q became %q (%v)", content, got, err)
		}
	}
}

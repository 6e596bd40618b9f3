package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

var programs struct {
	sync.Mutex

	dir   string
	built map[string]bool
}

// Program builds a main package of the main module, such as ./cmd/authserver, and returns the path of the binary. A
// test binary builds each program once. The account that runs PostgreSQL if the test runs as root can enter the folder
// of the programs.
func Program(t testing.TB, path string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "authgateway-programs-") //nolint:usetesting // it is shared by the tests of a package
		if err != nil {
			t.Fatal(err)
		}
		AtExit(t, func() error { return os.RemoveAll(dir) })
		NoError(t, os.Chmod(dir, 0o755))
		programs.dir, programs.built = dir, map[string]bool{}
	}
	if !programs.built[path] {
		build := exec.Command("go", "build", "-o", programs.dir+"/", path)
		build.Dir = Root()
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", path, err, out)
		}
		programs.built[path] = true
	}
	return filepath.Join(programs.dir, filepath.Base(path))
}

// Root returns the folder of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

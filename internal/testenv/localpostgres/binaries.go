package localpostgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	embedded "github.com/fergusstrange/embedded-postgres"

	"github.com/auth-gateway/auth-gateway/internal/testenv/freeport"
)

const (
	// binDirVariable names the folder of the programs. It takes precedence.
	binDirVariable = "PG_BIN_DIR"
	// repositoryVariable is the URL of a mirror of the programs.
	repositoryVariable = "PG_BINARY_REPOSITORY"
)

// fetched is the version that is downloaded if the machine has none.
const fetched = embedded.V18

// Programs returns the folder of initdb and postgres. If the machine has none, they are installed or downloaded, and
// progress is written to progress.
func Programs(ctx context.Context, progress io.Writer) (string, error) {
	if dir := os.Getenv(binDirVariable); dir != "" {
		if !hasPrograms(dir) {
			return "", fmt.Errorf("%s is %s, which has no initdb and postgres: set it to a folder that has them", binDirVariable, dir)
		}
		return dir, nil
	}
	if dir := find(ctx); dir != "" {
		return dir, nil
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	// Tests of several packages start at once; only one of them downloads.
	unlock, err := waitForLock(cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir := find(ctx); dir != "" {
		return dir, nil
	}
	if _, err := exec.LookPath("apt-get"); err == nil && os.Geteuid() == 0 {
		if err := installPackage(ctx, progress); err != nil {
			return "", err
		}
		if dir := find(ctx); dir != "" {
			return dir, nil
		}
		return "", errors.New("the package postgresql is installed, but its programs are not found: set " + binDirVariable)
	}
	return fetch(ctx, cache, progress)
}

func hasPrograms(dir string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			return false
		}
	}
	return true
}

// find searches the usual folders of PostgreSQL's programs, and returns "" if it finds none.
func find(ctx context.Context) string {
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian
		"/usr/pgsql-*/bin",                   // PostgreSQL's own RPMs
		"/opt/homebrew/opt/postgresql@*/bin", // macOS
		"/usr/local/opt/postgresql@*/bin",
	} {
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
		dirs = append(dirs, matches...)
	}
	dirs = append(dirs, "/usr/bin") // Fedora, Arch
	if cache, err := cacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(fetchedDir(cache), "bin"))
	}
	for _, dir := range dirs {
		if hasPrograms(dir) {
			return dir
		}
	}
	return ""
}

// majorVersion reads 15 from /usr/lib/postgresql/15/bin.
func majorVersion(path string) int {
	digits := strings.TrimLeft(filepath.Base(filepath.Dir(path)), "abcdefghijklmnopqrstuvwxyz@-")
	version, _ := strconv.Atoi(digits)
	return version
}

// cacheDir returns the cache folder, and creates it. If we are root, the account can enter it too.
func cacheDir() (string, error) {
	base := "/var/cache"
	if os.Geteuid() != 0 {
		var err error
		if base, err = os.UserCacheDir(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(base, "auth-gateway")
	return dir, os.MkdirAll(dir, 0o755)
}

func fetchedDir(cache string) string {
	return filepath.Join(cache, "postgresql-"+string(fetched))
}

func waitForLock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// installPackage installs Debian's package, but prevents it from creating and starting a system-wide cluster.
func installPackage(ctx context.Context, progress io.Writer) error {
	fmt.Fprintln(progress, "PostgreSQL is not installed; installing the package postgresql")
	install := []string{"apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"}
	steps := []func() error{
		func() error { return runShown(ctx, progress, "apt-get", "update") },
		func() error { return runShown(ctx, progress, append(install, "postgresql-common")...) },
		func() error { return noSystemCluster("/etc/postgresql-common/createcluster.conf") },
		func() error { return runShown(ctx, progress, append(install, "postgresql")...) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("install PostgreSQL: %w", err)
		}
	}
	return nil
}

// noSystemCluster sets create_main_cluster to false, unless the administrator has set it.
func noSystemCluster(path string) error {
	const name = "create_main_cluster"
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(strings.TrimSpace(line), name) {
			return nil
		}
	}
	return os.WriteFile(path, append(content, "\n"+name+" = false\n"...), 0o644)
}

func runShown(ctx context.Context, progress io.Writer, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return nil
}

// fetch downloads the programs with embedded-postgres. The library downloads only as part of a start, so a cluster is
// started in a scratch folder and stopped. As root that start fails, because the library does not change the user, but
// the programs have been downloaded by then.
func fetch(ctx context.Context, cache string, progress io.Writer) (_ string, err error) {
	fmt.Fprintf(progress, "PostgreSQL is not installed; downloading %s to %s\n", fetched, cache)
	scratch, err := os.MkdirTemp(cache, "fetching-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	port, err := freeport.Choose(ctx)
	if err != nil {
		return "", err
	}
	programs := filepath.Join(scratch, "programs")
	c := embedded.DefaultConfig().Version(fetched).Port(uint32(port)).Locale("C").Logger(io.Discard).
		CachePath(filepath.Join(scratch, "archive")).
		RuntimePath(filepath.Join(scratch, "runtime")).
		BinariesPath(programs)
	if url := os.Getenv(repositoryVariable); url != "" {
		c = c.BinaryRepositoryURL(url)
	}
	db := embedded.NewDatabase(c)
	err = db.Start()
	if err == nil {
		err = db.Stop()
	}
	if !hasPrograms(filepath.Join(programs, "bin")) {
		return "", fmt.Errorf("download PostgreSQL: %w: install PostgreSQL with this system's packages, "+
			"set %s to the folder of its programs, or set %s to a mirror",
			err, binDirVariable, repositoryVariable)
	}
	if err != nil && os.Geteuid() != 0 {
		return "", fmt.Errorf("the downloaded PostgreSQL does not run here: %w: install PostgreSQL with this system's packages", err)
	}
	if err := os.Chmod(programs, 0o755); err != nil {
		return "", err
	}
	to := fetchedDir(cache)
	if err := os.Rename(programs, to); err != nil {
		return "", err
	}
	return filepath.Join(to, "bin"), nil
}

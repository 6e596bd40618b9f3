package kubernetestest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
)

// envtest starts etcd and kube-apiserver, and has no option for their process attributes. If a test panics, times out
// or is killed, both would keep running. So envtest gets symbolic links to the test binary under their names. When it
// is started under such a name, the test binary asks the system to end it with its parent, and then replaces itself
// with the real program.

const (
	// leashed is the folder of the links that envtest gets.
	leashed = "leashed"
	// realPrograms is a link in it to the folder of the real programs.
	realPrograms = "programs"
)

var names = []string{"etcd", "kube-apiserver"}

// leash creates the folder of the links.
func leash(assets, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.Symlink(assets, filepath.Join(dir, realPrograms))
}

// becomeProgram replaces this process if it was started under such a name; otherwise it returns.
func becomeProgram() {
	dir, name := filepath.Split(os.Args[0])
	if !slices.Contains(names, name) {
		return
	}
	// The request applies to a thread, and stays valid for the program that replaces it.
	runtime.LockOSThread()
	err := endWithParent()
	if err == nil {
		program := filepath.Join(dir, realPrograms, name)
		err = syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "kubernetestest: run %s: %v\n", name, err)
	os.Exit(1)
}

package kubernetestest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
)

// envtest starts etcd and kube-apiserver, and lets nobody say how: when a test
// panics, runs into its timeout or is killed, both would stay behind. So envtest
// is given the test's own program under their names. Started under one of those,
// it asks the system to be ended with its parent, and becomes the real program.

const (
	// leashed is the folder of the names that envtest is given.
	leashed = "leashed"
	// realPrograms is, in it, the folder of the programs.
	realPrograms = "programs"
)

var names = []string{"etcd", "kube-apiserver"}

// leash makes the folder of the names.
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

// becomeProgram does not return where we were started under such a name.
func becomeProgram() {
	dir, name := filepath.Split(os.Args[0])
	if !slices.Contains(names, name) {
		return
	}
	// What is asked for a thread holds for the program that this thread becomes.
	runtime.LockOSThread()
	err := endWithParent()
	if err == nil {
		program := filepath.Join(dir, realPrograms, name)
		err = syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "kubernetestest: run %s: %v\n", name, err)
	os.Exit(1)
}

package localpostgres

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// bindToParent has the system end the child when this process dies for any reason.
func bindToParent(attributes *syscall.SysProcAttr, signal syscall.Signal) {
	attributes.Pdeathsig = signal
}

// passFolders allows the account to pass through folders that only root may enter, such as root's home with the
// checkout in it. The server gets no other right of root.
func passFolders(attributes *syscall.SysProcAttr) {
	const capDACOverride = 1
	attributes.AmbientCaps = []uintptr{capDACOverride}
}

// isPostmaster reports whether the process is a server of this cluster, which is its working directory.
func (s *Server) isPostmaster(pid int) bool {
	at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	data, err := filepath.EvalSymlinks(s.data())
	return err == nil && at == data
}

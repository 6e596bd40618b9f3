//go:build !linux

package localpostgres

import "syscall"

// bindToParent needs Linux. On other systems the next start finds a server that outlived its parent by its
// postmaster.pid.
func bindToParent(*syscall.SysProcAttr, syscall.Signal) {}

// passFolders needs Linux.
func passFolders(*syscall.SysProcAttr) {}

// isPostmaster can only check that there is such a process.
func (s *Server) isPostmaster(pid int) bool {
	return syscall.Kill(pid, 0) == nil
}

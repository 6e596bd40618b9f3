//go:build !linux

package localpostgres

import "syscall"

// bindToParent needs Linux. Elsewhere a server that was left behind by a
// killed parent is found by the next start, through its postmaster.pid.
func bindToParent(*syscall.SysProcAttr, syscall.Signal) {}

// passFolders needs Linux.
func passFolders(*syscall.SysProcAttr) {}

// isPostmaster can only ask whether there is such a process.
func (s *Server) isPostmaster(pid int) bool {
	return syscall.Kill(pid, 0) == nil
}

package postgrestest

import (
	"os/exec"
	"syscall"
)

// bindToParent has the system end a program when this process dies. Linux ends it with the thread that started it, and
// a Go program's threads seldom end.
func bindToParent(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

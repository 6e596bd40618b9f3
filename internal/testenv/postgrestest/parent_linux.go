package postgrestest

import (
	"os/exec"
	"syscall"
)

// bindToParent has the system end a program when we die. Linux ends it when the
// thread that started it ends, which a Go program's threads seldom do.
func bindToParent(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

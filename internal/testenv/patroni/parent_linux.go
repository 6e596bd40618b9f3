package patroni

import "syscall"

// bindToParent has the system end a program when this process dies.
func bindToParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

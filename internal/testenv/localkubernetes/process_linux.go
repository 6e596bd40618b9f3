package localkubernetes

import "syscall"

// endWithParent has the system end the child when we die, by whatever cause.
func endWithParent(attributes *syscall.SysProcAttr) {
	attributes.Pdeathsig = syscall.SIGTERM
}

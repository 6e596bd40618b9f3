package localkubernetes

import "syscall"

// endWithParent has the system end the child when this process dies for any reason.
func endWithParent(attributes *syscall.SysProcAttr) {
	attributes.Pdeathsig = syscall.SIGTERM
}

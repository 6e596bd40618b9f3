package main

import "syscall"

// bindToParent has the system end the server when this process dies for any reason.
func bindToParent(attributes *syscall.SysProcAttr) {
	attributes.Pdeathsig = syscall.SIGTERM
}

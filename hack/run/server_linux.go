package main

import "syscall"

// bindToParent has the system end the server when we die, by whatever cause.
func bindToParent(attributes *syscall.SysProcAttr) {
	attributes.Pdeathsig = syscall.SIGTERM
}

package kubernetestest

import "golang.org/x/sys/unix"

func endWithParent() error {
	// SIGKILL: the server's data is discarded, and without etcd the server cannot shut down.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

package identity

import "golang.org/x/sys/unix"

// yieldToOthers gives the calling OS thread the lowest priority. On Linux nice
// is a thread's own, whatever POSIX says (setpriority(2), "C library/kernel
// differences"). Raising one's nice value needs no right; where it is refused
// all the same, hashing merely is no politer.
func yieldToOthers() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}

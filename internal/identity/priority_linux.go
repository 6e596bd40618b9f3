package identity

import "golang.org/x/sys/unix"

// yieldToOthers gives the calling OS thread the lowest priority. On Linux the nice value belongs to a thread, unlike in
// POSIX (setpriority(2), "C library/kernel differences"). A thread may raise its own nice value without a privilege. If
// that fails nevertheless, hashing keeps the normal priority.
func yieldToOthers() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}

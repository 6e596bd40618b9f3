//go:build !linux

package localkubernetes

import "syscall"

// endWithParent needs Linux. On other systems an orphaned build continues, and the next build uses its results from
// Go's build cache.
func endWithParent(*syscall.SysProcAttr) {}

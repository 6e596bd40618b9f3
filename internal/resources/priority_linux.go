package resources

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// YieldToOthers gives all threads of the process the lowest priority, for work that can wait. New threads inherit it.
// A process may lower its priority without a privilege.
func YieldToOthers() {
	for range 2 { // a thread that begins meanwhile may be the child of one that was not reached yet
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, t := range threads {
			if id, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.Setpriority(unix.PRIO_PROCESS, id, 19)
			}
		}
	}
}

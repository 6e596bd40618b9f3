package authserver

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// hashingThreads gives how many passwords to hash at once: what is configured,
// else as many as there are whole processors to use. It also makes room for
// that many goroutines beyond the processors, so that a goroutine which hashes
// (at the lowest priority, in a thread of its own) never keeps one that serves
// a request from running; GOMAXPROCS in the environment has the last word.
func hashingThreads(configured int) int {
	processors := usableProcessors()
	threads := configured
	if threads == 0 {
		threads = max(1, int(processors))
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(int(math.Ceil(processors)) + threads)
	}
	return threads
}

// usableProcessors is how many processors the process may keep busy: those that
// it may run on, and no more than its control group's CPU limit. (The runtime
// knows the limit too, but tells it rounded, and never as less than two.)
func usableProcessors() float64 {
	return min(float64(runtime.NumCPU()), cpuLimit(os.DirFS("/")))
}

// cpuLimit reads the CPU limit, in processors, of this process's control group
// and of those above it, as far as they can be seen; without one it is +Inf.
func cpuLimit(root fs.FS) float64 {
	limit := math.Inf(1)
	for line := range strings.Lines(read(root, "proc/self/cgroup")) {
		// hierarchy-ID:controllers:path, see cgroups(7)
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for dir := path.Join("/", fields[2]); ; dir = path.Dir(dir) {
			switch {
			case fields[0] == "0": // version 2: "max 100000" or "150000 100000"
				limit = min(limit, quota(strings.Fields(read(root, path.Join("sys/fs/cgroup", dir, "cpu.max")))))
			case hasController(fields[1], "cpu"):
				base := path.Join("sys/fs/cgroup/cpu", dir)
				limit = min(limit, quota(append(
					strings.Fields(read(root, path.Join(base, "cpu.cfs_quota_us"))),
					strings.Fields(read(root, path.Join(base, "cpu.cfs_period_us")))...)))
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// quota divides a quota by its period; anything but two positive numbers is no
// limit.
func quota(fields []string) float64 {
	if len(fields) != 2 {
		return math.Inf(1)
	}
	allowed, err1 := strconv.ParseFloat(fields[0], 64)
	period, err2 := strconv.ParseFloat(fields[1], 64)
	if err1 != nil || err2 != nil || allowed <= 0 || period <= 0 {
		return math.Inf(1)
	}
	return allowed / period
}

// read gives a file's text, and nothing where it cannot be read.
func read(root fs.FS, name string) string {
	text, _ := fs.ReadFile(root, name)
	return string(text)
}

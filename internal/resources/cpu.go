// Package resources determines and applies the CPU and memory limits of the process: those
// of its control group (a container), of the machine, and of the environment.
package resources

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// HashingThreads returns how many passwords to hash at the same time: the configured
// number, or if it is 0, the number of whole usable processors.
func HashingThreads(configured int) int {
	if configured > 0 {
		return configured
	}
	return max(1, int(usableProcessors()))
}

// ReserveProcessors raises GOMAXPROCS by the number of hashing threads. Hashing runs at the
// lowest priority in its own threads, so it then never prevents a goroutine that serves a
// request from running. A GOMAXPROCS in the environment takes precedence.
func ReserveProcessors(hashingThreads int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(int(math.Ceil(usableProcessors())) + hashingThreads)
	}
}

// usableProcessors returns how many processors the process can keep busy: those that it may run on, limited by the CPU
// limit of its control group. The runtime also knows that limit, but rounds it, to at least two.
func usableProcessors() float64 {
	return min(float64(runtime.NumCPU()), cpuLimit(os.DirFS("/")))
}

// cpuLimit returns the lowest CPU limit, in processors, of this process's control group and
// its visible ancestors, or +Inf if there is none.
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

// quota divides a quota by its period. Anything but two positive numbers means no limit.
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

// read returns the text of a file, or "" if it cannot be read.
func read(root fs.FS, name string) string {
	text, _ := fs.ReadFile(root, name)
	return string(text)
}

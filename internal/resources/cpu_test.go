package resources

import (
	"math"
	"testing"
	"testing/fstest"
)

func TestCPULimitIsTheLowestOfAllAncestors(t *testing.T) {
	none := math.Inf(1)
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  float64
	}{
		{"no control groups", nil, none},
		{"version 2, no limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, none},
		{"version 2, one and a half", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5},
		{"version 2, a quarter", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "25000 100000"}, .25},
		{"version 2, the parent is tighter", map[string]string{
			"proc/self/cgroup": "0::/pod/container\n", "sys/fs/cgroup/pod/container/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "50000 100000",
		}, .5},
		{"version 2, what cannot be seen is no limit", map[string]string{"proc/self/cgroup": "0::/../../pod\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2},
		{"version 1", map[string]string{
			"proc/self/cgroup":                       "12:memory:/pod\n4:cpu,cpuacct:/pod\n1:name=systemd:/\n",
			"sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n",
		}, 3},
		{"version 1, no limit", map[string]string{
			"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, none},
		{"another controller's", map[string]string{
			"proc/self/cgroup": "4:cpuset:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "1000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, none},
		{"nonsense", map[string]string{"proc/self/cgroup": "x\n0:y\n0::/\n\n", "sys/fs/cgroup/cpu.max": "zero 0 0"}, none},
		{"a quota of nothing", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "0 100000"}, none},
		{"a period of nothing", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0"}, none},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range tc.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := cpuLimit(root); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestHashingThreadsAreAtLeastOne(t *testing.T) {
	if got := HashingThreads(0); got < 1 {
		t.Errorf("got %d", got)
	}
	if got := HashingThreads(3); got != 3 {
		t.Errorf("got %d, want the configured number", got)
	}
	if p := usableProcessors(); p <= 0 || math.IsInf(p, 0) {
		t.Errorf("%v processors", p)
	}
}

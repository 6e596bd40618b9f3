package localcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// This file records what a node changes on the machine, and undoes it.

// links is the folder in which the system shows network links.
const links = "/sys/class/net/"

// shimSockets is the folder of the sockets of all containerd shims.
const shimSockets = "/run/containerd"

// leavings are folders that components create outside the node's folder.
var leavings = []string{
	shimSockets, "/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/run/xtables.lock",
	"/usr/libexec/kubernetes", "/etc/cni", "/opt/cni", "/opt/containerd", "/run/nri", "/var/lib/cni",
}

// sysctls are the settings that components change.
var sysctls = []string{
	"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max", "net/bridge/bridge-nf-call-iptables",
	"net/netfilter/nf_conntrack_tcp_timeout_established", "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// before is the state of the machine before the node was created.
type before struct {
	Leavings []string          // that existed
	Sysctls  map[string]string // their values
}

func (n *node) beforePath() string { return n.path("before.json") }

// remember records the state of the machine before anything is changed.
func (n *node) remember() error {
	b := before{Sysctls: map[string]string{}}
	for _, path := range leavings {
		if exists(path) {
			b.Leavings = append(b.Leavings, path)
		}
	}
	for _, name := range sysctls {
		content, err := os.ReadFile("/proc/sys/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b.Sysctls[name] = string(content)
	}
	content, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(n.beforePath(), content, 0o600)
}

// refuseToShare returns an error if the machine is already a node of a cluster: removing this one would damage it.
func refuseToShare(ctx context.Context) error {
	if groups := podGroups(); len(groups) > 0 {
		return fmt.Errorf("there are pods on this machine (%s): it is already a node of another cluster", groups[0])
	}
	for _, command := range []string{"iptables-save", "ip6tables-save"} {
		rules, err := exec.CommandContext(ctx, command).Output()
		if err == nil && isOurs(string(rules)) {
			return fmt.Errorf("%s shows rules of Kubernetes: this machine is already a node of another cluster", command)
		}
	}
	return nil
}

// isOurs reports whether kube-proxy, the kubelet or a CNI plugin created an iptables rule.
func isOurs(rule string) bool {
	return strings.Contains(rule, "KUBE-") || strings.Contains(rule, "CNI-")
}

func addLinks(ctx context.Context, n *node) error {
	if err := n.remember(); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "add", nodeLink, "type", "bridge"},
		{"address", "replace", nodeAddress + "/32", "dev", nodeLink},
		{"link", "set", nodeLink, "up"},
		// Packets to a Service that kube-proxy does not know yet must not leave the machine by the default route, where
		// another host could answer.
		{"route", "replace", serviceNetwork, "dev", nodeLink},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// endPods kills every container, whose data ends with the cluster. Their parents are the shims of containerd.
func (n *node) endPods(ctx context.Context) {
	for range 50 {
		shims, containers := n.shims()
		if len(shims) == 0 {
			return
		}
		for _, pid := range containers {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, id := range n.ctr(ctx, "tasks", "list", "--quiet") {
			_ = n.ctr(ctx, "tasks", "delete", "--force", id)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (n *node) ctr(ctx context.Context, args ...string) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.path("bin", "ctr"), append([]string{"--address", containerSocket, "--namespace", "k8s.io"}, args...)...)
	out, _ := cmd.Output() // clean ends what is left
	return strings.Fields(string(out))
}

// shims returns the processes of this containerd's shims and their descendants.
func (n *node) shims() (shims, descendants []int) {
	parents := map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // the process has ended
		}
		// The name of the program is in parentheses, and can contain any character.
		_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[0] != "Z" {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
		command, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		args := strings.Split(string(command), "\x00")
		if filepath.Base(args[0]) == "containerd-shim-runc-v2" && slices.Contains(args, containerSocket) {
			shims = append(shims, pid)
		}
	}
	for pid := range parents {
		for at := parents[pid]; at > 1; at = parents[at] {
			if slices.Contains(shims, at) {
				descendants = append(descendants, pid)
				break
			}
		}
	}
	return shims, descendants
}

// clean removes what a stopped node has left: processes, mounts, links, rules, control groups and files.
func (n *node) clean(ctx context.Context) error {
	content, err := os.ReadFile(n.beforePath())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(os.RemoveAll(runtimeFolder), n.removeFiles())
	}
	if err != nil {
		return err
	}
	var b before
	if err := json.Unmarshal(content, &b); err != nil {
		return fmt.Errorf("%s: %w", n.beforePath(), err)
	}
	if err := n.killLeftovers(); err != nil {
		return err
	}
	if err := unmountBelow(n.dir, runtimeFolder); err != nil {
		return err
	}
	errs := []error{removeLinks(ctx), n.removeRules(ctx), removePodGroups()}
	for _, path := range leavings {
		// Another containerd may have been installed meanwhile.
		theirs := path == shimSockets && exists(path+"/containerd.sock")
		if !theirs && !slices.Contains(b.Leavings, path) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	for name, value := range b.Sysctls {
		path := "/proc/sys/" + name
		if now, err := os.ReadFile(path); err == nil && string(now) != value {
			errs = append(errs, os.WriteFile(path, []byte(value), 0))
		}
	}
	if err := errors.Join(append(errs, n.nothingIsLeft(ctx))...); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(runtimeFolder), n.removeFiles())
}

// nothingIsLeft returns an error that names everything that is left.
func (n *node) nothingIsLeft(ctx context.Context) error {
	var left []string
	shims, descendants := n.shims()
	for _, pid := range slices.Concat(shims, descendants) {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	mounts, err := mountsBelow(n.dir, runtimeFolder)
	if err != nil {
		return err
	}
	left = append(append(left, mounts...), podGroups()...)
	for _, link := range []string{podLink, nodeLink} {
		if exists(links + link) {
			left = append(left, "the link "+link)
		}
	}
	for _, command := range []string{"iptables-save", "ip6tables-save"} {
		if rules, err := exec.CommandContext(ctx, command).Output(); err == nil && isOurs(string(rules)) {
			left = append(left, "rules that "+command+" shows")
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the node has left %s; run make down again", strings.Join(left, ", "))
	}
	return nil
}

// removeFiles keeps the images, which take a while to build, and the name of the engine.
func (n *node) removeFiles() error {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if name := entry.Name(); name != imagesFolder && name != engineFile {
			errs = append(errs, os.RemoveAll(n.path(entry.Name())))
		}
	}
	return errors.Join(errs...)
}

func (n *node) killLeftovers() error {
	for range 50 {
		shims, descendants := n.shims()
		all := slices.Concat(shims, descendants)
		if len(all) == 0 {
			return nil
		}
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("some containers did not end")
}

func unmountBelow(dirs ...string) error {
	mounts, err := mountsBelow(dirs...)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range mounts {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mounts below a folder, the last one first.
func mountsBelow(dirs ...string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		path := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[1])
		if slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
			mounts = append(mounts, path)
		}
	}
	slices.Reverse(mounts)
	return mounts, nil
}

// removeLinks removes the two bridges. The links of pods go with their namespaces or with their bridge.
func removeLinks(ctx context.Context) error {
	var errs []error
	for _, link := range []string{podLink, nodeLink} {
		if !exists(links + link) {
			continue
		}
		ports, _ := os.ReadDir(links + link + "/brif")
		for _, port := range ports {
			_ = exec.CommandContext(ctx, "ip", "link", "delete", port.Name()).Run() // it may be gone already
		}
		if out, err := exec.CommandContext(ctx, "ip", "link", "delete", link).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("delete the link %s: %w: %s", link, err, out))
		}
	}
	return errors.Join(errs...)
}

// removeRules removes the rules and chains of kube-proxy, the kubelet and CNI. When the node was created there were
// none.
func (n *node) removeRules(ctx context.Context) error {
	var errs []error
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter", "mangle", "raw"} {
			rules, err := exec.CommandContext(ctx, family+"-save", "--table", table).Output()
			if err != nil || !isOurs(string(rules)) {
				continue // the table does not exist
			}
			var kept strings.Builder
			for line := range strings.Lines(string(rules)) {
				if !isOurs(line) {
					kept.WriteString(line)
				}
			}
			restore := exec.CommandContext(ctx, family+"-restore", "--table", table)
			restore.Stdin = strings.NewReader(kept.String())
			if out, err := restore.CombinedOutput(); err != nil {
				errs = append(errs, fmt.Errorf("%s-restore --table %s: %w: %s", family, table, err, out))
			}
		}
	}
	return errors.Join(errs...)
}

// podGroups returns the control groups that kubelets created for pods.
func podGroups() []string {
	var groups []string
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods*", "/sys/fs/cgroup/*/kubepods*"} {
		found, _ := filepath.Glob(pattern)
		groups = append(groups, found...)
	}
	return groups
}

func removePodGroups() error {
	var errs []error
	for _, group := range podGroups() {
		var folders []string
		err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				folders = append(folders, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		slices.Reverse(folders) // innermost first
		for _, folder := range folders {
			err := syscall.Rmdir(folder)
			for range 50 { // its last process may still be ending
				if !errors.Is(err, syscall.EBUSY) {
					break
				}
				time.Sleep(100 * time.Millisecond)
				err = syscall.Rmdir(folder)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove the control group %s: %w", folder, err))
			}
		}
	}
	return errors.Join(errs...)
}

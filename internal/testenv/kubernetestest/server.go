package kubernetestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
)

// A start usually takes ten seconds, and several times as long on a busy machine.
const patience = 2 * time.Minute

// A server is an API server with its etcd, in a temporary folder.
type server struct {
	arguments map[string]string // of kube-apiserver, besides envtest's

	dir     string
	lock    *os.File
	env     *envtest.Environment
	stopped chan struct{}
}

// start starts the server. A missing program is an error, not a reason to skip tests. stop cleans up even if start
// fails.
func (s *server) start() (*rest.Config, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	assets, err := localkubernetes.Assets(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	root, err := localkubernetes.Root()
	if err != nil {
		return nil, err
	}
	removeAbandoned()
	if err := s.prepare(assets); err != nil {
		return nil, err
	}
	etcdLog, err := os.Create(s.path("etcd.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = etcdLog.Close() }() // the child has a copy
	apiServerLog, err := os.Create(s.path("kube-apiserver.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = apiServerLog.Close() }()

	env := &envtest.Environment{
		UseExistingCluster: new(false), // ignore the environment: never use another cluster
		ControlPlane: envtest.ControlPlane{
			Etcd: &envtest.Etcd{
				Path: s.path(leashed, "etcd"), DataDir: s.path("etcd"), Out: etcdLog, Err: etcdLog,
			},
			APIServer: &envtest.APIServer{
				Path: s.path(leashed, "kube-apiserver"), CertDir: s.path("kube-apiserver"), Out: apiServerLog, Err: apiServerLog,
			},
			KubectlPath: filepath.Join(assets, "kubectl"), // unused
		},
		CRDInstallOptions:        envtest.CRDInstallOptions{MaxTime: patience},
		CRDDirectoryPaths:        []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: patience,
		ControlPlaneStopTimeout:  patience,
	}
	for name, value := range s.arguments {
		env.ControlPlane.APIServer.Configure().Set(name, value)
	}
	s.env, s.stopped = env, make(chan struct{})
	var config *rest.Config
	started := make(chan error)
	go func() {
		// Linux ends the children with the thread that created them, so this thread stays.
		runtime.LockOSThread()
		var err error
		config, err = env.Start()
		started <- err
		<-s.stopped
	}()
	switch err := <-started; {
	case err == nil:
		return config, nil
	case config != nil: // it runs, but rejects the CRDs
		return nil, err
	default:
		return nil, fmt.Errorf("%w\nThe end of etcd's log:\n%s\nThe end of kube-apiserver's log:\n%s",
			err, s.endOf(etcdLog.Name()), s.endOf(apiServerLog.Name()))
	}
}

func (s *server) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

func (*server) endOf(log string) []byte {
	const enough = 4096
	content, err := os.ReadFile(log)
	if err != nil {
		return []byte(err.Error())
	}
	return content[max(0, len(content)-enough):]
}

// stop stops the server. It may be called if nothing was started.
func (s *server) stop() error {
	var err error
	if s.env != nil {
		err = s.env.Stop()
		close(s.stopped)
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

const (
	// prefix is the prefix of the servers' folders.
	prefix = "authgateway-kubernetes-"
	// lockName is a file that is locked while a folder is in use. The system releases the lock when its holder dies.
	lockName = "lock"
)

// prepare creates the folder of the server.
func (s *server) prepare(assets string) (err error) {
	if s.dir, err = os.MkdirTemp("", prefix); err != nil {
		return err
	}
	if s.lock, err = lockFolder(s.dir); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			return err
		}
	}
	return leash(assets, s.path(leashed))
}

// lockFolder returns an error if another process holds the lock.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeAbandoned removes the folders of tests that were killed.
func removeAbandoned() {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range folders {
		info, err := os.Stat(dir)
		// A new folder may not be locked yet.
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := lockFolder(dir); err == nil {
			// Another user's folder stays; that is no error.
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

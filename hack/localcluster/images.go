package localcluster

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
)

// An image is built from files of this machine. Its tag is a digest of them, so pods are replaced when it changes.
type image struct {
	name    string // with its tag
	archive string // if it is empty, the node pulls the image
}

type images struct {
	operator, server, probe, postgres image
	more                              []image // for the node itself
	coredns                           string  // in more; empty if the cluster brings its own
}

func (i images) archives() []string {
	var archives []string
	for _, one := range append([]image{i.operator, i.server, i.probe, i.postgres}, i.more...) {
		if one.archive != "" {
			archives = append(archives, one.archive)
		}
	}
	return archives
}

const (
	imagesFolder = "images"
	pauseImage   = "auth-gateway.local/pause:v1"
	// officialPostgres is the image for a node that can pull it.
	officialPostgres = "docker.io/library/postgres:17"
)

// images builds the images from the checkout. For a node that pulls no images it also builds PostgreSQL's and the
// node's own.
func (c *Cluster) images(ctx context.Context, pulls bool) (_ images, err error) {
	c.step("building the images")
	if err := os.MkdirAll(c.path(imagesFolder), 0o755); err != nil {
		return images{}, err
	}
	b := imageBuilder{Cluster: c}
	if b.program, err = b.compile(ctx, filepath.Join(c.root, "hack", "kubernetes", "image"), ".", runtime.GOOS); err != nil {
		return images{}, err
	}
	var made images
	if made.operator, err = b.goImage(ctx, "auth-gateway/operator", ".", "./cmd/operator"); err != nil {
		return images{}, err
	}
	// As in the Dockerfile: other pods cannot reach localhost in a container.
	if made.server, err = b.goImage(ctx, "auth-gateway/authserver", ".", "./cmd/authserver", "HOST="); err != nil {
		return images{}, err
	}
	if made.probe, err = b.goImage(ctx, "auth-gateway.local/probe", "test/consumers", "./probe"); err != nil {
		return images{}, err
	}
	made.postgres = image{name: officialPostgres}
	if !pulls {
		if err := b.node(ctx, &made); err != nil {
			return images{}, err
		}
	}
	return made, c.removeOthers(made.archives())
}

// removeOthers deletes images of earlier versions of the checkout.
func (c *Cluster) removeOthers(keep []string) error {
	archives, err := filepath.Glob(c.path(imagesFolder, "*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if !slices.Contains(keep, archive) {
			if err := os.Remove(archive); err != nil {
				return err
			}
		}
	}
	return nil
}

type imageBuilder struct {
	*Cluster
	program string // hack/kubernetes/image
}

// node adds the images of a node that pulls none.
func (b imageBuilder) node(ctx context.Context, made *images) error {
	programs, err := localkubernetes.Node(ctx, b.log)
	if err != nil {
		return err
	}
	if made.postgres, err = b.postgres(ctx); err != nil {
		return err
	}
	program, err := b.compile(ctx, filepath.Join(b.root, "hack", "localcluster"), "./pause", "linux")
	if err != nil {
		return err
	}
	pause := image{pauseImage, b.path(imagesFolder, "pause.tar")}
	if err := b.write(ctx, pause, []string{"-entrypoint", "/pause"}, program+"=/pause"); err != nil {
		return err
	}
	coredns, err := b.tagged(ctx, "auth-gateway.local/coredns:", []string{"-entrypoint", "/coredns"},
		filepath.Join(programs, "coredns")+"=/coredns")
	if err != nil {
		return err
	}
	made.more, made.coredns = []image{pause, coredns}, coredns.name
	return nil
}

// compile builds a program of a module in the checkout, for the processor of this machine.
//
//nolint:unparam // another system has kind
func (b imageBuilder) compile(ctx context.Context, module, path, system string) (string, error) {
	out := b.path(imagesFolder, filepath.Base(filepath.Join(module, path)))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=local", "-o", out, path)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS="+system, "GOARCH="+runtime.GOARCH)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, said)
	}
	return out, nil
}

// goImage builds the same image as the Dockerfile, without Docker.
func (b imageBuilder) goImage(ctx context.Context, name, module, path string, environment ...string) (image, error) {
	program, err := b.compile(ctx, filepath.Join(b.root, module), path, "linux")
	if err != nil {
		return image{}, err
	}
	inside := "/" + filepath.Base(path)
	args := []string{"-entrypoint", inside}
	files := []string{program + "=" + inside}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return image{}, err
	}
	if zones := filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"); exists(zones) {
		files = append(files, zones+"=/zoneinfo.zip")
		environment = append(environment, "ZONEINFO=/zoneinfo.zip")
	}
	if authorities := "/etc/ssl/certs/ca-certificates.crt"; exists(authorities) {
		files = append(files, authorities+"="+authorities)
	}
	for _, variable := range environment {
		args = append(args, "-env", variable)
	}
	return b.tagged(ctx, name+":", args, files...)
}

// postgres builds an image from the PostgreSQL of this machine.
func (b imageBuilder) postgres(ctx context.Context) (image, error) {
	bin, err := localpostgres.Programs(ctx, b.log)
	if err != nil {
		return image{}, err
	}
	entry, err := b.compile(ctx, filepath.Join(b.root, "hack", "localcluster"), "./postgres", "linux")
	if err != nil {
		return image{}, err
	}
	// initdb looks up the name of its user.
	accounts := b.path(imagesFolder, "passwd")
	if err := os.WriteFile(accounts, []byte("postgres:x:999:999::/var/lib/postgresql:/bin/sh\n"), 0o600); err != nil {
		return image{}, err
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		return image{}, err
	}
	prefix := filepath.Dir(bin)
	files := []string{entry + "=/postgres", accounts + "=/etc/passwd", shell + "=/bin/sh"}
	needed := []string{shell}
	// CloudNativePG runs those whose names begin with pg_.
	for _, program := range []string{"postgres", "initdb", "pg_ctl", "psql", "pg_basebackup", "pg_controldata", "pg_isready", "pg_rewind"} {
		if path := filepath.Join(bin, program); exists(path) {
			files, needed = append(files, path+"="+path), append(needed, path)
		}
	}
	// Debian keeps these files in another folder, and other systems keep them below the prefix.
	for _, folder := range []string{filepath.Join(prefix, "share"), "/usr/share/postgresql/" + filepath.Base(prefix), "/usr/share/zoneinfo"} {
		if exists(folder) {
			files = append(files, folder+"="+folder)
		}
	}
	err = filepath.WalkDir(filepath.Join(prefix, "lib"), func(path string, entry fs.DirEntry, err error) error {
		// Compiling queries needs a library that is larger than everything else together.
		if err != nil || entry.IsDir() || strings.Contains(path, "llvm") || strings.Contains(path, "bitcode") || !strings.Contains(path, ".so") {
			return err
		}
		files, needed = append(files, path+"="+path), append(needed, path)
		return nil
	})
	if err != nil {
		return image{}, err
	}
	libraries, err := librariesOf(ctx, needed)
	if err != nil {
		return image{}, err
	}
	for _, path := range libraries {
		files = append(files, path+"="+path)
	}
	args := []string{"-entrypoint", "/postgres", "-user", "999:999", "-env", "PG_BIN_DIR=" + bin, "-env",
		"PATH=" + bin + ":/bin", "-env", "PGDATA=/var/lib/postgresql/data"}
	version, err := postgresVersion(ctx, bin)
	if err != nil {
		return image{}, err
	}
	// CloudNativePG reads the version from the tag.
	return b.tagged(ctx, "auth-gateway.local/postgres:"+version+"-", args, files...)
}

// postgresVersion returns the version of the PostgreSQL in a folder, such as 15.14.
func postgresVersion(ctx context.Context, bin string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(out)) // postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
	if len(fields) < 3 {
		return "", fmt.Errorf("postgres --version prints %q", out)
	}
	return fields[2], nil
}

// librariesOf returns the libraries that programs are linked with, and their loader.
func librariesOf(ctx context.Context, programs []string) ([]string, error) {
	found := map[string]bool{}
	for _, program := range programs {
		if file, err := elf.Open(program); err != nil {
			continue // a script
		} else if err := file.Close(); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, "ldd", program).Output()
		if err != nil {
			continue // it is static
		}
		for line := range strings.Lines(string(out)) {
			// name => path (address), or path (address)
			if _, path, ok := strings.Cut(line, "=> "); ok {
				line = path
			}
			if path, _, _ := strings.Cut(strings.TrimSpace(line), " "); filepath.IsAbs(path) {
				found[path] = true
			}
		}
	}
	paths := make([]string, 0, len(found))
	for path := range found {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths, nil
}

// tagged builds an image whose tag ends with a digest of its content. The name includes the beginning of the tag.
func (b imageBuilder) tagged(ctx context.Context, name string, args []string, files ...string) (image, error) {
	digest := sha256.New()
	fmt.Fprintln(digest, args, files)
	for _, file := range files {
		from, _, _ := strings.Cut(file, "=")
		info, err := os.Stat(from)
		if err != nil {
			return image{}, err
		}
		if info.IsDir() {
			continue // a file of a system package: its programs change with it
		}
		content, err := os.Open(from)
		if err != nil {
			return image{}, err
		}
		_, err = io.Copy(digest, content)
		_ = content.Close()
		if err != nil {
			return image{}, err
		}
	}
	one := image{name: name + hex.EncodeToString(digest.Sum(nil)[:6])}
	one.archive = b.path(imagesFolder, strings.NewReplacer("/", "_", ":", "_").Replace(one.name)+".tar")
	if exists(one.archive) {
		return one, nil
	}
	return one, b.write(ctx, one, args, files...)
}

func (b imageBuilder) write(ctx context.Context, one image, args []string, files ...string) error {
	args = append([]string{"-name", one.name, "-out", one.archive + ".unfinished"}, append(args, files...)...)
	if out, err := exec.CommandContext(ctx, b.program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the image %s: %w\n%s", one.name, err, out)
	}
	return os.Rename(one.archive+".unfinished", one.archive)
}

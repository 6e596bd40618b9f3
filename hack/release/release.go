package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/semver"
)

const (
	sourceURL = "https://github.com/auth-gateway/auth-gateway"

	// unnamed is the registry in config/default. No name below .invalid exists.
	unnamed = "registry.invalid/auth-gateway"
)

type options struct {
	version     string // such as v1.2.3
	registry    string
	downloads   string
	key         string
	platforms   []string // such as linux/amd64
	plugins     string   // platforms, separated by commas
	authorities string
	builder     string
}

// release is a release that is being made.
type release struct {
	options
	out     string
	scratch string

	commit    string
	time      time.Time // of the commit
	goVersion string
	goRoot    string

	signer   *signer  // nil: unsigned
	programs []built  // servers and operators
	images   []hashed // what was pushed under a name
}

// hashed is an image in a layout, or another thing with a digest.
type hashed struct{ name, digest string }

// tag is the version as images and charts have it.
func (r *release) tag() string { return strings.TrimPrefix(r.version, "v") }

// image returns the name of an image, without its tag.
func (r *release) image(name string) string { return cmp.Or(r.registry, unnamed) + "/" + name }

// make makes the release in a folder that is replaced once everything has succeeded.
func (o options) make(ctx context.Context, to string) (err error) {
	if !semver.IsValid(o.version) || semver.Canonical(o.version) != o.version {
		return fmt.Errorf("the version is %q: write one such as v1.2.3 or v1.2.3-rc.1", o.version)
	}
	for _, platform := range o.platforms {
		if !slices.Contains([]string{"linux/amd64", "linux/arm64"}, platform) {
			return fmt.Errorf("there are no images for %q, only for linux/amd64 and linux/arm64", platform)
		}
	}
	if strings.Contains(o.registry, "://") || strings.HasSuffix(o.registry, "/") {
		return fmt.Errorf("the registry is %q: write it without a scheme and a final slash, such as "+
			"registry.example.com/auth-gateway", o.registry)
	}
	r := &release{options: o, out: to + ".unfinished"}
	r.downloads = cmp.Or(o.downloads, sourceURL+"/releases/download/"+o.version)
	if o.key != "" { // a wrong passphrase is reported before the long part
		if r.signer, err = loadSigner(o.key); err != nil {
			return err
		}
	}
	if err := r.source(ctx); err != nil {
		return err
	}
	syscall.Umask(0o022)
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	if r.scratch, err = os.MkdirTemp("", "auth-gateway-release-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.scratch)) }()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"programs", r.buildPrograms}, {"images", r.buildImages}, {"chart", r.buildChart},
		{"manifests", r.buildManifests}, {"OLM bundle", r.buildBundle}, {"kubectl plugin", r.buildPlugin},
		{"list of images", r.listImages}, {"provenance", r.buildProvenance}, {"checksums", r.buildChecksums},
	} {
		begin := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%-15s %5.1f s\n", step.name, time.Since(begin).Seconds())
	}
	if err := errors.Join(os.RemoveAll(to), os.Rename(r.out, to)); err != nil {
		return err
	}
	fmt.Println(to)
	return nil
}

// source finds out what the release is made from.
func (r *release) source(ctx context.Context) error {
	status, err := output(ctx, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if status != "" {
		return fmt.Errorf("the checkout has changes, so no commit describes it: commit or remove them:\n%s", status)
	}
	if r.commit, err = output(ctx, "git", "rev-parse", "HEAD"); err != nil {
		return err
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH") // https://reproducible-builds.org/specs/source-date-epoch/
	if epoch == "" {
		if epoch, err = output(ctx, "git", "log", "-1", "--format=%ct"); err != nil {
			return err
		}
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	if r.goVersion, err = output(ctx, "go", "env", "GOVERSION"); err != nil {
		return err
	}
	r.goRoot, err = output(ctx, "go", "env", "GOROOT")
	return err
}

// environment is that of Go's commands. Settings of this machine that change programs are overridden.
func (r *release) environment(platform string) []string {
	system, arch, _ := strings.Cut(platform, "/")
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOEXPERIMENT=", "GODEBUG=", "GOFIPS140=off",
		"GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off", "GOOS="+system, "GOARCH="+arch)
}

// host is the platform of this machine, for programs that run during the release.
func host() string { return runtime.GOOS + "/" + runtime.GOARCH }

func (r *release) goTool(ctx context.Context, dir, platform string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, r.environment(platform)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, said)
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// write writes a file of the release.
func (r *release) write(name string, content []byte) error {
	path := filepath.Join(r.out, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// files returns every file of the release so far with its SHA-256, sorted by name.
func (r *release) files() ([]hashed, error) {
	var files []hashed
	err := filepath.WalkDir(r.out, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		digest, err := sha256Of(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(r.out, path)
		files = append(files, hashed{filepath.ToSlash(name), digest})
		return err
	})
	slices.SortFunc(files, func(a, b hashed) int { return cmp.Compare(a.name, b.name) })
	return files, err
}

func sha256Of(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// listImages writes the name and the digest of each image and of the chart.
func (r *release) listImages(context.Context) error {
	var text strings.Builder
	for _, image := range r.images {
		fmt.Fprintf(&text, "%s:%s@%s\n", image.name, r.tag(), image.digest)
	}
	return r.write("images.txt", []byte(text.String()))
}

// buildChecksums writes SHA256SUMS for every other file, and signs it. So one signature covers all of them.
func (r *release) buildChecksums(context.Context) error {
	files, err := r.files()
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&sums, "%s  %s\n", file.digest, file.name)
	}
	if err := r.write("SHA256SUMS", sums.Bytes()); err != nil || r.signer == nil {
		return err
	}
	signature, err := r.signer.sign(sums.Bytes())
	if err != nil {
		return err
	}
	return errors.Join(r.write("SHA256SUMS.sig", encoded(signature)), r.write("release.pub", r.signer.public))
}

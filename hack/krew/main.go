// Command krew builds the archives of the kubectl plugin for all platforms, and a manifest for krew.
//
//	krew -version v1.2.3 -url https://… -to bin/plugin
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
)

// module is the folder of the plugin, which is a Go module.
const module = "cmd/kubectl-authgateway"

var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

//go:embed authgateway.yaml
var manifest string

// archived is an archive of the plugin.
type archived struct{ OS, Arch, Name, SHA256, Program string }

func main() {
	version := flag.String("version", "", "the version, such as v1.2.3")
	url := flag.String("url", "", "where the archives will be (default: the release of this version on GitHub)")
	to := flag.String("to", "bin/plugin", "the folder to write to")
	only := flag.String("platforms", strings.Join(platforms, ","), "the platforms, separated by commas")
	flag.Parse()
	where := cmp.Or(*url, "https://github.com/auth-gateway/auth-gateway/releases/download/"+*version)
	if err := build(context.Background(), *version, where, *to, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

// isVersion matches what krew accepts: a semantic version after a v.
var isVersion = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

func build(ctx context.Context, version, url, to string, platforms []string) (err error) {
	if !isVersion.MatchString(version) {
		return fmt.Errorf("krew needs a version such as v1.2.3, and not %q: give -version, or make plugin VERSION=v1.2.3", version)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	tools, err := os.MkdirTemp("", "authgateway-plugin-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tools)) }()
	licenses := filepath.Join(tools, "licenses")
	if err := run(ctx, []string{"go", "build", "-o", licenses, "github.com/auth-gateway/auth-gateway/hack/licenses"}); err != nil {
		return err
	}
	var archives []archived
	for _, platform := range platforms {
		system, arch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("%q is not a platform such as linux/amd64", platform)
		}
		a, err := archive(ctx, licenses, version, system, arch, to)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		archives = append(archives, a)
		fmt.Println(filepath.Join(to, a.Name))
	}
	text, err := render(version, url, archives)
	if err != nil {
		return err
	}
	path := filepath.Join(to, "authgateway.yaml")
	fmt.Println(path)
	return os.WriteFile(path, text, 0o644)
}

func render(version, url string, archives []archived) ([]byte, error) {
	t, err := template.New("").Parse(manifest[strings.Index(manifest, "\n")+1:]) // without the comment
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = t.Execute(&text, map[string]any{"Version": version, "URL": url, "Archives": archives})
	return text.Bytes(), err
}

// run runs a command in the folder of the plugin.
func run(ctx context.Context, command []string, environment ...string) error {
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Dir, c.Stdout, c.Stderr = module, os.Stderr, os.Stderr
	c.Env = append(append(os.Environ(), "CGO_ENABLED=0"), environment...)
	return c.Run()
}

// archive builds the plugin for a platform and packs it with the licence texts of everything that is linked into it.
func archive(ctx context.Context, licenses, version, system, arch, to string) (a archived, err error) {
	scratch, err := os.MkdirTemp("", "authgateway-plugin-")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	program := "kubectl-authgateway"
	if system == "windows" {
		program += ".exe"
	}
	// Other modules are linked on other platforms, so the licences are collected for the platform too.
	for _, command := range [][]string{
		{
			"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + version,
			"-o", filepath.Join(scratch, program), ".",
		},
		{licenses, filepath.Join(scratch, "licenses"), "."},
	} {
		if err := run(ctx, command, "GOOS="+system, "GOARCH="+arch); err != nil {
			return a, err
		}
	}
	for _, name := range []string{"LICENSE", "NOTICE"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return a, err
		}
		if err := os.WriteFile(filepath.Join(scratch, name), text, 0o644); err != nil {
			return a, err
		}
	}
	var content bytes.Buffer
	if err := pack(&content, scratch); err != nil {
		return a, err
	}
	digest := sha256.Sum256(content.Bytes())
	a = archived{
		OS: system, Arch: arch, Name: fmt.Sprintf("kubectl-authgateway_%s_%s_%s.tar.gz", version, system, arch),
		SHA256: hex.EncodeToString(digest[:]), Program: program,
	}
	return a, os.WriteFile(filepath.Join(to, a.Name), content.Bytes(), 0o644)
}

// pack writes the files of a folder. The same files give the same bytes.
func pack(w io.Writer, folder string) error {
	compressed := gzip.NewWriter(w)
	t := tar.NewWriter(compressed)
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if strings.HasPrefix(name, "kubectl-") {
			mode = 0o755
		}
		if err := t.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: mode, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err = t.Write(text)
		return err
	})
	return errors.Join(err, t.Close(), compressed.Close())
}

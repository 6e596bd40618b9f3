package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// servers are the programs that have an image.
var servers = []string{"authserver", "operator"}

// built is a program for a platform, with the folder of its licence texts.
type built struct{ name, platform, path, licenses string }

func (b built) arch() string { return b.platform[strings.Index(b.platform, "/")+1:] }

// buildPrograms builds the servers, an archive and an SBOM of each.
func (r *release) buildPrograms(ctx context.Context) error {
	for _, name := range servers {
		licenses := filepath.Join(r.scratch, "licenses", name)
		if err := r.goTool(ctx, ".", host(), "run", "./hack/licenses", licenses, "./cmd/"+name); err != nil {
			return err
		}
		for _, file := range []string{"LICENSE", "NOTICE"} {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(licenses, file), text, 0o644); err != nil {
				return err
			}
		}
		for _, platform := range r.platforms {
			b := built{name, platform, filepath.Join(r.scratch, platform, name), licenses}
			// -buildvcs=false: a checkout without tags or with another remote must give the same program. The provenance
			// and the images name the commit.
			err := r.goTool(ctx, ".", platform, "build", "-trimpath", "-buildvcs=false",
				"-ldflags", "-s -w -X main.version="+r.version, "-o", b.path, "./cmd/"+name)
			if err != nil {
				return err
			}
			r.programs = append(r.programs, b)
			content, err := r.pack(map[string]string{name: b.path, "licenses": licenses})
			if err != nil {
				return err
			}
			file := r.fileName(name, platform)
			if err := errors.Join(r.write(file+".tar.gz", content), r.sbom(b.path, name, file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileName returns the name of a file for a platform, without its extension.
func (r *release) fileName(name, platform string) string {
	return fmt.Sprintf("%s_%s_%s", name, r.version, strings.ReplaceAll(platform, "/", "_"))
}

// pack returns a .tar.gz with files and folders, by their names in it. Its bytes depend only on the names, the contents
// and the time of the commit.
func (r *release) pack(content map[string]string) ([]byte, error) {
	files := map[string]string{} // the name in the archive: the path
	for to, from := range content {
		err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			below, err := filepath.Rel(from, path)
			files[filepath.ToSlash(filepath.Join(to, below))] = path
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	texts := map[string][]byte{}
	for name, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		texts[name] = text
	}
	return packed(texts, r.time, servers...)
}

// packed returns a .tar.gz with files in the order of their names. The programs among them may be executed.
func packed(files map[string][]byte, at time.Time, programs ...string) ([]byte, error) {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out) // its header has no time
	archive := tar.NewWriter(compressed)
	for _, name := range sortedKeys(files) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: at, Format: tar.FormatUSTAR}
		for _, program := range programs {
			if name == program {
				header.Mode = 0o755
			}
		}
		if len(name) > 100 {
			header.Format = tar.FormatPAX
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return nil, err
		}
	}
	err := errors.Join(archive.Close(), compressed.Close())
	return out.Bytes(), err
}

// buildPlugin builds the archives of the kubectl plugin and the manifest for krew.
func (r *release) buildPlugin(ctx context.Context) error {
	folder := filepath.Join(r.scratch, "plugin")
	args := []string{"run", "./hack/krew", "-version", r.version, "-url", r.downloads, "-to", folder}
	if r.plugins != "" {
		args = append(args, "-platforms", r.plugins)
	}
	if err := r.goTool(ctx, ".", host(), args...); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(folder, "*.tar.gz"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		program, err := r.unpackPlugin(archive)
		if err != nil {
			return err
		}
		if err := r.sbom(program, pluginName, strings.TrimSuffix(filepath.Base(archive), ".tar.gz")); err != nil {
			return err
		}
	}
	return os.CopyFS(r.out, os.DirFS(folder))
}

const pluginName = "kubectl-authgateway"

// unpackPlugin writes the program of an archive to a file and returns its path.
func (r *release) unpackPlugin(archive string) (string, error) {
	content, err := os.ReadFile(archive)
	if err != nil {
		return "", err
	}
	compressed, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return "", err
	}
	for files := tar.NewReader(compressed); ; {
		header, err := files.Next()
		if err != nil {
			return "", fmt.Errorf("%s: %w", archive, err)
		}
		if strings.TrimSuffix(header.Name, ".exe") != pluginName {
			continue
		}
		program, err := io.ReadAll(files)
		if err != nil {
			return "", err
		}
		path := filepath.Join(r.scratch, pluginName)
		return path, os.WriteFile(path, program, 0o600)
	}
}

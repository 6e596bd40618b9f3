// Command image builds a container image from files of this machine, without a daemon, a registry or a base image. The
// image has one layer and the tar format of docker save, which ctr and kind load.
//
//	image -out FILE -name NAME -entrypoint PATH [-user UID:GID] [-env NAME=VALUE]... FROM=TO...
//
// FROM is a file, or a folder with all its content; TO is its path in the image. The same files give the same image.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	var (
		out   = flag.String("out", "", "the file to write")
		tag   = flag.String("name", "", "the name of the image, with its tag")
		entry = flag.String("entrypoint", "", "the program to run")
		user  = flag.String("user", "65532:65532", "whom it runs as")
		arch  = flag.String("arch", runtime.GOARCH, "what processor it is for")
		env   []string
	)
	flag.Func("env", "a variable of its environment, as NAME=VALUE", func(value string) error {
		env = append(env, value)
		return nil
	})
	flag.Parse()
	config := v1.Config{Entrypoint: []string{*entry}, User: *user, Env: env, WorkingDir: "/"}
	if err := write(*out, *tag, *arch, config, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(out, tag, arch string, config v1.Config, files []string) error {
	reference, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	layer, err := layerOf(files)
	if err != nil {
		return err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil }
	compressed, err := tarball.LayerFromOpener(opener)
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, compressed)
	if err != nil {
		return err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return err
	}
	file.Architecture, file.OS, file.Config, file.Created = arch, "linux", config, v1.Time{Time: epoch}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return err
	}
	return tarball.WriteToFile(out, reference, image)
}

// epoch is the time of every file, so the same files give the same image.
var epoch = time.Unix(0, 0).UTC()

// layerOf returns the uncompressed layer.
func layerOf(files []string) ([]byte, error) {
	var content bytes.Buffer
	l := layer{Writer: tar.NewWriter(&content), has: map[string]bool{".": true}}
	// Programs expect these folders on every system.
	if err := l.folder("tmp", 0o1777); err != nil {
		return nil, err
	}
	for _, file := range files {
		from, to, ok := strings.Cut(file, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not FROM=TO", file)
		}
		if err := l.add(from, strings.TrimPrefix(path.Clean(to), "/")); err != nil {
			return nil, err
		}
	}
	return content.Bytes(), l.Close()
}

type layer struct {
	*tar.Writer
	has map[string]bool
}

func (l layer) add(from, to string) error {
	return filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		target := path.Join(to, filepath.ToSlash(below))
		if l.has[target] {
			return nil
		}
		if err := l.folder(path.Dir(target), 0o755); err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return l.folder(target, 0o755)
		case entry.Type()&fs.ModeSymlink != 0 && file != from:
			link, err := os.Readlink(file)
			if err != nil {
				return err
			}
			l.has[target] = true
			return l.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: target, Linkname: link, Mode: 0o777, ModTime: epoch})
		default: // a link that is itself an argument is replaced by its target
			l.has[target] = true
			return l.file(file, target)
		}
	})
}

func (l layer) folder(name string, mode int64) error {
	if l.has[name] {
		return nil
	}
	if err := l.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	l.has[name] = true
	return l.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: epoch})
}

func (l layer) file(from, to string) (err error) {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := l.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: mode, Size: info.Size(), ModTime: epoch}); err != nil {
		return err
	}
	_, err = io.Copy(l, file)
	return err
}

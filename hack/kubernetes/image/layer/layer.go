// Package layer builds the layer of a container image from files of this machine. The same files give the same bytes.
package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Epoch is the time of every file, so the same files give the same layer.
var Epoch = time.Unix(0, 0).UTC()

// Of returns the uncompressed layer. Each argument is FROM=TO: FROM is a file, or a folder with all its content; TO is its
// path in the image. The owner of every file is root, and its mode depends only on whether it is a program.
func Of(files []string) ([]byte, error) {
	var content bytes.Buffer
	l := writer{Writer: tar.NewWriter(&content), has: map[string]bool{".": true}}
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

type writer struct {
	*tar.Writer
	has map[string]bool
}

func (l writer) add(from, to string) error {
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
			return l.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: target, Linkname: link, Mode: 0o777, ModTime: Epoch})
		default: // a link that is itself an argument is replaced by its target
			l.has[target] = true
			return l.file(file, target)
		}
	})
}

func (l writer) folder(name string, mode int64) error {
	if l.has[name] {
		return nil
	}
	if err := l.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	l.has[name] = true
	return l.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: Epoch})
}

func (l writer) file(from, to string) (err error) {
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
	if err := l.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: mode, Size: info.Size(), ModTime: Epoch}); err != nil {
		return err
	}
	_, err = io.Copy(l, file)
	return err
}

// Command licenses copies the licence texts of every module that is linked into the given programs, each to a folder
// with the module's path. It fails if a module has no licence text.
//
//	licenses FOLDER PACKAGE…
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: licenses FOLDER PACKAGE…")
		os.Exit(2)
	}
	if err := collect(context.Background(), os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// source is a folder with the licence texts of a module or of Go.
type source struct{ name, dir string }

func collect(ctx context.Context, folder string, packages []string) error {
	sources, err := linked(ctx, packages)
	if err != nil {
		return err
	}
	for _, s := range sources {
		found, err := texts(s.dir)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("%s has no licence text in %s", s.name, s.dir)
		}
		to := filepath.Join(folder, filepath.FromSlash(s.name))
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		for _, name := range found {
			text, err := os.ReadFile(filepath.Join(s.dir, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, name), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// linked lists the modules that are linked into the packages, and Go itself.
func linked(ctx context.Context, packages []string) ([]source, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	sources := []source{{"go", strings.TrimSpace(string(root))}}
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-json=Module"}, packages...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			Module *struct {
				Path, Dir string
				Main      bool
				Replace   *struct{ Version string }
			}
		}
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return sources, nil
		case err != nil:
			return nil, err
		}
		m := p.Module
		ours := m != nil && (m.Main || m.Replace != nil && m.Replace.Version == "") // a folder of this tree
		if m != nil && !ours && !seen[m.Path] {
			seen[m.Path] = true
			sources = append(sources, source{m.Path, m.Dir})
		}
	}
}

var isText = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([._-].*)?$`)

func texts(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Type().IsRegular() && isText.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

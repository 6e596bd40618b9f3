package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tree creates a folder with a program, a file, and a link between them.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "program"), []byte("#!"), 0o700),
		os.Mkdir(filepath.Join(dir, "data"), 0o700),
		os.WriteFile(filepath.Join(dir, "data", "file"), []byte("content"), 0o600),
		os.Symlink("../program", filepath.Join(dir, "data", "link")),
		os.Symlink("program", filepath.Join(dir, "named")),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestALayerHasTheFilesAtTheirPlaces(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	content, err := Of([]string{dir + "/named=/bin/program", dir + "/data=/usr/share/data", dir + "/program=/bin/program"})
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		name, link, content string
		mode                int64
	}
	var got []entry
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{header.Name, header.Linkname, string(text), header.Mode})
		if !header.ModTime.Equal(Epoch) || header.Uid != 0 {
			t.Errorf("%s: %v, owner %d", header.Name, header.ModTime, header.Uid)
		}
	}
	want := []entry{
		{"tmp/", "", "", 0o1777},
		{"bin/", "", "", 0o755},
		{"bin/program", "", "#!", 0o755}, // a link that is itself an argument is replaced by its target
		{"usr/", "", "", 0o755},
		{"usr/share/", "", "", 0o755},
		{"usr/share/data/", "", "", 0o755},
		{"usr/share/data/file", "", "content", 0o644},
		{"usr/share/data/link", "../program", "", 0o777},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestWhatIsNoPlaceIsNamed(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"/etc/passwd", filepath.Join(t.TempDir(), "missing") + "=/x"} {
		if _, err := Of([]string{file}); err == nil {
			t.Errorf("%s is accepted", file)
		}
	}
}

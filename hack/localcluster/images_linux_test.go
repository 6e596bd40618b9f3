package localcluster

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAProgramComesWithItsLibrariesAndItsLoader(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := librariesOf(t.Context(), []string{shell, "images_test.go"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"libc.", "ld-"} {
		if !slices.ContainsFunc(libraries, func(path string) bool {
			return filepath.IsAbs(path) && strings.HasPrefix(filepath.Base(path), want)
		}) {
			t.Errorf("no library %s… is in %v", want, libraries)
		}
	}
}

package localcluster

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestAProgramComesWithItsLibrariesAndItsLoader(t *testing.T) {
	t.Parallel()
	shell := testenv.Must(exec.LookPath("sh"))(t)
	libraries := testenv.Must(librariesOf(t.Context(), []string{shell, "images_test.go"}))(t)
	for _, want := range []string{"libc.", "ld-"} {
		if !slices.ContainsFunc(libraries, func(path string) bool {
			return filepath.IsAbs(path) && strings.HasPrefix(filepath.Base(path), want)
		}) {
			t.Errorf("no library %s… is in %v", want, libraries)
		}
	}
}

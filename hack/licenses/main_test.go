package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestEachLinkedModuleHasItsTexts(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	testenv.NoError(t, collect(t.Context(), folder, []string{"../../cmd/authserver"}))
	for _, path := range []string{
		"go/LICENSE", "github.com/jackc/pgx/v5/LICENSE", "github.com/gofiber/fiber/v2/LICENSE", "golang.org/x/crypto/PATENTS",
	} {
		if text, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(path))); err != nil || len(text) < 100 {
			t.Errorf("%s has %d bytes (%v)", path, len(text), err)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "sigs.k8s.io", "controller-runtime")); err == nil {
		t.Error("controller-runtime is listed for the server, which does not contain it")
	}
}

// A program has other modules on another platform. GOOS selects it.
func TestModulesOfAnotherPlatformHaveTheirTexts(t *testing.T) {
	t.Setenv("GOOS", "windows")
	folder := t.TempDir()
	testenv.NoError(t, collect(t.Context(), folder, []string{"../../cmd/authserver"}))
	if _, err := os.Stat(filepath.Join(folder, "github.com", "inconshreveable", "mousetrap", "LICENSE")); err != nil {
		t.Error(err)
	}
}

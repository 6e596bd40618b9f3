package main

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestTheSameFilesGiveTheSameImage(t *testing.T) {
	t.Parallel()
	digest := func(user string) v1.Hash {
		t.Helper()
		dir := t.TempDir()
		program, out := filepath.Join(dir, "program"), filepath.Join(dir, "image.tar")
		if err := os.WriteFile(program, []byte("#!"), 0o700); err != nil {
			t.Fatal(err)
		}
		config := v1.Config{User: user, Entrypoint: []string{"/program"}}
		if err := write(out, "example.com/one:1", "arm64", config, []string{program + "=/program"}); err != nil {
			t.Fatal(err)
		}
		image, err := tarball.ImageFromPath(out, nil)
		if err != nil {
			t.Fatal(err)
		}
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if file.Architecture != "arm64" || file.OS != "linux" || file.Config.User != user {
			t.Errorf("the configuration is %+v", file)
		}
		hash, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	one, another, other := digest("1:1"), digest("1:1"), digest("2:2")
	if one != another || one == other {
		t.Errorf("digests of the same image: %v and %v; of another: %v", one, another, other)
	}
}

func TestAnInvalidNameIsRejected(t *testing.T) {
	t.Parallel()
	if err := write("/nowhere", "no name:", "amd64", v1.Config{}, nil); err == nil {
		t.Error("an invalid name is accepted")
	}
}

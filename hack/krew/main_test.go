package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// What krew requires of a manifest: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/
func TestManifestIsOneOfKrew(t *testing.T) {
	text := testenv.Must(render("v1.2.3", "https://example.com/v1.2.3", []archived{
		{"linux", "amd64", "a.tar.gz", "00ff", "kubectl-authgateway"}, {"windows", "arm64", "b.tar.gz", "11ee", "kubectl-authgateway.exe"},
	}))(t)
	var m struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version, Homepage, ShortDescription, Description string
			Platforms                                        []struct {
				Selector         struct{ MatchLabels map[string]string }
				URI, SHA256, Bin string
			}
		}
	}
	testenv.NoError(t, yaml.UnmarshalStrict(text, &m))
	if m.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || m.Kind != "Plugin" || m.Metadata.Name != "authgateway" ||
		!regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(m.Spec.Version) || len(m.Spec.ShortDescription) > 50 || m.Spec.Description == "" {
		t.Errorf("the manifest is\n%s", text)
	}
	if len(m.Spec.Platforms) != 2 {
		t.Fatalf("the platforms are %+v", m.Spec.Platforms)
	}
	last := m.Spec.Platforms[1]
	if last.URI != "https://example.com/v1.2.3/b.tar.gz" || last.SHA256 != "11ee" || last.Bin != "kubectl-authgateway.exe" ||
		last.Selector.MatchLabels["os"] != "windows" || last.Selector.MatchLabels["arch"] != "arm64" {
		t.Errorf("the last platform is %+v", last)
	}
}

func TestArchivesOfTheSameFilesAreEqual(t *testing.T) {
	var packed [2]bytes.Buffer
	for i := range packed {
		dir := t.TempDir()
		testenv.NoError(t, os.MkdirAll(filepath.Join(dir, "licenses"), 0o755))
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, "kubectl-authgateway"), []byte("program"), 0o600))
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, "licenses", "a"), []byte("text"), 0o644))
		testenv.NoError(t, pack(&packed[i], dir))
	}
	if packed[0].Len() == 0 || !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
		t.Error("the archives differ")
	}
}

func TestVersionsOfOtherFormsAreRefused(t *testing.T) {
	for _, version := range []string{"", "v", "1.2.3", "v1.2", "v1.2.3+build", "vnext", "v01.2.3", "v1.2.3 "} {
		if err := build(t.Context(), version, "", t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "VERSION=v1.2.3") {
			t.Errorf("%q: %v", version, err)
		}
	}
}

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/validation"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"sigs.k8s.io/yaml"
)

const passphrase = "a passphrase"

func do(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// copyOf copies the files of this checkout, with changes that are not committed, to a folder with a repository of its
// own.
func copyOf(t *testing.T, to string) {
	t.Helper()
	root := must(filepath.Abs("../.."))(t)
	files := strings.Trim(do(t, root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00")
	for file := range strings.SplitSeq(files, "\x00") {
		info, err := os.Lstat(filepath.Join(root, file))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		text := must(os.ReadFile(filepath.Join(root, file)))(t)
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(to, file)), 0o755),
			os.WriteFile(filepath.Join(to, file), text, info.Mode())); err != nil {
			t.Fatal(err)
		}
	}
	do(t, to, "git", "init", "--quiet")
	do(t, to, "git", "add", "--all")
	do(t, to, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message=test")
}

// newKey returns a key in the form of `cosign generate-key-pair`.
func newKey(t *testing.T) string {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	content := must(encrypted.Encrypt(must(x509.MarshalPKCS8PrivateKey(key))(t), []byte(passphrase)))(t)
	path := filepath.Join(t.TempDir(), "cosign.key")
	text := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: content})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func digests(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, file := range must((&release{out: folder}).files())(t) {
		all[file.name] = file.digest
	}
	return all
}

// TestRelease makes two releases of one commit, for one platform, and uses the second as a stranger would.
func TestRelease(t *testing.T) {
	root := must(filepath.Abs("../.."))(t)
	key := newKey(t)
	t.Setenv(passwordVariable, passphrase)
	platform := "linux/" + runtime.GOARCH
	o := options{
		version: "v9.8.7", registry: "registry.example.com/auth-gateway", key: key, platforms: []string{platform}, plugins: platform,
		authorities: filepath.Join(must(filepath.Abs("testdata"))(t), "authorities.crt"), builder: "https://example.com/builder",
	}
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "another", "folder", "two")
	copyOf(t, one)
	t.Chdir(one)
	if err := o.make(t.Context(), filepath.Join(one, "dist", o.version)); err != nil {
		t.Fatal(err)
	}

	// Another folder, another owner's umask, other times, and settings of another machine.
	syscall.Umask(0o077)
	do(t, "/", "git", "clone", "--quiet", one, two)
	syscall.Umask(0o022)
	err := filepath.WalkDir(two, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, time.Time{}, time.Unix(1_000_000_000, 0)))
	})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(two, "dist", o.version)
	t.Run("the second release", func(t *testing.T) {
		t.Setenv("TZ", "Asia/Kathmandu")
		t.Setenv("LC_ALL", "tr_TR.UTF-8")
		t.Setenv("GOFLAGS", "-buildvcs=true")
		t.Setenv("GOAMD64", "v2")
		t.Chdir(two)
		if err := o.make(t.Context(), out); err != nil {
			t.Fatal(err)
		}
	})
	was, is := digests(t, filepath.Join(one, "dist", o.version)), digests(t, out)
	for name := range is {
		if was[name] != is[name] {
			t.Errorf("%s differs", name)
		}
	}
	if len(was) != len(is) || len(is) < 40 {
		t.Errorf("the releases have %d and %d files", len(was), len(is))
	}

	t.Run("openssl verifies the checksums", func(t *testing.T) { opensslVerifies(t, out) })
	t.Run("sigstore verifies images and provenance", func(t *testing.T) { sigstoreVerifies(t, out) })
	t.Run("cosign verifies everything", func(t *testing.T) { cosignVerifies(t, out) })
	t.Run("the provenance names every file", func(t *testing.T) { provenanceIsComplete(t, out, do(t, two, "git", "rev-parse", "HEAD")) })
	t.Run("an image runs", func(t *testing.T) { imageRuns(t, out) })
	t.Run("the SBOM lists the modules", func(t *testing.T) { sbomIsComplete(t, out, platform) })
	t.Run("helm installs what was pushed", func(t *testing.T) { helmPulls(t, root, out) })
	t.Run("the manifests name images by digest", func(t *testing.T) { manifestsNameDigests(t, out) })
	t.Run("the bundle is valid", func(t *testing.T) { bundleIsValid(t, out) })
	t.Run("a changed checkout is refused", func(t *testing.T) {
		t.Chdir(two)
		if err := os.WriteFile(filepath.Join(two, "LICENSE"), []byte("another"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := o.make(t.Context(), out); err == nil || !strings.Contains(err.Error(), "LICENSE") {
			t.Error(err)
		}
	})
}

func opensslVerifies(t *testing.T, out string) {
	verify := func(file string) error {
		raw := must(base64.StdEncoding.DecodeString(strings.TrimSpace(string(must(os.ReadFile(filepath.Join(out, "SHA256SUMS.sig")))(t)))))(t)
		signature := filepath.Join(t.TempDir(), "signature")
		if err := os.WriteFile(signature, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		said, err := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-verify", filepath.Join(out, "release.pub"),
			"-signature", signature, file).CombinedOutput()
		if err == nil && !strings.Contains(string(said), "Verified OK") {
			t.Errorf("openssl says %s", said)
		}
		return err
	}
	sums := filepath.Join(out, "SHA256SUMS")
	if err := verify(sums); err != nil {
		t.Error(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, append(must(os.ReadFile(sums))(t), ' '), 0o600); err != nil {
		t.Fatal(err)
	}
	if verify(other) == nil {
		t.Error("openssl accepts other checksums")
	}
	do(t, out, "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	listed := strings.Count(string(must(os.ReadFile(sums))(t)), "\n")
	if all := len(digests(t, out)); listed != all-3 { // SHA256SUMS, its signature and the key
		t.Errorf("SHA256SUMS lists %d of %d files", listed, all)
	}
}

func verifierOf(t *testing.T, out string) signature.Verifier {
	t.Helper()
	key := must(cryptoutils.UnmarshalPEMToPublicKey(must(os.ReadFile(filepath.Join(out, "release.pub")))(t)))(t)
	return must(signature.LoadVerifier(key, crypto.SHA256))(t)
}

// sigstoreVerifies checks signatures with the library that cosign uses.
func sigstoreVerifies(t *testing.T, out string) {
	verifier := verifierOf(t, out)
	for _, kind := range sortedKeys(repositories) {
		path, all, err := tagsOf(filepath.Join(out, "oci", kind))
		if err != nil {
			t.Fatal(err)
		}
		index := must(path.ImageIndex())(t)
		signed := map[string]bool{}
		for _, one := range all {
			if !strings.HasSuffix(one.tag, ".sig") {
				continue
			}
			manifest := must(must(index.Image(one.descriptor.Digest))(t).Manifest())(t)
			image := must(index.Image(one.descriptor.Digest))(t)
			layers := must(image.Layers())(t)
			reader := must(layers[0].Compressed())(t)
			text := must(io.ReadAll(reader))(t)
			raw := must(base64.StdEncoding.DecodeString(manifest.Layers[0].Annotations[signatureAnnotation]))(t)
			if err := verifier.VerifySignature(bytes.NewReader(raw), bytes.NewReader(text)); err != nil {
				t.Errorf("%s %s: %v", kind, one.tag, err)
			}
			if verifier.VerifySignature(bytes.NewReader(raw), bytes.NewReader(append(text, ' '))) == nil {
				t.Errorf("%s: another payload is accepted", kind)
			}
			var p struct {
				Critical struct {
					Image struct {
						Digest string `json:"docker-manifest-digest"`
					}
				}
			}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			if one.tag != strings.Replace(p.Critical.Image.Digest, ":", "-", 1)+".sig" {
				t.Errorf("%s: the signature of %s is under %s", kind, p.Critical.Image.Digest, one.tag)
			}
			signed[p.Critical.Image.Digest] = true
		}
		for _, one := range all {
			if !strings.HasSuffix(one.tag, ".sig") && !signed[one.descriptor.Digest.String()] {
				t.Errorf("%s: %s has no signature", kind, one.tag)
			}
		}
	}
	envelope := sigdsse.WrapVerifier(verifier)
	text := must(os.ReadFile(filepath.Join(out, "provenance.intoto.jsonl")))(t)
	if err := envelope.VerifySignature(bytes.NewReader(text), nil); err != nil {
		t.Error(err)
	}
	changed := bytes.Replace(text, []byte(`"payload":"ey`), []byte(`"payload":"eyA`), 1)
	if envelope.VerifySignature(bytes.NewReader(changed), nil) == nil {
		t.Error("a changed provenance is accepted")
	}
}

// cosignVerifies runs the commands of docs/release.md if cosign is installed. Without it, the test before has checked
// the same signatures with cosign's library.
func cosignVerifies(t *testing.T, out string) {
	if _, err := exec.LookPath("cosign"); err != nil {
		t.Skip("cosign is not installed")
	}
	for _, image := range sortedKeys(repositories) {
		do(t, out, "cosign", "verify", "--key", "release.pub", "--insecure-ignore-tlog", "--local-image", "oci/"+image)
	}
	do(t, out, "cosign", "verify-blob", "--key", "release.pub", "--insecure-ignore-tlog", "--signature", "SHA256SUMS.sig", "SHA256SUMS")
	do(t, out, "cosign", "verify-blob-attestation", "--key", "release.pub", "--insecure-ignore-tlog", "--type", predicateType,
		"--signature", "provenance.intoto.jsonl", "install.yaml")
	other := newKey(t)
	public := must(loadSigner(other))(t).public
	wrong := filepath.Join(t.TempDir(), "wrong.pub")
	if err := os.WriteFile(wrong, public, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "cosign", "verify", "--key", wrong, "--insecure-ignore-tlog", "--local-image", "oci/operator")
	cmd.Dir = out
	if cmd.Run() == nil {
		t.Error("cosign accepts another key")
	}
}

func provenanceIsComplete(t *testing.T, out, commit string) {
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
	}
	text := must(os.ReadFile(filepath.Join(out, "provenance.json")))(t)
	if err := json.Unmarshal(text, &statement); err != nil {
		t.Fatal(err)
	}
	if statement.Type != "https://in-toto.io/Statement/v1" || statement.PredicateType != predicateType ||
		!strings.Contains(string(text), strings.TrimSpace(commit)) {
		t.Errorf("the statement is %s", text)
	}
	named := map[string]string{}
	for _, s := range statement.Subject {
		named[s.Name] = s.Digest["sha256"]
	}
	later := []string{"provenance.json", "provenance.intoto.jsonl", "SHA256SUMS", "SHA256SUMS.sig", "release.pub"}
	for name, digest := range digests(t, out) {
		if !strings.HasPrefix(name, "oci/") && !slices.Contains(later, name) && named[name] != digest {
			t.Errorf("%s has the digest %q in the provenance, not %s", name, named[name], digest)
		}
	}
	for line := range strings.Lines(string(must(os.ReadFile(filepath.Join(out, "images.txt")))(t))) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), "@sha256:")
		if named[strings.TrimSuffix(name, ":9.8.7")] != digest {
			t.Errorf("the provenance does not name %s", line)
		}
	}
}

// imageRuns runs the program in the image's layer.
func imageRuns(t *testing.T, out string) {
	for _, name := range servers {
		path, all, err := tagsOf(filepath.Join(out, "oci", name))
		if err != nil {
			t.Fatal(err)
		}
		index := must(must(path.ImageIndex())(t).ImageIndex(all[0].descriptor.Digest))(t)
		children := must(index.IndexManifest())(t).Manifests
		image := must(index.Image(children[0].Digest))(t)
		config := must(image.ConfigFile())(t)
		if config.Architecture != runtime.GOARCH || config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/"+name ||
			config.Config.Labels["org.opencontainers.image.version"] != "9.8.7" {
			t.Errorf("the configuration is %+v", config)
		}
		folder := t.TempDir()
		files := extract(t, mutate.Extract(image), folder)
		for _, file := range []string{name, "licenses/LICENSE", "licenses/go/LICENSE", "zoneinfo.zip", "etc/ssl/certs/ca-certificates.crt"} {
			if !slices.Contains(files, file) {
				t.Errorf("%s lacks %s", name, file)
			}
		}
		if got := strings.TrimSpace(do(t, folder, filepath.Join(folder, name), "version")); got != "v9.8.7" {
			t.Errorf("%s has the version %q", name, got)
		}
	}
}

func extract(t *testing.T, from io.ReadCloser, to string) (files []string) {
	t.Helper()
	defer func() { _ = from.Close() }()
	for r := tar.NewReader(from); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg || !filepath.IsLocal(header.Name) {
			continue
		}
		path := filepath.Join(to, header.Name)
		text := must(io.ReadAll(r))(t)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, fs.FileMode(header.Mode).Perm())); err != nil {
			t.Fatal(err)
		}
		files = append(files, header.Name)
	}
}

func sbomIsComplete(t *testing.T, out, platform string) {
	r := &release{options: options{version: "v9.8.7"}}
	for _, name := range append([]string{"kubectl-authgateway"}, servers...) {
		file := filepath.Join(out, r.fileName(name, platform))
		folder := t.TempDir()
		compressed := must(gzip.NewReader(bytes.NewReader(must(os.ReadFile(file + ".tar.gz"))(t))))(t)
		extract(t, compressed, folder)
		var document struct {
			BomFormat  string
			Components []struct{ Purl string }
		}
		text := must(os.ReadFile(file + ".cdx.json"))(t)
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		count := 0
		for line := range strings.Lines(do(t, folder, "go", "version", "-m", filepath.Join(folder, name))) {
			fields := strings.Fields(line)
			if len(fields) < 3 || fields[0] != "dep" || fields[2] == "v0.0.0" { // a module of this repository
				continue
			}
			count++
			if want := "pkg:golang/" + fields[1] + "@" + fields[2]; !strings.Contains(string(text), `"purl": "`+want+`"`) {
				t.Errorf("the SBOM of %s lacks %s", name, want)
			}
		}
		if document.BomFormat != "CycloneDX" || count < 10 || len(document.Components) <= count {
			t.Errorf("the SBOM of %s has %d components for %d modules", name, len(document.Components), count)
		}
	}
}

func helmPulls(t *testing.T, root, out string) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	at := strings.TrimPrefix(server.URL, "http://") + "/auth-gateway"
	for range 2 { // the second time changes nothing
		if err := publish(t.Context(), at, out); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/kubernetes/go.mod", "-n", "helm")
	build.Dir = root
	helm := strings.TrimSpace(string(must(build.Output())(t)))
	home := t.TempDir()
	for _, variable := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		t.Setenv(variable, home)
	}
	do(t, home, helm, "pull", "oci://"+at+"/charts/auth-gateway", "--version", "9.8.7", "--plain-http")
	if pulled, made := must(os.ReadFile(filepath.Join(home, "auth-gateway-9.8.7.tgz")))(t),
		must(os.ReadFile(filepath.Join(out, "auth-gateway-9.8.7.tgz")))(t); !bytes.Equal(pulled, made) {
		t.Error("the registry has another chart")
	}
	rendered := do(t, home, helm, "template", "auth", "auth-gateway-9.8.7.tgz", "--kube-version", "1.37.0")
	for line := range strings.Lines(string(must(os.ReadFile(filepath.Join(out, "images.txt")))(t))) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), ":9.8.7@")
		if strings.HasSuffix(name, "/operator") || strings.HasSuffix(name, "/authserver") {
			if !strings.Contains(rendered, name+"@"+digest) {
				t.Errorf("the chart does not install %s@%s", name, digest)
			}
		}
	}

	// A version that was published is not replaced.
	path, all, err := tagsOf(filepath.Join(out, "oci", "chart"))
	if err != nil {
		t.Fatal(err)
	}
	changed := t.TempDir()
	if err := os.CopyFS(changed, os.DirFS(out)); err != nil {
		t.Fatal(err)
	}
	image := mutate.Annotations(must(must(path.ImageIndex())(t).Image(all[0].descriptor.Digest))(t), map[string]string{"a": "b"}).(v1.Image)
	r := &release{options: options{version: "v9.8.7"}, out: changed}
	if err := errors.Join(os.RemoveAll(filepath.Join(changed, "oci", "chart")), r.layout("chart", "charts/"+chartName, image)); err != nil {
		t.Fatal(err)
	}
	if err := publish(t.Context(), at, changed); err == nil || !strings.Contains(err.Error(), "publish under another version") {
		t.Errorf("a published version is replaced: %v", err)
	}
}

func manifestsNameDigests(t *testing.T, out string) {
	text := string(must(os.ReadFile(filepath.Join(out, "install.yaml")))(t))
	for _, want := range []string{
		"image: registry.example.com/auth-gateway/operator@sha256:", "--server-image=registry.example.com/auth-gateway/authserver@sha256:",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("install.yaml lacks %s", want)
		}
	}
	if strings.Contains(text, "registry.invalid") {
		t.Error("install.yaml has an image without a registry")
	}
}

// bundleIsValid checks the bundle with the validators of the Operator Framework.
func bundleIsValid(t *testing.T, out string) {
	bundle := must(manifests.GetBundleFromDir(filepath.Join(out, "bundle")))(t)
	if bundle.Package != "auth-gateway" || bundle.CSV == nil || len(bundle.V1CRDs) != 2 {
		t.Fatalf("the bundle is %+v", bundle)
	}
	for _, result := range validation.DefaultBundleValidators.Validate(bundle.ObjectsToValidate()...) {
		for _, e := range result.Errors {
			t.Errorf("%s: %v", result.Name, e)
		}
		for _, w := range result.Warnings {
			t.Logf("%s: %v", result.Name, w)
		}
	}
	permissions := bundle.CSV.Spec.InstallStrategy.StrategySpec.ClusterPermissions
	if len(permissions) != 1 || len(permissions[0].Rules) < 10 || permissions[0].ServiceAccountName != operatorAccount {
		t.Errorf("the rights are %+v", permissions)
	}
	pods := bundle.CSV.Spec.InstallStrategy.StrategySpec.DeploymentSpecs[0].Spec.Template.Spec
	if image := pods.Containers[0].Image; !strings.HasPrefix(image, "registry.example.com/auth-gateway/operator@sha256:") {
		t.Errorf("the image is %s", image)
	}
}

// The images are those of the Dockerfile.
func TestImagesAreThoseOfTheDockerfile(t *testing.T) {
	dockerfile := string(must(os.ReadFile("../../Dockerfile"))(t))
	server := imageConfigs["authserver"]
	health := must(json.Marshal(server.Healthcheck.Test[1:]))(t)
	want := []string{
		"ENV ZONEINFO=/zoneinfo.zip\nUSER 65532:65532\n",
		"ENV HOST=\"\"\n",
		"EXPOSE 8080 9090\n",
		fmt.Sprintf("HEALTHCHECK --interval=%v --timeout=%v --start-period=%v CMD %s\n", server.Healthcheck.Interval,
			server.Healthcheck.Timeout, server.Healthcheck.StartPeriod, strings.ReplaceAll(string(health), ",", ", ")),
	}
	for _, line := range want {
		if strings.Count(dockerfile, line) != 1 {
			t.Errorf("the Dockerfile lacks %q", line)
		}
	}
	lines := 0
	for _, instruction := range []string{"ENV ", "EXPOSE ", "HEALTHCHECK "} {
		lines += strings.Count(dockerfile, "\n"+instruction)
	}
	if lines != 5 { // one of them is for the build
		t.Errorf("the Dockerfile has %d such lines; change imageConfigs as well", lines)
	}
	if len(server.Env) != 2 || server.Env[1] != "HOST=" || len(server.ExposedPorts) != 2 || len(imageConfigs["operator"].Env) != 1 {
		t.Errorf("the configurations are %+v", imageConfigs)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Chdir("../..")
	for want, args := range map[string][]string{
		"but not both":         {"-version", "v1.2.3"},
		"RELEASE_KEY":          {"-version", "v1.2.3", "-key", "x", "-unsigned"},
		"such as v1.2.3":       {"-version", "1.2.3", "-unsigned"},
		"v1.2.3-rc.1":          {"-version", "v1.2", "-unsigned"},
		"only for linux/amd64": {"-version", "v1.2.3", "-unsigned", "-platforms", "linux/s390x"},
		"without a scheme":     {"-version", "v1.2.3", "-unsigned", "-registry", "https://registry.example.com"},
		"no such file":         {"-version", "v1.2.3", "-key", "missing.key"},
		"name the registry":    {"publish", "dist/v1.2.3"},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

func TestKeys(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(key))(t)
	sec1 := must(x509.MarshalECPrivateKey(key))(t)
	for kind, content := range map[string][]byte{"PRIVATE KEY": pkcs8, "EC PRIVATE KEY": sec1} {
		got := must(parseKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})))(t)
		if !got.Equal(key) {
			t.Errorf("%s is another key", kind)
		}
	}
	path := newKey(t)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(passwordVariable, "a wrong one")
	if _, err := loadSigner(path); err == nil || !strings.Contains(err.Error(), "passphrase") || strings.Contains(err.Error(), "a wrong one") {
		t.Error(err)
	}
	t.Setenv(passwordFileVariable, file)
	signer := must(loadSigner(path))(t)
	if one, two := must(signer.sign([]byte("a")))(t), must(signer.sign([]byte("a")))(t); !bytes.Equal(one, two) {
		t.Error("two signatures of one message differ")
	}
	for name, text := range map[string]string{
		"not PEM": "hello", "cosign generate-key-pair": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
	} {
		if _, err := parseKey([]byte(text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLinesAreReplaced(t *testing.T) {
	const text = "# a comment\nimage:\n  # Required.\n  repository: \"\"\nserverImage:\n  repository: \"\"\n"
	got := string(must(replaceLine([]byte(text), "serverImage", "repository", "x"))(t))
	if got != strings.Replace(text, "serverImage:\n  repository: \"\"", "serverImage:\n  repository: x", 1) {
		t.Errorf("it is %s", got)
	}
	if _, err := replaceLine([]byte(text), "image", "digest", "x"); err == nil {
		t.Error("a missing key is added silently")
	}
	var values map[string]any
	if err := yaml.Unmarshal([]byte(got), &values); err != nil {
		t.Error(err)
	}
}

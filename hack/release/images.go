package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/auth-gateway/auth-gateway/hack/kubernetes/image/layer"
)

const (
	// refName is the annotation of a layout's index with the tag: https://github.com/opencontainers/image-spec
	refName = "org.opencontainers.image.ref.name"

	// kindAnnotation is how cosign finds the image and its signatures in a layout.
	kindAnnotation = "kind"
	kindImage      = "dev.cosignproject.cosign/image"
	kindIndex      = "dev.cosignproject.cosign/imageIndex"
	kindSignatures = "dev.cosignproject.cosign/sigs"

	signatureAnnotation = "dev.cosignproject.cosign/signature"
	simpleSigning       = types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")
)

// imageConfigs are the configurations of the images, as in the Dockerfile.
var imageConfigs = map[string]v1.Config{
	"authserver": {
		Env:          []string{"ZONEINFO=/zoneinfo.zip", "HOST="},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}},
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/authserver", "healthcheck"}, Interval: 10 * time.Second, Timeout: 3 * time.Second,
			StartPeriod: 10 * time.Second,
		},
	},
	"operator": {Env: []string{"ZONEINFO=/zoneinfo.zip"}},
}

// buildImages writes a layout with an index of all platforms for each server.
func (r *release) buildImages(context.Context) error {
	for _, name := range servers {
		var images []mutate.IndexAddendum
		for _, b := range r.programs {
			if b.name != name {
				continue
			}
			image, err := r.serverImage(b)
			if err != nil {
				return err
			}
			images = append(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
				MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: "linux", Architecture: b.arch()},
			}})
		}
		index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...)
		index = mutate.Annotations(index, r.labels(name)).(v1.ImageIndex)
		signed := []partial.Describable{index}
		for _, image := range images {
			signed = append(signed, image.Add)
		}
		if err := r.layout(name, name, index, signed...); err != nil {
			return err
		}
	}
	return nil
}

// labels describe an image: https://specs.opencontainers.org/image-spec/annotations/
func (r *release) labels(name string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    name,
		"org.opencontainers.image.version":  r.tag(),
		"org.opencontainers.image.revision": r.commit,
		"org.opencontainers.image.created":  r.time.Format(time.RFC3339),
		"org.opencontainers.image.source":   sourceURL,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

func (r *release) serverImage(b built) (v1.Image, error) {
	base := imageConfigs[b.name]
	config := *base.DeepCopy()
	config.Entrypoint, config.User, config.WorkingDir = []string{"/" + b.name}, "65532:65532", "/"
	config.Labels = r.labels(b.name)
	return r.imageOf(b.arch(), config, []string{
		r.authorities + "=/etc/ssl/certs/ca-certificates.crt",
		filepath.Join(r.goRoot, "lib", "time", "zoneinfo.zip") + "=/zoneinfo.zip",
		b.path + "=/" + b.name, b.licenses + "=/licenses",
	})
}

// imageOf returns an image of one layer with files of this machine.
func (r *release) imageOf(arch string, config v1.Config, files []string) (v1.Image, error) {
	content, err := layer.Of(files)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	l, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{Layer: l, History: v1.History{
		Created: v1.Time{Time: r.time}, CreatedBy: "hack/release",
	}})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file.Architecture, file.OS, file.Config, file.Created = arch, "linux", config, v1.Time{Time: r.time}
	return mutate.ConfigFile(image, file)
}

// layout writes an image or an index to oci/FOLDER, with a signature for each of signed. The signature of the image
// itself comes first.
func (r *release) layout(folder, name string, thing mutate.Appendable, signed ...partial.Describable) error {
	path, err := layout.Write(filepath.Join(r.out, "oci", folder), empty.Index)
	if err != nil {
		return err
	}
	digest, err := thing.Digest()
	if err != nil {
		return err
	}
	annotations := map[string]string{refName: r.tag(), kindAnnotation: kindImage}
	switch thing := thing.(type) {
	case v1.ImageIndex:
		annotations[kindAnnotation] = kindIndex
		err = path.AppendIndex(thing, layout.WithAnnotations(annotations))
	case v1.Image:
		err = path.AppendImage(thing, layout.WithAnnotations(annotations))
	}
	if err != nil {
		return err
	}
	r.images = append(r.images, hashed{r.image(name), digest.String()})
	if r.signer == nil {
		return nil
	}
	for _, one := range signed {
		image, tag, err := r.signature(name, one)
		if err != nil {
			return err
		}
		err = path.AppendImage(image, layout.WithAnnotations(map[string]string{refName: tag, kindAnnotation: kindSignatures}))
		if err != nil {
			return err
		}
	}
	return nil
}

// signature returns cosign's signature of an image, and the tag under which a registry has it:
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
func (r *release) signature(of string, signed partial.Describable) (v1.Image, string, error) {
	digest, err := signed.Digest()
	if err != nil {
		return nil, "", err
	}
	reference, err := name.NewDigest(r.image(of) + "@" + digest.String())
	if err != nil {
		return nil, "", err
	}
	text, err := payload.Cosign{Image: reference}.MarshalJSON()
	if err != nil {
		return nil, "", err
	}
	signature, err := r.signer.sign(text)
	if err != nil {
		return nil, "", err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:       static.NewLayer(text, simpleSigning),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signature)},
	})
	if err == nil {
		image, err = mutate.CreatedAt(image, v1.Time{Time: r.time})
	}
	return image, strings.Replace(digest.String(), ":", "-", 1) + ".sig", err
}

// bundleImage writes the image of the OLM bundle, which contains only files.
func (r *release) bundleImage(labels map[string]string) error {
	all := r.labels("operator-bundle")
	for key, value := range labels {
		all[key] = value
	}
	image, err := r.imageOf("amd64", v1.Config{Labels: all}, []string{
		filepath.Join(r.out, "bundle", "manifests") + "=/manifests",
		filepath.Join(r.out, "bundle", "metadata") + "=/metadata",
	})
	if err != nil {
		return err
	}
	return r.layout("operator-bundle", "operator-bundle", image, image)
}

// published is what a layout has under a tag.
type published struct {
	tag        string
	descriptor v1.Descriptor
}

// tagsOf returns everything that a layout has under a tag.
func tagsOf(folder string) (layout.Path, []published, error) {
	if _, err := os.Stat(filepath.Join(folder, "oci-layout")); err != nil {
		return "", nil, fmt.Errorf("%s is not an OCI layout: %w", folder, err)
	}
	path := layout.Path(folder)
	index, err := path.ImageIndex()
	if err != nil {
		return "", nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", nil, err
	}
	var all []published
	for _, d := range manifest.Manifests {
		if tag := d.Annotations[refName]; tag != "" {
			all = append(all, published{tag, d})
		}
	}
	return path, all, nil
}

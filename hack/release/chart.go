package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

const chartName = "auth-gateway"

// The media types of a chart: https://helm.sh/docs/topics/registries/
const (
	chartConfig  = types.MediaType("application/vnd.cncf.helm.config.v1+json")
	chartContent = types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
)

// buildChart writes the chart as an archive and as a layout. It has the digests of the images. If no registry was
// named, it refuses to install until the values name the images, as in the checkout.
func (r *release) buildChart(context.Context) error {
	folder := filepath.Join("charts", chartName)
	files := map[string][]byte{}
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		below, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		files[path.Join(chartName, filepath.ToSlash(below))] = text
		return err
	})
	if err != nil {
		return err
	}
	about, values := chartName+"/Chart.yaml", chartName+"/values.yaml"
	for key, value := range map[string]string{"version": r.tag(), "appVersion": `"` + r.tag() + `"`} {
		if files[about], err = replaceLine(files[about], "", key, value); err != nil {
			return err
		}
	}
	for section, name := range map[string]string{"image": "operator", "serverImage": "authserver"} {
		digest, err := r.digestOf(name)
		if err != nil {
			return err
		}
		if files[values], err = replaceLine(files[values], section, "digest", `"`+digest+`"`); err != nil {
			return err
		}
		if r.registry == "" {
			continue
		}
		if files[values], err = replaceLine(files[values], section, "repository", r.image(name)); err != nil {
			return err
		}
	}
	archive, err := packed(files, r.time)
	if err != nil {
		return err
	}
	if err := r.write(fmt.Sprintf("%s-%s.tgz", chartName, r.tag()), archive); err != nil {
		return err
	}
	image, err := r.chartImage(files[about], archive)
	if err != nil {
		return err
	}
	return r.layout("chart", "charts/"+chartName, image, image)
}

// replaceLine sets the value of a key at the top level, or one level below a section. Comments stay.
func replaceLine(text []byte, section, key, value string) ([]byte, error) {
	lines, inside, found := strings.Split(string(text), "\n"), section == "", 0
	indent := ""
	if section != "" {
		indent = "  "
	}
	for i, line := range lines {
		if section != "" && line != "" && !strings.HasPrefix(line, " ") {
			inside = line == section+":"
		}
		if inside && strings.HasPrefix(line, indent+key+":") {
			lines[i], found = indent+key+": "+value, found+1
		}
	}
	if found != 1 {
		return nil, fmt.Errorf("the key %s.%s is there %d times", section, key, found)
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// digestOf returns the digest of an image of this release.
func (r *release) digestOf(name string) (string, error) {
	for _, image := range r.images {
		if image.name == r.image(name) {
			return image.digest, nil
		}
	}
	return "", fmt.Errorf("there is no image %s", name)
}

// chartImage returns the artifact that helm pulls from a registry.
func (r *release) chartImage(about, archive []byte) (v1.Image, error) {
	config, err := yaml.YAMLToJSON(about)
	if err != nil {
		return nil, err
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image, err = mutate.Append(image, mutate.Addendum{Layer: static.NewLayer(archive, chartContent)})
	if err != nil {
		return nil, err
	}
	var described struct{ Description string }
	if err := json.Unmarshal(config, &described); err != nil {
		return nil, err
	}
	labels := r.labels(chartName)
	labels["org.opencontainers.image.description"] = described.Description
	return &artifact{mutate.Annotations(image, labels).(v1.Image), config}, nil
}

// artifact is an image whose configuration is not that of a container.
type artifact struct {
	v1.Image
	config []byte
}

func (a *artifact) RawConfigFile() ([]byte, error)      { return a.config, nil }
func (a *artifact) ConfigName() (v1.Hash, error)        { return partial.ConfigName(a) }
func (a *artifact) ConfigFile() (*v1.ConfigFile, error) { return partial.ConfigFile(a) }
func (a *artifact) RawManifest() ([]byte, error)        { return partial.RawManifest(a) }
func (a *artifact) Digest() (v1.Hash, error)            { return partial.Digest(a) }
func (a *artifact) Size() (int64, error)                { return partial.Size(a) }

func (a *artifact) Manifest() (*v1.Manifest, error) {
	manifest, err := a.Image.Manifest()
	if err != nil {
		return nil, err
	}
	manifest = manifest.DeepCopy()
	digest, size, err := v1.SHA256(strings.NewReader(string(a.config)))
	manifest.Config = v1.Descriptor{MediaType: chartConfig, Digest: digest, Size: size}
	return manifest, err
}

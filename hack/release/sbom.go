package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sbom writes a CycloneDX document about a program. It lists what the linker recorded in the program itself, not what
// go.mod requires.
func (r *release) sbom(path, name, file string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	digest, err := sha256Of(path)
	if err != nil {
		return err
	}
	main := cdx.Component{
		BOMRef: purl(info.Main.Path, r.version), Type: cdx.ComponentTypeApplication, Name: name, Version: r.version,
		PackageURL: purl(info.Main.Path, r.version),
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: digest}},
		Licenses:   &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		ExternalReferences: &[]cdx.ExternalReference{
			{Type: cdx.ERTypeVCS, URL: sourceURL, Comment: "commit " + r.commit},
		},
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	components := []cdx.Component{{
		BOMRef: purl("std", goVersion), Type: cdx.ComponentTypeLibrary, Name: "std", Version: goVersion,
		PackageURL: purl("std", goVersion), Scope: cdx.ScopeRequired,
	}}
	for _, module := range info.Deps {
		m := module
		if m.Replace != nil {
			m = m.Replace
		}
		c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, Scope: cdx.ScopeRequired}
		if m.Version == "" { // a module of this repository
			c.Name, c.Version = module.Path, r.version
		}
		c.PackageURL = purl(c.Name, c.Version)
		c.BOMRef = c.PackageURL
		if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // the SHA-256 that go.sum has of a module
			bytes, err := base64.StdEncoding.DecodeString(sum)
			if err != nil {
				return err
			}
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(bytes)}}
		}
		components = append(components, c)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	refs := make([]string, len(components))
	for i, c := range components {
		refs[i] = c.BOMRef
	}
	document := cdx.NewBOM()
	document.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(sourceURL+"#"+file+"@"+digest)).URN()
	document.Metadata = &cdx.Metadata{
		Timestamp: r.time.Format(time.RFC3339), Component: &main,
		Properties: &[]cdx.Property{{Name: "platform", Value: setting(info, "GOOS") + "/" + setting(info, "GOARCH")}},
	}
	document.Components = &components
	document.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	encoder := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true)
	if err := encoder.EncodeVersion(document, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return r.write(file+".cdx.json", text.Bytes())
}

func purl(module, version string) string { return fmt.Sprintf("pkg:golang/%s@%s", module, version) }

func setting(info *buildinfo.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

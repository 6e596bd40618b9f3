package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = sourceURL + "/blob/main/docs/release.md#build-type"
	inTotoType    = "application/vnd.in-toto+json"
)

// buildProvenance writes an in-toto statement with a SLSA provenance of every file and image so far: provenance.json,
// and, if there is a key, the signed envelope provenance.intoto.jsonl.
func (r *release) buildProvenance(ctx context.Context) error {
	statement, err := r.statement()
	if err != nil {
		return err
	}
	if err := r.write("provenance.json", append(statement, '\n')); err != nil || r.signer == nil {
		return err
	}
	signer, err := dsse.NewEnvelopeSigner(r.signer)
	if err != nil {
		return err
	}
	envelope, err := signer.SignPayload(ctx, inTotoType, statement)
	if err != nil {
		return err
	}
	line, err := json.Marshal(envelope)
	if err != nil {
		return err
	}
	return r.write("provenance.intoto.jsonl", append(line, '\n'))
}

func (r *release) statement() ([]byte, error) {
	files, err := r.files()
	if err != nil {
		return nil, err
	}
	var subjects []*intoto.ResourceDescriptor
	for _, file := range files {
		if !strings.HasPrefix(file.name, "oci/") { // the images follow
			digest := map[string]string{"sha256": file.digest}
			subjects = append(subjects, &intoto.ResourceDescriptor{Name: file.name, Digest: digest})
		}
	}
	for _, image := range r.images {
		subjects = append(subjects, &intoto.ResourceDescriptor{
			Name: image.name, Digest: map[string]string{"sha256": strings.TrimPrefix(image.digest, "sha256:")},
		})
	}
	authorities, err := sha256Of(r.authorities)
	if err != nil {
		return nil, err
	}
	platforms := make([]any, len(r.platforms))
	for i, platform := range r.platforms {
		platforms[i] = platform
	}
	parameters, err := structpb.NewStruct(map[string]any{
		"version": r.version, "registry": r.registry, "downloads": r.downloads, "platforms": platforms, "plugins": r.plugins,
	})
	if err != nil {
		return nil, err
	}
	made := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{
			BuildType: buildType, ExternalParameters: parameters,
			ResolvedDependencies: []*intoto.ResourceDescriptor{
				{Uri: "git+" + sourceURL, Digest: map[string]string{"gitCommit": r.commit}},
				{Uri: "pkg:golang/toolchain@" + strings.TrimPrefix(r.goVersion, "go"), Name: "go"},
				{Name: filepath.Base(r.authorities), Digest: map[string]string{"sha256": authorities}},
			},
		},
		// The metadata of a run, such as its time, would differ each time.
		RunDetails: &provenance.RunDetails{Builder: &provenance.Builder{Id: r.builder}},
	}
	if err := made.Validate(); err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(made)
	if err != nil {
		return nil, err
	}
	predicate := &structpb.Struct{}
	if err := protojson.Unmarshal(text, predicate); err != nil {
		return nil, err
	}
	statement := &intoto.Statement{
		Type: intoto.StatementTypeUri, Subject: subjects, PredicateType: predicateType, Predicate: predicate,
	}
	if err := statement.Validate(); err != nil {
		return nil, err
	}
	if text, err = protojson.Marshal(statement); err != nil {
		return nil, err
	}
	// protojson varies the spaces from one program to the next.
	var compact bytes.Buffer
	err = json.Compact(&compact, text)
	return compact.Bytes(), err
}

package controllers

import (
	"encoding/json"
	"fmt"
	"reflect"

	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/auth-gateway/auth-gateway/keys"
)

// rendering is what objects are rendered from.
//
// Every list is rendered with all defaults that the API server adds to it. A list
// is one field in managedFields, so a list without a default would always differ.
type rendering struct {
	*clusterState
	ring  keys.Ring
	image string

	operatorNamespace string
	platformUsers     bool // the platform assigns the user that pods run as
	pullSecrets       []string
	openMetrics       bool // every namespace may reach the operations port

	// The pods are replaced when one of these digests of what they read at their
	// start changes. configMapsDigest is "" if the spec refers to no ConfigMap.
	inputsDigest, passphrasesDigest, configMapsDigest string
}

func (r rendering) owner() *acmeta.OwnerReferenceApplyConfiguration {
	return convert[acmeta.OwnerReferenceApplyConfiguration](ownerReference(r.gateway))
}

// metadata returns the metadata of an untyped object.
func (r rendering) metadata(labels map[string]string) map[string]any {
	return map[string]any{
		"labels":          *convert[map[string]any](merged(labels, r.names.labels())),
		"ownerReferences": []any{*convert[map[string]any](ownerReference(r.gateway))},
	}
}

// convert turns a value of a spec into its apply configuration. Both have the same
// JSON, because their types are generated from the same source.
func convert[C any](from any) *C {
	into := new(C)
	if err := throughJSON(from, into); err != nil { // a programming error
		panic(fmt.Sprintf("controllers: %s as %s: %v", reflect.TypeOf(from), reflect.TypeOf(into), err))
	}
	return into
}

func throughJSON(from, into any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

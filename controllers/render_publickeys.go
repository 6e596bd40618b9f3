package controllers

import (
	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/keys"
)

// renderPublicKeys renders the ConfigMap that consumers mount.
func renderPublicKeys(r rendering) *accore.ConfigMapApplyConfiguration {
	data := map[string]string{}
	for name, content := range keys.PublicFiles(r.ring, issuer(r.clusterState), r.trace(r.clusterState.ring).Revoked...) {
		data[name] = string(content)
	}
	return accore.ConfigMap(r.names.publicKeys(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithData(data)
}

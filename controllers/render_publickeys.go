package controllers

import (
	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/keys"
)

// metadataFile is the entry of the public keys that has the metadata of the issuer.
const metadataFile = "openid-configuration"

// renderPublicKeys renders the ConfigMap that consumers mount.
func renderPublicKeys(r rendering) *accore.ConfigMapApplyConfiguration {
	files := keys.PublicFiles(r.ring, issuer(r.clusterState), r.trace(r.clusterState.ring).Revoked...)
	files[metadataFile] = settings(r.clusterState).Metadata()
	return renderFiles(r, r.names.publicKeys(), files)
}

// renderRefreshPublicKeys renders the keys that only the gateway needs.
func renderRefreshPublicKeys(r rendering) *accore.ConfigMapApplyConfiguration {
	return renderFiles(r, r.names.refreshPublicKeys(), keys.RefreshPublicFiles(r.ring))
}

func renderFiles(r rendering, name string, files map[string][]byte) *accore.ConfigMapApplyConfiguration {
	data := map[string]string{}
	for file, content := range files {
		data[file] = string(content)
	}
	return accore.ConfigMap(name, r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithData(data)
}

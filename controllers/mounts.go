package controllers

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// A mount is a directory of the server's container with the keys of a Secret or of a ConfigMap.
type mount struct {
	volume, directory string
	gvk               schema.GroupVersionKind
	object            string
	items             []string // the keys that reach the pod; nil: all of them
	optional          bool     // the pods start without the object
}

// mountsOf returns the mounts of a gateway's pods. The items are listed, so that
// no other key of a Secret reaches the pods.
func mountsOf(g *v1alpha1.AuthGateway) []mount {
	n := namesOf(g)
	access, refresh := passphraseSettings[keys.Access], passphraseSettings[keys.Refresh]
	all := []mount{
		// Every key of this Secret: a rotation changes which files there are.
		{volume: volumeKeys, directory: dirKeys, gvk: gvkSecret, object: n.keys()},
		publishedMount(n), // a server that starts compares its keys with it, to notice that an older copy was restored
		{
			volume: volumePassphrases, directory: dirPassphrases, gvk: gvkSecret, object: n.passphrases(),
			items: []string{access.current, access.former, refresh.current, refresh.former},
		},
		{
			volume: volumeCaller, directory: dirCaller, gvk: gvkSecret, object: n.caller(),
			items: []string{secretCallerKey},
		},
	}
	return append(all, inputMounts(g, func(string) bool { return true })...)
}

// publishedMount is the published state of the keys, without the keys.
func publishedMount(n names) mount {
	return mount{
		volume: volumePublicKeys, directory: dirPublicKeys, gvk: gvkConfigMap, object: n.publicKeys(),
		items: []string{keys.PublicDocumentFile}, optional: true,
	}
}

// inputMounts returns the mounts of pods that read certain settings, of what the spec refers to.
func inputMounts(g *v1alpha1.AuthGateway, reads func(setting string) bool) (all []mount) {
	for in, name := range inputsOf(g) {
		if m, mounted := in.mount(name, reads); mounted {
			all = append(all, m)
		}
	}
	return all
}

// mode lets only the server's group read the files.
const mode = 0o440

func (m mount) renderVolume() *accore.VolumeApplyConfiguration {
	items := make([]*accore.KeyToPathApplyConfiguration, 0, len(m.items))
	for _, item := range m.items {
		items = append(items, accore.KeyToPath().WithKey(item).WithPath(item))
	}
	volume := accore.Volume().WithName(m.volume)
	if m.gvk == gvkSecret {
		source := accore.SecretVolumeSource().WithSecretName(m.object).WithDefaultMode(mode).WithItems(items...)
		if m.optional {
			source.WithOptional(true)
		}
		return volume.WithSecret(source)
	}
	source := accore.ConfigMapVolumeSource().WithName(m.object).WithDefaultMode(mode).WithItems(items...)
	if m.optional {
		source.WithOptional(true)
	}
	return volume.WithConfigMap(source)
}

func (m mount) renderMount() *accore.VolumeMountApplyConfiguration {
	return accore.VolumeMount().WithName(m.volume).WithMountPath(m.directory).WithReadOnly(true)
}

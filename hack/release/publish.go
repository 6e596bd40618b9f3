package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// repositories are the names of the layouts in a registry.
var repositories = map[string]string{
	"authserver": "authserver", "operator": "operator", "operator-bundle": "operator-bundle",
	"chart": "charts/" + chartName,
}

func runPublish(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("publish", flag.ContinueOnError)
	registry := flags.String("registry", "", "where to push to, such as registry.example.com/auth-gateway")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *registry == "" || flags.NArg() != 1 {
		return errors.New("name the registry and the folder of the release; see release -h")
	}
	return publish(ctx, *registry, flags.Arg(0))
}

// publish pushes every layout of a release, with the signatures. The credentials are those of docker login. A tag that
// has another digest already is not moved: what was published under a version stays.
func publish(ctx context.Context, registry, folder string) error {
	for _, kind := range sortedKeys(repositories) {
		path, all, err := tagsOf(filepath.Join(folder, "oci", kind))
		if err != nil {
			return err
		}
		index, err := path.ImageIndex()
		if err != nil {
			return err
		}
		options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
		for _, one := range all {
			tag, err := name.NewTag(registry + "/" + repositories[kind] + ":" + one.tag)
			if err != nil {
				return err
			}
			if there, err := remote.Head(tag, options...); err == nil && there.Digest != one.descriptor.Digest &&
				!strings.HasSuffix(one.tag, ".sig") {
				return fmt.Errorf("%s is there already, as %s and not as %s: publish under another version",
					tag, there.Digest, one.descriptor.Digest)
			}
			if one.descriptor.MediaType.IsIndex() {
				child, err := index.ImageIndex(one.descriptor.Digest)
				if err != nil {
					return err
				}
				if err := remote.WriteIndex(tag, child, options...); err != nil {
					return err
				}
			} else {
				child, err := index.Image(one.descriptor.Digest)
				if err != nil {
					return err
				}
				if err := remote.Write(tag, child, options...); err != nil {
					return err
				}
			}
			fmt.Fprintf(os.Stdout, "%s@%s\n", tag, one.descriptor.Digest)
		}
	}
	return nil
}

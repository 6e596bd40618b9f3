// Command image builds a container image from files of this machine, without a daemon, a registry or a base image. The
// image has one layer and the tar format of docker save, which ctr and kind load.
//
//	image -out FILE -name NAME -entrypoint PATH [-user UID:GID] [-env NAME=VALUE]... FROM=TO...
//
// FROM is a file, or a folder with all its content; TO is its path in the image. The same files give the same image.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/auth-gateway/auth-gateway/hack/kubernetes/image/layer"
)

func main() {
	var (
		out   = flag.String("out", "", "the file to write")
		tag   = flag.String("name", "", "the name of the image, with its tag")
		entry = flag.String("entrypoint", "", "the program to run")
		user  = flag.String("user", "65532:65532", "whom it runs as")
		arch  = flag.String("arch", runtime.GOARCH, "what processor it is for")
		env   []string
	)
	flag.Func("env", "a variable of its environment, as NAME=VALUE", func(value string) error {
		env = append(env, value)
		return nil
	})
	flag.Parse()
	config := v1.Config{Entrypoint: []string{*entry}, User: *user, Env: env, WorkingDir: "/"}
	if err := write(*out, *tag, *arch, config, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(out, tag, arch string, config v1.Config, files []string) error {
	reference, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	content, err := layer.Of(files)
	if err != nil {
		return err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	compressed, err := tarball.LayerFromOpener(opener)
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, compressed)
	if err != nil {
		return err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return err
	}
	file.Architecture, file.OS, file.Config, file.Created = arch, "linux", config, v1.Time{Time: layer.Epoch}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return err
	}
	return tarball.WriteToFile(out, reference, image)
}

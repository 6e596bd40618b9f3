// Command release makes everything of a release, offline, into one folder. The same commit, Go and key give the same
// bytes. docs/release.md describes the files.
//
//	release -version v1.2.3 (-key FILE | -unsigned) [-registry NAME] [-to FOLDER]
//	release publish -registry NAME FOLDER
//
// It must run in the root of the checkout.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const usage = `usage:
  release -version v1.2.3 (-key FILE | -unsigned) [flags]   make a release
  release publish -registry NAME FOLDER                     push its images and its chart

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "publish" {
		return runPublish(ctx, args[1:])
	}
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	var o options
	flags.StringVar(&o.version, "version", "", "the version, such as v1.2.3")
	flags.StringVar(&o.registry, "registry", "",
		"where the images will be, such as registry.example.com/auth-gateway; if empty, a user names them when installing")
	flags.StringVar(&o.downloads, "downloads", "", "the URL at which the files will be (default: the release on GitHub)")
	flags.StringVar(&o.key, "key", "", "the file with the private key; COSIGN_PASSWORD, or the file that "+
		"RELEASE_KEY_PASSWORD_FILE names, has its passphrase")
	unsigned := flags.Bool("unsigned", false, "make the release without signatures")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "the platforms of images and servers")
	plugins := flags.String("plugins", "", "the platforms of the kubectl plugin (default: all that hack/krew knows)")
	flags.StringVar(&o.authorities, "authorities", "/etc/ssl/certs/ca-certificates.crt",
		"the certificate authorities that the images trust")
	flags.StringVar(&o.builder, "builder", sourceURL+"/blob/main/docs/release.md#by-hand",
		"the id of the builder in the provenance")
	to := flags.String("to", "", "the folder to write (default: dist/VERSION); it is replaced")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is not a flag", flags.Arg(0))
	}
	if (o.key == "") != *unsigned {
		return errors.New("name the key with -key (RELEASE_KEY of make), or give -unsigned (UNSIGNED=1 of make), " +
			"but not both")
	}
	o.platforms, o.plugins = strings.Split(*platforms, ","), *plugins
	return o.make(ctx, cmp.Or(*to, filepath.Join("dist", o.version)))
}

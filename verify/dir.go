package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// dirMaxAge is how often a directory is looked at. The kubelet takes a minute or two for a change.
	dirMaxAge = 5 * time.Second
	dirPause  = time.Second

	// dataLink is the symbolic link that the kubelet replaces, to change all files of a volume at once.
	dataLink = "..data"

	maxFile = 1 << 20
)

// FromDir reads the keys from a directory into which the ConfigMap NAME-public-keys is mounted. The kubelet updates the
// files, so no network is needed. The whole ConfigMap must be mounted: a file that is mounted with subPath never
// changes, and is refused.
//
// The directory has jwks.json (or jwks), and keys.json or openid-configuration, which names the issuer. Files that
// cannot be read or used leave the last good keys in place.
func FromDir(path string) Source {
	return Source{name: path, pause: dirPause, open: func(environment) loader {
		return (&directory{path: path, mounts: "/proc/self/mountinfo"}).loader()
	}}
}

type directory struct {
	path   string
	mounts string // the file that lists the mounts of the process

	target string // of dataLink, when last was read
	last   Document
}

func (d *directory) loader() loader {
	return func(context.Context) (Document, *Error) { return d.load() }
}

// load reads all files from the same volume. The kubelet may replace it meanwhile, and delete the former one.
func (d *directory) load() (Document, *Error) {
	info, err := os.Stat(d.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Document{}, mistake(ReasonNoDirectory, "there is no directory %s; mount the ConfigMap NAME-public-keys there", d.path)
	case err != nil:
		return Document{}, outage(ReasonUnreachable, err, "the directory cannot be read")
	case !info.IsDir():
		return Document{}, mistake(ReasonNotADirectory, "%s is a file; name the directory into which the whole ConfigMap is mounted", d.path)
	}
	const attempts = 3
	for range attempts {
		target, err := os.Readlink(filepath.Join(d.path, dataLink))
		if err != nil {
			target = ""
		}
		if target != "" && target == d.target {
			return d.last, nil
		}
		document, failure := d.read(target)
		after, err := os.Readlink(filepath.Join(d.path, dataLink))
		if err != nil {
			after = ""
		}
		if after != target {
			continue
		}
		if failure == nil {
			d.target, d.last = target, document
		}
		return document, failure
	}
	return Document{}, outage(ReasonUnreachable, nil, "the directory changes faster than its files can be read")
}

// read reads the files of one volume, or those of a plain directory if target is empty.
func (d *directory) read(target string) (Document, *Error) {
	if err := d.neverUpdated(); err != nil {
		return Document{}, err
	}
	base := d.path
	if filepath.IsAbs(target) {
		base = target
	} else if target != "" {
		base = filepath.Join(d.path, target)
	}
	jwks, err := readFirst(base, files[:2]...)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Document{}, d.noKeyFile(base)
	case err != nil:
		return Document{}, outage(ReasonUnreachable, err, "the keys cannot be read")
	}
	var state struct {
		Issuer     string   `json:"issuer"`
		Generation int64    `json:"generation"`
		Revoked    []string `json:"revoked"`
	}
	text, err := readFirst(base, files[2:]...)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the option Issuer may name it
	case err != nil:
		return Document{}, outage(ReasonUnreachable, err, "the issuer cannot be read")
	default:
		if err := json.Unmarshal(text, &state); err != nil {
			return Document{}, outage(ReasonMalformedMetadata, err, "keys.json or openid-configuration in %s is not JSON", d.path)
		}
	}
	return Document{
		Issuer: state.Issuer, JWKS: jwks, Generation: state.Generation, Revoked: state.Revoked, MaxAge: dirMaxAge,
	}, nil
}

// readFirst reads the first of some files that exists.
func readFirst(base string, names ...string) ([]byte, error) {
	var text []byte
	var err error
	for _, name := range names {
		var file *os.File
		if file, err = os.Open(filepath.Join(base, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		text, err = io.ReadAll(io.LimitReader(file, maxFile+1))
		err = cmp.Or(err, file.Close())
		if err == nil && len(text) > maxFile {
			err = errors.New(name + " is larger than 1 MiB")
		}
		return text, err
	}
	return nil, err
}

// noKeyFile distinguishes a ConfigMap that does not exist yet from another one that was mounted by mistake.
func (d *directory) noKeyFile(base string) *Error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return outage(ReasonUnreachable, err, "the directory cannot be read")
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, "..") && len(names) < 10 {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return mistake(ReasonNoKeyFile, "%s has no jwks.json; mount the ConfigMap NAME-public-keys there. It has: %s",
			d.path, quote(strings.Join(names, ", ")))
	}
	return outage(ReasonNoKeyFile, nil, "%s is empty; the ConfigMap NAME-public-keys may not exist yet", d.path)
}

// files are the names that a directory is searched for.
var files = []string{"jwks.json", "jwks", "keys.json", "openid-configuration"}

// neverUpdated returns an error if a file is mounted on its own, as with subPath: the mount stays at the first version.
// Only Linux lists its mounts.
func (d *directory) neverUpdated() *Error {
	text, _ := os.ReadFile(d.mounts)
	path := d.path
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		root, point := unescape(fields[3]), unescape(fields[4])
		single := filepath.Dir(point) == path && slices.Contains(files, filepath.Base(point))
		if single || point == path && frozen(root) {
			return mistake(ReasonSubPath, "%s is mounted with subPath and will never be updated; mount the whole ConfigMap as a directory", point)
		}
	}
	return nil
}

// frozen reports whether the root of a mount is one version of a volume: with subPath, or a directory that the kubelet
// has already replaced.
func frozen(root string) bool {
	if strings.Contains(root, "/volume-subpaths/") {
		return true
	}
	for _, part := range strings.Split(root, "/") {
		if strings.HasPrefix(part, "..") && len(part) > 2 {
			return true
		}
	}
	return false
}

// unescape decodes the octal escapes of mountinfo (proc(5)).
func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

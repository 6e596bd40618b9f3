package keyring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// errNoKeysYet means that another program has not yet written the directory.
var errNoKeysYet = errors.New("holds no keys to sign with yet (ring.json and <kid>.pem)")

// checkPublished compares a ring in a directory with the published state. The two are mounted separately, and either
// may lag behind by minutes; a server that starts in that time waits until they agree. If nothing is published yet, or
// the file cannot be read, there is nothing to compare.
func (k *Keyring) checkPublished(ring keys.Ring) error {
	if k.Directory == "" || k.Published == "" {
		return nil
	}
	var document keys.PublicDocument
	text, err := os.ReadFile(k.Published)
	if err != nil || json.Unmarshal(text, &document) != nil {
		return nil //nolint:nilerr // there is nothing to compare
	}
	if err := document.Check(ring); err != nil {
		return fmt.Errorf("%s, %s: %w", config.EnvKeysDir, config.EnvKeysPublished, err)
	}
	return nil
}

const (
	maxReads   = 10      // of a directory that changes while it is read
	maxKeyFile = 1 << 20 // bytes of a file in KEYS_DIR
)

// readFiles reads the files of a ring, all as of one moment. Kubernetes replaces a mounted Secret by pointing one link,
// ..data, at another directory; the links of the single files follow, and then the old directory is removed. So the
// files are read from the target of ..data, and again if ..data has changed in the meantime.
func readFiles(dir string) (map[string][]byte, error) {
	for range maxReads {
		target := dataDirectory(dir)
		files, err := readDirectory(target)
		if dataDirectory(dir) != target {
			continue
		}
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("%s %w", dir, errNoKeysYet)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", config.EnvKeysDir, err)
		}
		return files, nil
	}
	return nil, fmt.Errorf("%s: %s changes faster than it can be read", config.EnvKeysDir, dir)
}

// dataDirectory returns the directory with the files: the target of ..data if dir is a
// mounted Secret, and otherwise dir.
func dataDirectory(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "..data"))
	switch {
	case err != nil:
		return dir
	case filepath.IsAbs(target):
		return target
	default:
		return filepath.Join(dir, target)
	}
}

func readDirectory(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		name := entry.Name()
		if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || (ext != ".json" && ext != ".pem") {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Stat(path) // follows links, which other kinds of mounts have
		if err != nil {
			return nil, err
		}
		if info.Size() > maxKeyFile {
			return nil, fmt.Errorf("%s is larger than a key file can be", path)
		}
		if files[name], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// A file of keys says who may administrate a gateway that runs outside Kubernetes. It is JSON:
//
//	[{"name": "ada", "sha256": "9f86…", "rights": ["viewer", "users:update"], "expires": "2027-01-01T00:00:00Z"}]
//
// It has only digests. NewKey makes a key.

// KeyPrefix begins every key, so that scanners for secrets find it.
const KeyPrefix = "agadmin_"

// keyEntry is a key in the file.
type keyEntry struct {
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256"`
	Rights  []string  `json:"rights"`
	Expires time.Time `json:"expires"`
}

// NewKey returns a new key, and its entry in the file.
func NewKey(name string, rights []string, expires time.Time) (key string, entry []byte, err error) {
	key = KeyPrefix + rand.Text()
	digest := sha256.Sum256([]byte(key))
	e := keyEntry{Name: name, SHA256: hex.EncodeToString(digest[:]), Rights: rights, Expires: expires.UTC().Truncate(time.Second)}
	if _, err := e.parse(); err != nil {
		return "", nil, err
	}
	entry, err = json.Marshal(e)
	return key, entry, err
}

// Keys are the keys of a file. They implement Authorizer.
type Keys struct {
	keys []fileKey
	now  func() time.Time
}

type fileKey struct {
	name    string
	digest  [sha256.Size]byte
	rights  []Right
	expires time.Time
}

// ParseKeys reads a file of keys. Errors name the key and never quote a digest.
func ParseKeys(content []byte, now func() time.Time) (*Keys, error) {
	var entries []keyEntry
	if err := json.Unmarshal(content, &entries, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New(`is not a JSON array of keys with the members name, sha256, rights and expires; "authserver admin-key" prints one`)
	}
	if len(entries) == 0 {
		return nil, errors.New(`has no keys; "authserver admin-key" prints one`)
	}
	k := &Keys{now: now}
	for i, e := range entries {
		key, err := e.parse()
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		if slices.ContainsFunc(k.keys, func(other fileKey) bool { return other.name == key.name }) {
			return nil, fmt.Errorf("key %d: the name %q occurs twice", i+1, key.name)
		}
		k.keys = append(k.keys, key)
	}
	return k, nil
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

func (e keyEntry) parse() (fileKey, error) {
	k := fileKey{name: e.Name, expires: e.Expires}
	if !keyName.MatchString(e.Name) {
		return k, errors.New("the name must have 1 to 63 letters, digits, dots, dashes, underscores or at signs")
	}
	digest, err := hex.DecodeString(e.SHA256)
	if err != nil || len(digest) != sha256.Size {
		return k, errors.New("sha256 must be the SHA-256 of the key: 64 hexadecimal digits")
	}
	copy(k.digest[:], digest)
	rights, unknown := ParseRights(e.Rights)
	if unknown != "" || len(rights) == 0 {
		return k, fmt.Errorf("rights has %q: write viewer, editor, or some of %s", unknown, rightNames())
	}
	if e.Expires.IsZero() {
		return k, errors.New("expires is missing: write a time such as 2027-01-01T00:00:00Z")
	}
	k.rights = rights
	return k, nil
}

func rightNames() string {
	names := make([]string, len(Rights))
	for i, r := range Rights {
		names[i] = r.String()
	}
	return strings.Join(names, ", ")
}

// Authorize implements Authorizer. It compares a credential with every key, in constant time.
func (k *Keys) Authorize(_ context.Context, credential string, need Right) (Actor, error) {
	digest := sha256.Sum256([]byte(credential))
	var found *fileKey
	for i := range k.keys {
		if subtle.ConstantTimeCompare(digest[:], k.keys[i].digest[:]) == 1 {
			found = &k.keys[i]
		}
	}
	switch {
	case found == nil:
		return Actor{}, ErrUnauthenticated
	case !k.now().Before(found.expires):
		return Actor{}, fmt.Errorf("%w: the key %s expired at %s", ErrUnauthenticated, found.name, found.expires.Format(time.RFC3339))
	case !slices.Contains(found.rights, need):
		return Actor{}, fmt.Errorf("%w: the key %s may not %s", ErrForbidden, found.name, need)
	}
	return Actor{Name: "key:" + found.name}, nil
}

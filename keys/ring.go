package keys

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// Ring holds every key, of both uses. It is a value: Reconcile returns another one. The
// zero Ring is the ring before the first key.
type Ring struct {
	// Keys is sorted by use, creation and ID.
	Keys []Key

	// Generation counts the steps. A store replaces a ring only if it still has the generation that was read
	// (compare-and-swap), so one of two concurrent writers fails.
	Generation int64

	// Rotated is, by use, the last Policy.Rotate that was carried out.
	Rotated map[Use]string
}

// ErrDamaged is in the chain of every error of FromFiles: the files exist, but are not
// a valid ring. They must not be overwritten.
var ErrDamaged = errors.New("the key ring is damaged")

const (
	ringFile  = "ring.json"
	pemSuffix = ".pem"

	ringVersion = 1

	// Limits when parsing.
	maxRingFile   = 512 << 10
	maxKeysPerUse = 64
	maxRotate     = 256
	maxLifetime   = 10 * 365 * 24 * time.Hour
)

// Key returns the key with this ID.
func (r Ring) Key(id string) (Key, bool) {
	if k := r.find(id); k != nil {
		return *k, true
	}
	return Key{}, false
}

// Signing returns the key that signs tokens of a use. It returns false before the first step.
func (r Ring) Signing(use Use) (Key, bool) {
	for _, k := range r.Keys {
		if k.Use == use && k.Phase == Signing {
			return k, true
		}
	}
	return Key{}, false
}

// Honoured reports whether the rotation that this Policy.Rotate requests is done for both uses.
func (r Ring) Honoured(rotate string) bool {
	return !slices.ContainsFunc(Uses(), func(use Use) bool { return r.Rotated[use] != rotate })
}

// clone copies what apply changes. Encrypted bytes and public halves are never changed in place and are shared.
func (r Ring) clone() Ring {
	return Ring{Keys: slices.Clone(r.Keys), Generation: r.Generation, Rotated: maps.Clone(r.Rotated)}
}

func (r *Ring) sort() {
	slices.SortFunc(r.Keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Use, b.Use), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// ringJSON is ring.json. Its members have a fixed order and its times are whole
// seconds, so the same ring has the same bytes.
type ringJSON struct {
	Version    int            `json:"version"`
	Generation int64          `json:"generation"`
	Rotated    map[Use]string `json:"rotated,omitempty"`
	Keys       []keyJSON      `json:"keys"`
}

type keyJSON struct {
	ID              string    `json:"kid"`
	Use             Use       `json:"kind"`
	Algorithm       Algorithm `json:"algorithm"`
	Phase           Phase     `json:"phase"`
	Created         time.Time `json:"created"`
	PhaseSince      time.Time `json:"since"`
	RemoveAfter     time.Time `json:"until,omitzero"`
	MaxTokenSeconds int64     `json:"longestSeconds,omitempty"`
	Reencrypted     bool      `json:"resealed,omitempty"`
	DeadlineSeen    bool      `json:"confirmed,omitempty"`
	Public          []byte    `json:"public"` // SubjectPublicKeyInfo
}

// Files returns the persistent form of a ring: ring.json with its state and the public halves, and one <kid>.pem for
// each private half that is still needed. It is the data of a Secret, a mounted directory, or a JSON column. The same
// ring gives the same bytes.
func (r Ring) Files() map[string][]byte {
	files := map[string][]byte{ringFile: r.marshal()}
	for _, k := range r.Keys {
		if k.Encrypted != nil {
			files[k.ID+pemSuffix] = bytes.Clone(k.Encrypted)
		}
	}
	return files
}

// marshal writes ring.json. A Generated key is written as Published with a phase that
// begins when the key was created; see Key.publish. Older programs read it so, too.
func (r Ring) marshal() []byte {
	r = r.clone()
	r.sort()
	out := ringJSON{Version: ringVersion, Generation: r.Generation, Rotated: r.Rotated, Keys: []keyJSON{}}
	for _, k := range r.Keys {
		public, err := marshalPublic(k.Public)
		if err != nil { // only a key of another type fails, and a ring has none
			panic("keys: a key of an unknown type in a ring: " + err.Error())
		}
		out.Keys = append(out.Keys, keyJSON{
			ID: k.ID, Use: k.Use, Algorithm: k.Algorithm, Phase: k.Phase.Public(),
			Created: whole(k.Created), PhaseSince: whole(k.PhaseSince), RemoveAfter: whole(k.RemoveAfter),
			MaxTokenSeconds: seconds(k.MaxTokenLifetime), Reencrypted: k.Reencrypted, DeadlineSeen: k.DeadlineSeen,
			Public: public,
		})
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil { // only a year after 9999 fails; Policy.Check and FromFiles exclude it
		panic("keys: " + err.Error())
	}
	return append(text, '\n')
}

// whole rounds a time up to a second in UTC. It rounds up because each stored time
// starts or ends a wait that must not become shorter by being stored.
func whole(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Add(time.Second - 1).UTC().Truncate(time.Second)
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// FromFiles reads the form that Files writes. It is strict: a ring that it returns is consistent, and an error
// (ErrDamaged) says what to do. It ignores files other than ring.json that do not end in .pem.
func FromFiles(files map[string][]byte) (Ring, error) {
	ring, err := fromFiles(files)
	if err != nil {
		return Ring{}, fmt.Errorf("keys: %w: %w; restore it from a backup, or request a new ring, which ends every session",
			ErrDamaged, err)
	}
	return ring, nil
}

func fromFiles(files map[string][]byte) (Ring, error) {
	text, ok := files[ringFile]
	if !ok {
		return Ring{}, errors.New("ring.json is missing")
	}
	if len(text) > maxRingFile {
		return Ring{}, fmt.Errorf("ring.json is longer than %d bytes", maxRingFile)
	}
	var in ringJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return Ring{}, fmt.Errorf("ring.json does not parse: %w", err)
	}
	if in.Version != ringVersion {
		return Ring{}, fmt.Errorf("ring.json has version %d, and this program reads version %d; "+
			"run a newer program", in.Version, ringVersion)
	}
	if in.Generation < 0 {
		return Ring{}, errors.New("ring.json has a negative generation")
	}
	ring := Ring{Generation: in.Generation, Rotated: in.Rotated}
	for _, kj := range in.Keys {
		k, err := kj.key()
		if err != nil {
			return Ring{}, fmt.Errorf("key %.64q: %w", kj.ID, err)
		}
		if k.Phase == Published && k.PhaseSince.Equal(k.Created) {
			k.Phase = Generated
		}
		if encrypted, ok := files[k.ID+pemSuffix]; ok {
			k.Encrypted = bytes.Clone(encrypted)
		}
		ring.Keys = append(ring.Keys, k)
	}
	if err := ring.check(); err != nil {
		return Ring{}, err
	}
	for name := range files {
		id, isPEM := strings.CutSuffix(name, pemSuffix)
		if _, known := ring.Key(id); isPEM && !known {
			return Ring{}, fmt.Errorf("%.80q is not a key in ring.json", name)
		}
	}
	// Writing it again must give the same bytes. That rejects everything that encoding/json tolerates: duplicate or
	// unknown members, members in another case, times and base64 in another spelling.
	if !bytes.Equal(ring.marshal(), text) {
		return Ring{}, errors.New("ring.json differs from what this program writes; " +
			"it was edited, or written by another version")
	}
	return ring, nil
}

func (kj keyJSON) key() (Key, error) {
	public, err := x509.ParsePKIXPublicKey(kj.Public)
	if err != nil {
		return Key{}, errors.New("its public half does not parse")
	}
	if err := checkPublic(kj.Algorithm, public); err != nil {
		return Key{}, err
	}
	if thumbprint(public) != kj.ID {
		return Key{}, errors.New("its kid is not the RFC 7638 thumbprint of its public half; the public half was replaced")
	}
	if kj.MaxTokenSeconds < 0 || kj.MaxTokenSeconds > seconds(maxLifetime) {
		return Key{}, errors.New("longestSeconds is out of bounds")
	}
	for _, t := range []time.Time{kj.Created, kj.PhaseSince, kj.RemoveAfter} {
		if y := t.Year(); y < 1 || y > 9900 {
			return Key{}, fmt.Errorf("a time is in the year %d", y)
		}
	}
	return Key{
		ID: kj.ID, Use: kj.Use, Algorithm: kj.Algorithm, Phase: kj.Phase, Public: public,
		Created: kj.Created, PhaseSince: kj.PhaseSince, RemoveAfter: kj.RemoveAfter,
		MaxTokenLifetime: time.Duration(kj.MaxTokenSeconds) * time.Second,
		Reencrypted:      kj.Reencrypted, DeadlineSeen: kj.DeadlineSeen,
	}, nil
}

// check returns an error if a ring is inconsistent.
func (r Ring) check() error {
	seen := map[string]bool{}
	for _, use := range Uses() {
		count, signing := 0, 0
		for _, k := range r.Keys {
			if k.Use != use {
				continue
			}
			count++
			if k.Phase == Signing {
				signing++
			}
		}
		if count > maxKeysPerUse {
			return fmt.Errorf("there are %d %s keys; the maximum is %d", count, use, maxKeysPerUse)
		}
		if count > 0 && signing != 1 {
			return fmt.Errorf("%d %s keys sign, but exactly one must", signing, use)
		}
	}
	for use, rotate := range r.Rotated {
		if use != Access && use != Refresh || len(rotate) > maxRotate {
			return fmt.Errorf("rotated is out of bounds for %.20q", string(use))
		}
	}
	for _, k := range r.Keys {
		if k.Use != Access && k.Use != Refresh {
			return fmt.Errorf("key %s has the kind %.20q, which is neither access nor refresh", k.ID, string(k.Use))
		}
		if seen[k.ID] { // twice in one use is a mistake, once in each a forgery
			return fmt.Errorf("key %s appears twice; access and refresh tokens need different keys", k.ID)
		}
		seen[k.ID] = true
		if err := k.check(); err != nil {
			return fmt.Errorf("key %s: %w", k.ID, err)
		}
	}
	return nil
}

func (k Key) check() error {
	switch k.Phase {
	case Generated, Published, Signing:
		if k.Encrypted == nil {
			return fmt.Errorf("its private half %s%s is missing", k.ID, pemSuffix)
		}
		if _, err := pbes2.Parse(k.Encrypted); err != nil {
			return fmt.Errorf("its private half %s%s cannot be read: %w", k.ID, pemSuffix, err)
		}
		if !k.RemoveAfter.IsZero() {
			return fmt.Errorf("a %s key must not have until", k.Phase)
		}
	case Retiring, Revoked:
		if k.Encrypted != nil {
			return fmt.Errorf("a %s key must not have a private half, %s%s", k.Phase, k.ID, pemSuffix)
		}
		if k.RemoveAfter.IsZero() {
			return fmt.Errorf("a %s key must have until", k.Phase)
		}
	default:
		return fmt.Errorf("its phase %.20q is not one of Generated, Published, Signing, Retiring, Revoked", string(k.Phase))
	}
	if k.Created.IsZero() || k.PhaseSince.IsZero() {
		return errors.New("created or since is missing")
	}
	return nil
}

package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// fullRing returns a ring with a key in every phase and with two algorithms.
func fullRing(t *testing.T) Ring {
	t.Helper()
	s := newStory(t)
	s.policy.Algorithm = EdDSA
	s.rotate("1")
	s.policy.Rotate = "2"
	s.settle()
	retiring := s.ring.Keys[0].ID
	s.policy.Revoked = []string{retiring}
	s.settle()
	s.policy.Rotate = "3"
	s.lead()
	s.policy.Rotate = "4"
	s.settle()
	s.policy.Rotate, s.assumeSeen = "", false
	s.policy.Revoked = append(s.policy.Revoked, s.ring.Keys[len(s.ring.Keys)-1].ID)
	s.policy.Rotate = "5"
	s.settle()
	return s.ring
}

func TestFilesHaveTheWholeRing(t *testing.T) {
	ring := fullRing(t)
	for _, phase := range []Phase{Generated, Published, Signing, Retiring, Revoked} {
		if count(ring, func(k Key) bool { return k.Phase == phase }) == 0 {
			t.Fatalf("no key is %s", phase)
		}
	}
	files := ring.Files()
	back := testenv.Must(FromFiles(files))(t)
	same := cmp.Comparer(func(a, b crypto.PublicKey) bool {
		return a.(interface{ Equal(crypto.PublicKey) bool }).Equal(b)
	})
	if diff := cmp.Diff(ring, back, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Public" }, same)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(files, back.Files()); diff != "" {
		t.Error(diff)
	}
	// The order of keys in memory does not matter.
	shuffled := ring.clone()
	for i := range shuffled.Keys[1:] {
		shuffled.Keys[i], shuffled.Keys[i+1] = shuffled.Keys[i+1], shuffled.Keys[i]
	}
	if diff := cmp.Diff(files, shuffled.Files()); diff != "" {
		t.Error(diff)
	}
	files["README"] = []byte("other files do not matter")
	if _, err := FromFiles(files); err != nil {
		t.Error(err)
	}
	if back, err := FromFiles(Ring{}.Files()); err != nil || len(back.Keys) != 0 || back.Generation != 0 {
		t.Errorf("the empty ring: %v, %v", back, err)
	}
}

// A person, a failing disk or an attacker could leave such files.
func TestFilesOfADamagedRingAreRefused(t *testing.T) {
	ring := fullRing(t)
	text := string(ring.Files()[ringFile])
	signing, _ := ring.Signing(Access)
	refresh, _ := ring.Signing(Refresh)
	var retiring Key
	for _, k := range ring.Keys {
		if k.Phase == Retiring {
			retiring = k
		}
	}
	pemOf := func(k Key) string { return k.ID + pemSuffix }
	json := func(old, new string) func(map[string][]byte) {
		return func(f map[string][]byte) {
			if !strings.Contains(text, old) {
				panic("nothing to replace: " + old)
			}
			f[ringFile] = []byte(strings.Replace(text, old, new, 1))
		}
	}
	rebuilt := func(change func(*Ring)) func(map[string][]byte) {
		return func(f map[string][]byte) {
			r := ring.clone()
			change(&r)
			clear(f)
			for name, content := range r.Files() {
				f[name] = content
			}
		}
	}
	add := func(a Algorithm, public crypto.PublicKey) func(map[string][]byte) {
		return rebuilt(func(r *Ring) {
			k := retiring
			k.Algorithm, k.Public, k.ID = a, public, thumbprint(public)
			r.Keys = append(r.Keys, k)
		})
	}
	weak := func(bits, e int) *rsa.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: e}
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	publicText := regexp.MustCompile(`"public": "[^"]*"`).FindAllString(text, -1)

	for name, damage := range map[string]func(map[string][]byte){
		"no ring.json":             func(f map[string][]byte) { delete(f, ringFile) },
		"empty ring.json":          func(f map[string][]byte) { f[ringFile] = nil },
		"half of ring.json":        func(f map[string][]byte) { f[ringFile] = f[ringFile][:len(text)/2] },
		"ring.json with a tail":    func(f map[string][]byte) { f[ringFile] = append(f[ringFile], 'x') },
		"null":                     func(f map[string][]byte) { f[ringFile] = []byte("null") },
		"far too big":              func(f map[string][]byte) { f[ringFile] = bytes.Repeat([]byte(" "), maxRingFile+1) },
		"an unknown version":       json(`"version": 1`, `"version": 2`),
		"an unknown member":        json(`"version": 1`, `"version": 1, "note": ""`),
		"a member given twice":     json(`"version": 1`, `"version": 1, "version": 1`),
		"a member in other case":   json(`"version": 1`, `"Version": 1`),
		"a negative generation":    json(`"generation": `, `"generation": -`),
		"white space":              json("\n", "\n\n"),
		"an unknown phase":         json(`"Retiring"`, `"Resting"`),
		"an unknown kind":          json(`"access"`, `"root"`),
		"an unknown algorithm":     json(`"EdDSA"`, `"HS256"`),
		"the algorithm exchanged":  json(`"EdDSA"`, `"ES256"`),
		"a kid exchanged":          json(signing.ID, strings.Repeat("A", 43)),
		"a kid that is a path":     json(signing.ID, "../../../etc/passwd"),
		"public halves exchanged":  json(publicText[0], publicText[len(publicText)-1]),
		"a public half cut short":  json(publicText[0], publicText[0][:40]+`"`),
		"a time of another zone":   json(`:00Z"`, `:00+01:00"`),
		"a year beyond reason":     json(`"created": "2026`, `"created": "9999`),
		"a private half missing":   func(f map[string][]byte) { delete(f, pemOf(signing)) },
		"a private half empty":     func(f map[string][]byte) { f[pemOf(signing)] = []byte{} },
		"a private half cut short": func(f map[string][]byte) { f[pemOf(signing)] = f[pemOf(signing)][:90] },
		"a private half too many":  func(f map[string][]byte) { f[pemOf(retiring)] = f[pemOf(signing)] },
		"a stray private half":     func(f map[string][]byte) { f["stray.pem"] = f[pemOf(signing)] },
		"a kid twice":              rebuilt(func(r *Ring) { r.Keys = append(r.Keys, retiring) }),
		"two that sign": rebuilt(func(r *Ring) {
			for i := range r.Keys {
				if r.Keys[i].Phase == Published {
					r.Keys[i].Phase = Signing
				}
			}
		}),
		"none that signs": rebuilt(func(r *Ring) { r.remove(signing.ID) }),
		"one key for both kinds": rebuilt(func(r *Ring) {
			k := signing
			k.Use = Refresh
			r.remove(refresh.ID)
			r.Keys = append(r.Keys, k)
		}),
		"too many keys": rebuilt(func(r *Ring) {
			for range maxKeysPerUse {
				private, _ := generate(EdDSA)
				k := retiring
				k.Algorithm, k.Public, k.ID = EdDSA, private.Public(), thumbprint(private.Public())
				r.Keys = append(r.Keys, k)
			}
		}),
		"RSA of 1024 bits":   add(RS256, weak(1024, 65537)),
		"RSA of 16384 bits":  add(RS256, weak(16384, 65537)),
		"RSA with e=1":       add(RS256, weak(3072, 1)),
		"RSA with e=3":       add(RS256, weak(3072, 3)),
		"RSA with an even e": add(RS256, weak(3072, 65538)),
		"P-384": func(f map[string][]byte) {
			der, _ := marshalPublic(p384.Public())
			json(publicText[0], fmt.Sprintf(`"public": %q`, base64.StdEncoding.EncodeToString(der)))(f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := ring.Files()
			damage(files)
			_, err := FromFiles(files)
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("err = %v, want ErrDamaged", err)
			}
			if len(err.Error()) > 1000 || !strings.Contains(err.Error(), "restore it from a backup") {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzFromFiles(f *testing.F) {
	ring, err := apply(modelFactory, Ring{}, nextStep(Ring{}, testPolicy(), Observed{}, start), testPassphrases)
	if err != nil {
		f.Fatal(err)
	}
	files := ring.Files()
	name := ring.Keys[0].ID + pemSuffix
	f.Add(files[ringFile], name, files[name])
	f.Add(files[ringFile][:50], name, files[name])
	f.Add(files[ringFile], name, files[name][:50])
	f.Add([]byte(`{"version":1,"keys":[{}]}`), "x.pem", []byte{})
	f.Add([]byte(`{"version":1,"generation":9223372036854775807,"keys":null}`), "", []byte{})
	f.Add(bytes.Replace(files[ringFile], []byte("2026"), []byte("0000"), 3), name, files[name])
	f.Fuzz(func(t *testing.T, ringJSON []byte, name string, content []byte) {
		in := map[string][]byte{name: content, ringFile: ringJSON}
		r, err := FromFiles(in)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(r.marshal(), ringJSON) {
			t.Error("the ring changed when it was written back")
		}
		// A ring that was read must not break the next step.
		step := nextStep(r, testPolicy(), Observed{AssumeSeen: true}, start)
		if _, err := apply(modelFactory, r, step, testPassphrases); err != nil && step.Action != Reencrypt {
			t.Errorf("%v: %v", step, err)
		}
		PublicFiles(r, "https://auth.example")
	})
}

// ring.json has no phase Generated, because programs of earlier versions read it: such a key is Published there, and
// its phase begins when the key was created. A key that is seen within the same second stays Published.
func TestFilesKeepGeneratedKeysApart(t *testing.T) {
	k := newKeeper(t)
	k.seen = false
	k.policy.Rotate = "now"
	k.passes()
	unseen := k.ring
	k.seen = true
	k.pass()
	for _, tt := range []struct {
		ring  Ring
		phase Phase
	}{{unseen, Generated}, {k.ring, Published}} {
		old := tt.ring.Files()
		if bytes.Contains(old[ringFile], []byte(Generated)) || !bytes.Contains(old[ringFile], []byte(`"version": 1`)) {
			t.Fatalf("earlier programs do not read it:\n%s", old[ringFile])
		}
		back := testenv.Must(FromFiles(old))(t)
		if !bytes.Equal(back.Files()[ringFile], tt.ring.Files()[ringFile]) {
			t.Errorf("%s: another ring was read:\n%s", tt.phase, back.Files()[ringFile])
		}
		if key, _ := back.Key(waiting(tt.ring).ID); key.Phase != tt.phase {
			t.Errorf("a key that was %s was read as %s", tt.phase, key.Phase)
		}
		// The passage of time does not make an unseen key sign.
		k.ring, k.seen, k.published = back, false, tt.phase == Published
		k.now = k.now.Add(100 * k.policy.prePublication())
		for _, step := range k.pass().Steps {
			if step.Reason != DeadlineReached || tt.phase == Generated {
				t.Errorf("%s: %v", tt.phase, step)
			}
		}
		if key, _ := k.ring.Key(waiting(back).ID); key.Phase != tt.phase {
			t.Errorf("the phase changed from %s to %s", tt.phase, key.Phase)
		}
	}
}

func waiting(ring Ring) Key {
	for _, k := range ring.Keys {
		if k.waits() {
			return k
		}
	}
	return Key{}
}

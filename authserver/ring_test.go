package authserver_test

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"maps"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/keys"
)

// seed puts a ring into a database, so that replicas start at once: making a
// ring takes seconds of work that is slow on purpose, and opening one does too.
func seed(t testing.TB, db postgres.Config) {
	t.Helper()
	ring, err := preparedRing()
	if err != nil {
		t.Fatal(err)
	}
	store, err := postgres.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if swapped, err := store.SwapRing(t.Context(), 0, ring.generation, ring.files, identity.Event{}); err != nil || !swapped {
		t.Fatalf("the ring was put there: %v, %v", swapped, err)
	}
}

type sealedRing struct {
	generation int64
	files      map[string][]byte
}

func testPassphrases() keys.Passphrases {
	return keys.Passphrases{Access: []string{accessPassphrase}, Refresh: []string{refreshPassphrase}}
}

func testPolicy() keys.Policy {
	return keys.Policy{
		Algorithm: keys.ES256, RotationInterval: 720 * time.Hour, PublishLead: 10 * time.Minute, ClockSkew: time.Minute,
		Lifetimes: map[keys.Use]time.Duration{keys.Access: 15 * time.Minute, keys.Refresh: 168 * time.Hour},
	}
}

// settle does all that is to be done with a ring at one moment. Its keys are
// sealed with the test's passphrases, so nothing has to be opened to know that.
func settle(ring keys.Ring, policy keys.Policy, now time.Time) (keys.Ring, error) {
	for {
		encryption := map[string]keys.Encryption{}
		for _, k := range ring.Keys {
			encryption[k.ID] = keys.EncryptedCurrent
		}
		step := keys.Next(ring, policy, keys.Observed{Encryption: encryption, Seen: keys.SeenEverywhere}, now)
		if step.Action == keys.None {
			return ring, nil
		}
		var err error
		if ring, err = keys.Apply(ring, step, testPassphrases()); err != nil {
			return ring, err
		}
	}
}

// preparedRing is one and the same ring for all tests, made as a server does,
// and then sealed anew by a derivation of a single round.
var preparedRing = sync.OnceValues(func() (*sealedRing, error) {
	ring, err := settle(keys.Ring{}, testPolicy(), time.Now())
	if err != nil {
		return nil, err
	}
	opened, err := keys.Open(ring, testPassphrases())
	if err != nil {
		return nil, err
	}
	files := ring.Files()
	for use, passphrase := range map[keys.Use]string{keys.Access: accessPassphrase, keys.Refresh: refreshPassphrase} {
		signer := opened.Signer(use)
		sealed, err := seal(signer.Private, passphrase, 1)
		if err != nil {
			return nil, err
		}
		name := signer.ID + ".pem"
		if files[name] == nil {
			return nil, fmt.Errorf("the ring has no %s", name)
		}
		files[name] = sealed
	}
	return &sealedRing{ring.Generation, files}, nil
})

// A rotation is a prepared ring at the moments of a rotation: the first keys
// sign; their successors are published; those sign, and the first ones retire.
// In revoked, the first access key was revoked while its successor waited.
type rotation struct {
	first, published, promoted, revoked keys.Ring

	former, successor map[keys.Use]string // kids
	private           map[string]crypto.Signer
	sealed            map[string]string // of one round, by the name of the file
}

func prepareRotation(t testing.TB) *rotation {
	t.Helper()
	r, err := preparedRotation()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var preparedRotation = sync.OnceValues(func() (*rotation, error) {
	prepared, err := preparedRing()
	if err != nil {
		return nil, err
	}
	r := &rotation{
		former: map[keys.Use]string{}, successor: map[keys.Use]string{},
		private: map[string]crypto.Signer{}, sealed: map[string]string{},
	}
	if r.first, err = keys.FromFiles(prepared.files); err != nil {
		return nil, err
	}
	policy, now := testPolicy(), time.Now()
	policy.Rotate = "once"
	if r.published, err = settle(r.first, policy, now); err != nil {
		return nil, err
	}
	r.promoted = r.published
	for range 2 { // each wait of a key is done twice
		now = now.Add(30 * time.Minute)
		if r.promoted, err = settle(r.promoted, policy, now); err != nil {
			return nil, err
		}
	}
	signing, _ := r.first.Signing(keys.Access)
	policy.Revoked = []string{signing.ID}
	if r.revoked, err = settle(r.published, policy, time.Now()); err != nil {
		return nil, err
	}
	for ring, kids := range map[*keys.Ring]map[keys.Use]string{&r.first: r.former, &r.promoted: r.successor} {
		opened, err := keys.Open(*ring, testPassphrases())
		if err != nil {
			return nil, err
		}
		for use, passphrase := range map[keys.Use]string{keys.Access: accessPassphrase, keys.Refresh: refreshPassphrase} {
			signer := opened.Signer(use)
			sealed, err := seal(signer.Private, passphrase, 1)
			if err != nil {
				return nil, err
			}
			kids[use], r.private[signer.ID], r.sealed[signer.ID+".pem"] = signer.ID, signer.Private, string(sealed)
		}
	}
	return r, nil
})

// files gives a ring as a mounted Secret has it.
func (r *rotation) files(ring keys.Ring) map[string]string {
	files := map[string]string{}
	for name, text := range ring.Files() {
		files[name] = string(text)
		if sealed, ok := r.sealed[name]; ok {
			files[name] = sealed
		}
	}
	return files
}

// resealed gives the files of a ring in its next generation, with all private
// halves sealed by other passphrases, in so many rounds.
func (r *rotation) resealed(t testing.TB, ring keys.Ring, passphrases map[keys.Use]string, rounds int) map[string]string {
	t.Helper()
	files := r.files(ring)
	for _, k := range ring.Keys {
		if k.Encrypted == nil {
			continue
		}
		sealed, err := seal(r.private[k.ID], passphrases[k.Use], rounds)
		if err != nil {
			t.Fatal(err)
		}
		files[k.ID+".pem"] = string(sealed)
	}
	return renumbered(t, files, ring.Generation+1)
}

// renumbered gives the files of a ring in another generation.
func renumbered(t testing.TB, files map[string]string, generation int64) map[string]string {
	t.Helper()
	files = maps.Clone(files)
	line := regexp.MustCompile(`"generation": [0-9]+,`)
	if len(line.FindAllString(files["ring.json"], -1)) != 1 {
		t.Fatalf("ring.json has no generation:\n%s", files["ring.json"])
	}
	files["ring.json"] = line.ReplaceAllString(files["ring.json"], fmt.Sprintf(`"generation": %d,`, generation))
	return files
}

// seal makes the PEM "ENCRYPTED PRIVATE KEY" of package keys with so many rounds
// of PBKDF2.
func seal(private any, passphrase string, rounds int) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	_, _ = rand.Read(salt)
	_, _ = rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, rounds, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	for range padding {
		plain = append(plain, byte(padding))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)

	algorithm := func(oid asn1.ObjectIdentifier, parameters any) pkix.AlgorithmIdentifier {
		der, marshalErr := asn1.Marshal(parameters)
		if marshalErr != nil {
			err = marshalErr
		}
		return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: der}}
	}
	pkcs5 := func(last ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 2, 840, 113549}, last...)
	}
	der, marshalErr := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{
		algorithm(pkcs5(1, 5, 13), struct{ KDF, Encryption pkix.AlgorithmIdentifier }{
			algorithm(pkcs5(1, 5, 12), struct {
				Salt   []byte
				Rounds int
				PRF    pkix.AlgorithmIdentifier
			}{salt, rounds, algorithm(pkcs5(2, 9), asn1.NullRawValue)}),
			algorithm(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, iv),
		}),
		plain,
	})
	if err != nil || marshalErr != nil {
		return nil, fmt.Errorf("seal: %w, %w", err, marshalErr)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

package authserver_test

import (
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
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/postgres"
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
	if swapped, err := store.SwapRing(t.Context(), 0, ring.generation, ring.files); err != nil || !swapped {
		t.Fatalf("the ring was put there: %v, %v", swapped, err)
	}
}

type sealedRing struct {
	generation int64
	files      map[string][]byte
}

// preparedRing is one and the same ring for all tests, made as a server does,
// and then sealed anew by a derivation of a single round.
var preparedRing = sync.OnceValues(func() (*sealedRing, error) {
	pass := keys.Passphrases{Access: []string{accessPassphrase}, Refresh: []string{refreshPassphrase}}
	policy := keys.Policy{
		Algorithm: keys.ES256, RotationInterval: 720 * time.Hour, PublishLead: 10 * time.Minute, ClockSkew: time.Minute,
		Lifetimes: map[keys.Kind]time.Duration{keys.Access: 15 * time.Minute, keys.Refresh: 168 * time.Hour},
	}
	var ring keys.Ring
	for {
		step := keys.Next(ring, policy, keys.Observed{Seals: keys.Inspect(ring, pass), Seen: keys.SeenEverywhere}, time.Now())
		if step.Action == keys.None {
			break
		}
		var err error
		if ring, err = keys.Apply(ring, step, pass); err != nil {
			return nil, err
		}
	}
	opened, err := keys.Open(ring, pass)
	if err != nil {
		return nil, err
	}
	files := ring.Files()
	for kind, passphrase := range map[keys.Kind]string{keys.Access: accessPassphrase, keys.Refresh: refreshPassphrase} {
		signer := opened.Signer(kind)
		sealed, err := sealCheaply(signer.Private, passphrase)
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

// sealCheaply makes the PEM "ENCRYPTED PRIVATE KEY" of package keys with one
// round of PBKDF2.
func sealCheaply(private any, passphrase string) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	_, _ = rand.Read(salt)
	_, _ = rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, 1, 32)
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
			}{salt, 1, algorithm(pkcs5(2, 9), asn1.NullRawValue)}),
			algorithm(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, iv),
		}),
		plain,
	})
	if err != nil || marshalErr != nil {
		return nil, fmt.Errorf("seal: %w, %w", err, marshalErr)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

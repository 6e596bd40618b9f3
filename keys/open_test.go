package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

func TestOpenGivesSignersAndPublicKeys(t *testing.T) {
	ring := fullRing(t)
	o := testenv.Must(Open(ring, testPassphrases))(t)
	for _, use := range Uses() {
		k, _ := ring.Signing(use)
		s := o.Signer(use)
		if s.ID != k.ID || s.Algorithm != k.Algorithm {
			t.Errorf("%s signs, want %s", s.ID, k.ID)
		}
		if err := checkPair(k.Algorithm, s.Private, k.Public); err != nil {
			t.Error(err)
		}
		verifying := 0
		for _, k := range ring.Keys {
			p, ok := o.PublicKey(use, k.ID)
			if want := k.Use == use && k.Phase != Revoked; ok != want ||
				ok && (p.ID != k.ID || p.Algorithm != k.Algorithm || p.MaxTokenLifetime != k.MaxTokenLifetime) {
				t.Errorf("a %s key: PublicKey returns %v, %+v", k.Phase, ok, p)
			} else if ok {
				verifying++
			}
			if k.waits() && o.Ready(k.ID) || k.Phase == Signing && !o.Ready(k.ID) {
				t.Errorf("a %s key: ready %v", k.Phase, o.Ready(k.ID))
			}
		}
		if got := len(o.PublicKeys(use)); got != verifying {
			t.Errorf("%d public keys, want %d", got, verifying)
		}
	}
	testenv.NoError(t, o.Prepare())
	for _, k := range ring.Keys {
		if o.Ready(k.ID) != k.needsPrivate() {
			t.Errorf("a %s key: ready %v after Prepare", k.Phase, o.Ready(k.ID))
		}
	}
	for id, encryption := range o.OpenedBy().Encryption(ring, o.passphrases) {
		if encryption != EncryptedCurrent {
			t.Errorf("%s: %v", id, encryption)
		}
	}
}

func TestOpenNamesAWrongPassphrase(t *testing.T) {
	ring := fullRing(t)
	for _, tt := range []struct {
		name        string
		passphrases Passphrases
		kind        Use
	}{
		{"wrong for access", Passphrases{Access: []string{"hunter2 hunter2"}, Refresh: testPassphrases.Refresh}, Access},
		{"wrong for refresh", Passphrases{Access: testPassphrases.Access, Refresh: []string{"hunter2 hunter2", "hunter2 too"}}, Refresh},
		{"exchanged", Passphrases{Access: testPassphrases.Refresh, Refresh: testPassphrases.Access}, Access},
		{"missing", Passphrases{Refresh: testPassphrases.Refresh}, Access},
		{"empty", Passphrases{Access: []string{""}, Refresh: testPassphrases.Refresh}, Access},
	} {
		_, err := Open(ring, tt.passphrases)
		if !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: err = %v, want ErrPassphrase", tt.name, err)
			continue
		}
		k, _ := ring.Signing(tt.kind)
		if text := err.Error(); !strings.Contains(text, tt.kind.setting()) || !strings.Contains(text, string(tt.kind)) ||
			len(tt.passphrases.Access) > 0 && tt.passphrases.Access[0] != "" && !strings.Contains(text, k.ID) {
			t.Errorf("%s: %s", tt.name, text)
		}
		for _, secret := range append(tt.passphrases.Access, tt.passphrases.Refresh...) {
			if secret != "" && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error contains the passphrase", tt.name)
			}
		}
	}
}

func TestOpenTriesFormerPassphrases(t *testing.T) {
	ring := fullRing(t)
	p := Passphrases{Access: []string{"new", "older", testPassphrases.Access[0]}, Refresh: testPassphrases.Refresh}
	o := testenv.Must(Open(ring, p))(t)
	for _, k := range ring.Keys {
		want := EncryptedCurrent
		if k.Use == Access {
			want = EncryptedFormer
		}
		if encryption, ok := o.OpenedBy().Encryption(ring, o.passphrases)[k.ID]; ok != k.needsPrivate() || ok && encryption != want {
			t.Errorf("%s %s: %v", k.Use, k.Phase, encryption)
		}
	}
}

// The private half belongs to another key, and is correctly encrypted with our passphrase.
func TestOpenRefusesAPrivateHalfOfAnotherKey(t *testing.T) {
	ring := fullRing(t)
	k, _ := ring.Signing(Access)
	other, _ := generate(k.Algorithm)
	encrypted, _ := pbes2.Encrypt(other, testPassphrases.Access[0], 1)
	for i := range ring.Keys {
		if ring.Keys[i].ID == k.ID {
			ring.Keys[i].Encrypted = encrypted
		}
	}
	if _, err := Open(ring, testPassphrases); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), k.ID) {
		t.Errorf("err = %v, want ErrDamaged", err)
	}
	if encryption := inspect(ring, testPassphrases)[k.ID]; encryption != EncryptedUnknown {
		t.Errorf("encryption %v, want EncryptedUnknown", encryption)
	}
}

func TestReopenDecryptsNothingAgain(t *testing.T) {
	ring := newStory(t).ring
	o := testenv.Must(Open(ring, testPassphrases))(t)
	again := testenv.Must(o.Reopen(ring, testPassphrases))(t)
	for _, use := range Uses() { // a key that is decrypted again has another address
		if was, is := o.Signer(use), again.Signer(use); is.ID != was.ID || is.Private == nil || is.Private != was.Private {
			t.Errorf("the %s key was decrypted again, or does not sign", use)
		}
	}
	if _, err := Open(Ring{}, testPassphrases); err == nil {
		t.Error("an empty ring was opened")
	}
	// Reopen notices that the passphrases are now wrong.
	if _, err := o.Reopen(ring, Passphrases{Access: []string{"wrong"}, Refresh: []string{"wrong"}}); !errors.Is(err, ErrPassphrase) {
		t.Errorf("err = %v", err)
	}
}

func TestOpenIsSafeForConcurrentUse(t *testing.T) {
	o := testenv.Must(Open(fullRing(t), testPassphrases))(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := o.Prepare(); err != nil {
				t.Error(err)
			}
			for _, k := range o.Ring().Keys {
				o.Ready(k.ID)
				o.PublicKey(k.Use, k.ID)
			}
			o.Signer(Access)
			if _, err := o.Reopen(o.Ring(), testPassphrases); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPassphrasesDoNotPrint(t *testing.T) {
	p := Passphrases{Access: []string{"secret one"}, Refresh: []string{"secret two"}}
	o := &Opened{passphrases: p}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&out, verb, p)
		fmt.Fprintf(&out, verb, &p)
		fmt.Fprintf(&out, verb, struct{ P Passphrases }{p})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "p", p, "o", o.passphrases)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "p", p)
	if strings.Contains(out.String(), "secret") || strings.Contains(out.String(), "736563726574") {
		t.Errorf("a passphrase was printed: %s", out.String())
	}
}

// The test checks all files that consumers read.
func TestPublicFilesAreWhatConsumersRead(t *testing.T) {
	ring := fullRing(t)
	files := PublicFiles(ring, "https://auth.example")
	refresh := RefreshPublicFiles(ring)
	for _, k := range ring.Keys {
		if pem := PublicFile(k.ID); files[pem] != nil && refresh[pem] != nil || files[pem] != nil && k.Use != Access {
			t.Errorf("a %s key is in both or in the wrong directory", k.Use)
		}
	}
	if len(refresh["refresh.jwks.json"]) == 0 || !bytes.Equal(files["jwks"], files["jwks.json"]) {
		t.Error("a key set is missing, or jwks differs from jwks.json")
	}
	maps.Copy(files, refresh)
	var keysJSON struct {
		Issuer     string
		Generation int64
		Keys       []struct{ Kid, Kind, Algorithm, Phase, Since, Until string }
	}
	testenv.NoError(t, json.Unmarshal(files["keys.json"], &keysJSON))
	if keysJSON.Issuer != "https://auth.example" || keysJSON.Generation != ring.Generation || len(keysJSON.Keys) != len(ring.Keys) {
		t.Errorf("%+v", keysJSON)
	}
	want := 4
	for _, k := range ring.Keys {
		if text, ok := files[k.ID+".pem"]; ok != k.verifies() {
			t.Errorf("a %s key: published %v", k.Phase, ok)
		} else if ok {
			want++
			if !bytes.HasPrefix(text, []byte("-----BEGIN PUBLIC KEY-----")) {
				t.Errorf("%s", text)
			}
		}
		in := map[Use]bool{}
		for _, use := range Uses() {
			for _, j := range JWKS(ring, use, true).Keys {
				in[use] = in[use] || j.ID == k.ID
				if j.ID == k.ID && !bytes.Equal([]byte(j.PEM), files[k.ID+".pem"]) {
					t.Error("the pem member is not the file")
				}
			}
		}
		if in[k.Use] != k.verifies() || in[Access] && in[Refresh] {
			t.Errorf("a %s %s key is in %v", k.Phase, k.Use, in)
		}
	}
	if len(files) != want {
		t.Errorf("%d files, want %d", len(files), want)
	}
	for name, text := range files {
		for _, private := range []string{`"d"`, `"p"`, `"q"`, `"dp"`, `"dq"`, `"qi"`, `"k"`, "PRIVATE"} {
			if bytes.Contains(text, []byte(private)) {
				t.Errorf("%s has %s", name, private)
			}
		}
	}
	if empty := JWKS(Ring{}, Access, false); string(document(empty)) != "{\n  \"keys\": []\n}\n" {
		t.Errorf("%s", document(empty))
	}
}

// RFC 7518, section 6.2.1.2: leading zeros stay. One key in 128 has some.
func TestCoordinatesAreAlways43Characters(t *testing.T) {
	for range 1000 {
		private := testenv.Must(generate(ES256))(t)
		k := Key{Use: Access, Algorithm: ES256, Phase: Signing, Public: private.Public()}
		if j := jwk(k); len(j.X) != 43 || len(j.Y) != 43 {
			t.Fatalf("x has %d characters, y %d", len(j.X), len(j.Y))
		}
		if id := thumbprint(private.Public()); len(id) != 43 {
			t.Fatalf("the kid %s does not have 43 characters", id)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	ring, err := Reconcile(Input{ // with the rounds of the product
		Policy: testPolicy(), Now: start, Observed: Observed{AssumeSeen: true},
		Passphrases: PassphraseState{Current: map[Use]string{Access: testPassphrases.Access[0], Refresh: testPassphrases.Refresh[0]}},
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Open(ring.Ring, testPassphrases); err != nil {
			b.Fatal(err)
		}
	}
}

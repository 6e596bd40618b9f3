package hashes

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // only to check passwords of systems that used it, inside bcrypt
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"
)

const (
	// None is stored for an account without a password.
	None = "!"

	// Migrating is stored for an account whose password only the system knows that it comes from. It has the form of a
	// hash, so that the index of schemes finds it.
	Migrating = MigratingScheme + "$$"
	// MigratingScheme is the scheme of Migrating. ParseScheme does not know it.
	MigratingScheme = "$migrate"

	// condensedMark marks the bcrypt hash of a condensed password, so that it is never compared with a plain one.
	condensedMark = "$sha384"

	maxBcryptInput = 72 // bytes; bcrypt ignores the rest
	bcryptLength   = 60
)

// errMalformed is the error of a hash that is stored in none of the forms above.
var errMalformed = errors.New("the stored hash of a password is malformed")

// digests are the unsalted digests that are stored inside a bcrypt hash.
var digests = map[string]func() hash.Hash{"$md5": md5.New, "$sha1": sha1.New, "$sha256": sha256.New}

// prfs are the hash functions of PBKDF2.
var prfs = map[string]func() hash.Hash{"pbkdf2-sha1": sha1.New, "pbkdf2-sha256": sha256.New, "pbkdf2-sha512": sha512.New}

// Hash is a stored hash.
type Hash struct {
	Scheme Scheme

	mark      string // bcrypt: what is before it
	text      string // bcrypt
	salt, sum []byte // all others
	separator []byte // Firebase, as the next
	signer    []byte
}

// New hashes a password as an own hash.
func New(password string, cost int) (string, error) {
	input, condensed := condense(password)
	hash, err := bcrypt.GenerateFromPassword(input, cost)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	if condensed {
		return condensedMark + string(hash), nil
	}
	return string(hash), nil
}

// condense shortens a password that is too long for bcrypt to a digest, so that every byte
// counts. The digest is in Base64, because bcrypt would stop at a NUL.
func condense(password string) (input []byte, condensed bool) {
	if len(password) <= maxBcryptInput {
		return []byte(password), false
	}
	sum := sha512.Sum384([]byte(password))
	return []byte(base64.StdEncoding.EncodeToString(sum[:])), true
}

// IsNone reports whether what is stored for an account, or "" for no account, is the hash of no password.
func IsNone(stored string) bool { return stored == "" || stored == None || stored == Migrating }

// Parse reads a stored hash. The zero Hash is that of no account: no password matches it, without any work.
func Parse(stored string) (Hash, error) {
	if IsNone(stored) {
		return Hash{}, nil
	}
	scheme, rest, err := splitScheme(stored)
	if err != nil {
		return Hash{}, err
	}
	h := Hash{}
	if h.Scheme, err = ParseScheme(scheme); err != nil {
		return Hash{}, err
	}
	if h.Scheme.algorithm == bcryptName {
		h.mark = scheme[:len(scheme)-len("$2a$10")]
		h.text = stored[len(h.mark):]
		if len(h.text) != bcryptLength || strings.Trim(rest, bcryptAlphabet) != "" {
			return Hash{}, errMalformed
		}
		return h, nil
	}
	salt, sum, _ := strings.Cut(rest, "$")
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(salt)
	h.sum, err2 = base64.RawStdEncoding.DecodeString(sum)
	if err1 != nil || err2 != nil || len(h.sum) < minSum || h.Scheme.length > 0 && h.Scheme.length != len(h.sum) {
		return Hash{}, errMalformed
	}
	h.separator, h.signer = h.Scheme.separator(), h.Scheme.signer()
	return h, nil
}

const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// splitScheme returns the scheme of a stored hash, and what follows it without the $ between them.
func splitScheme(stored string) (scheme, rest string, err error) {
	end := strings.LastIndexByte(stored, '$')
	if end < 0 {
		return "", "", errMalformed
	}
	if i := strings.Index(stored, "$2"); i < 0 || end != i+6 { // $2a$10$
		if end = strings.LastIndexByte(stored[:end], '$'); end <= 0 {
			return "", "", errMalformed
		}
	}
	return stored[:end], stored[end+1:], nil
}

// IsOwn reports whether New with this cost made the hash. Any other one should be replaced.
func (h Hash) IsOwn(cost int) bool {
	return h.Scheme.algorithm == bcryptName && h.Scheme.cost == cost && h.isOwnForm()
}

// isOwnForm reports whether the hash has the form of an own one, of any cost.
func (h Hash) isOwnForm() bool {
	return (h.mark == "" || h.mark == condensedMark) && strings.HasPrefix(h.text, "$2a")
}

// Matches reports whether the hash is that of a password. Its work depends only on the scheme of the hash.
func (h Hash) Matches(password string) bool {
	s := h.Scheme
	switch s.algorithm {
	case bcryptName:
		return h.matchesBcrypt(password)
	case "argon2id":
		return hmac.Equal(h.sum, argon2.IDKey([]byte(password), h.salt, s.passes, s.memory, uint8(s.parallel), uint32(len(h.sum))))
	case "argon2i":
		return hmac.Equal(h.sum, argon2.Key([]byte(password), h.salt, s.passes, s.memory, uint8(s.parallel), uint32(len(h.sum))))
	case "scrypt":
		key, err := scrypt.Key([]byte(password), h.salt, 1<<s.cost, int(s.memory), int(s.parallel), len(h.sum))
		return err == nil && hmac.Equal(h.sum, key)
	case firebaseName:
		return h.matchesFirebase(password)
	}
	if prf, ok := prfs[s.algorithm]; ok {
		key, err := pbkdf2.Key(prf, password, h.salt, s.cost, len(h.sum))
		return err == nil && hmac.Equal(h.sum, key)
	}
	return false
}

func (h Hash) matchesBcrypt(password string) bool {
	input, condensed := condense(password)
	fits := condensed == (h.mark == condensedMark)
	if digest, ok := digests[h.mark]; ok {
		d := digest()
		d.Write([]byte(password))
		input, fits = []byte(hex.EncodeToString(d.Sum(nil))), true
	} else if condensed && !h.isOwnForm() {
		input, fits = []byte(password)[:maxBcryptInput], true // other systems ignore the rest
	}
	return bcrypt.CompareHashAndPassword([]byte(h.text), input) == nil && fits
}

// matchesFirebase follows github.com/firebase/scrypt: the derived key encrypts the signer key of the project.
func (h Hash) matchesFirebase(password string) bool {
	s := h.Scheme
	key, err := scrypt.Key([]byte(password), append(h.salt[:len(h.salt):len(h.salt)], h.separator...), 1<<s.cost, int(s.memory), 1, 32)
	if err != nil {
		return false
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return false
	}
	sum := make([]byte, len(h.signer))
	//nolint:gosec // the format has this nonce, and the key is used once
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(sum, h.signer)
	return hmac.Equal(h.sum, sum)
}

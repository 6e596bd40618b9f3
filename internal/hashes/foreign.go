package hashes

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// The most that a check of an imported hash may take. A check at these bounds takes one or two seconds of a processor, and
// a replica of the default size has the memory for one at a time.
const (
	maxBcryptCost = 15        // as SALT_ROUNDS
	MaxMemory     = 128 << 20 // bytes
	maxTouched    = 1 << 30   // bytes: the memory, times how often it is passed over
	maxIterations = 4_000_000 // of PBKDF2, times the blocks
	maxParallel   = 16
)

// Imported is the hash of another system that may be stored.
type Imported struct {
	Scheme Scheme // zero: no password matches

	stored string
	mark   string // of an unsalted digest, which is stored inside a bcrypt hash
}

// Stored returns what is stored. For an unsalted digest it computes a bcrypt hash of this cost.
func (i Imported) Stored(cost int) (string, error) {
	if i.mark == "" {
		return i.stored, nil
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(i.stored), cost)
	if err != nil {
		return "", fmt.Errorf("hash a digest: %w", err)
	}
	return i.mark + "$2b" + string(hash[3:]), nil
}

// Import reads the hash of another system, and brings it into the form in which it is stored. The error says what is
// wrong with the hash, without any of its text.
//
// A $2a$ may be an own hash, so it stays what it is. ImportBcrypt is for systems whose $2a$ is not.
func Import(text string) (Imported, error) {
	if text == "" {
		text = None
	}
	if IsNone(text) {
		return Imported{stored: text}, nil
	}
	if mark, ok := digestMark(text); ok {
		return Imported{stored: strings.ToLower(text), mark: mark, Scheme: Own(bcrypt.MinCost)}, nil
	}
	stored, err := normalize(text)
	if err != nil {
		return Imported{}, err
	}
	h, err := Parse(stored)
	if err != nil {
		return Imported{}, errors.New("the hash is malformed")
	}
	if err := h.bounded(); err != nil {
		return Imported{}, err
	}
	return Imported{Scheme: h.Scheme, stored: stored}, nil
}

// ImportForeign is Import for a hash that is not an own one. Other systems ignore what follows the first 72 bytes of a
// password, and a $2b$ is checked in the same way.
func ImportForeign(text string) (Imported, error) {
	if strings.HasPrefix(text, "$2a$") {
		text = "$2b$" + text[4:]
	}
	return Import(text)
}

// IsDigest reports whether a text is an unsalted digest, whose Stored takes as long as a new hash.
func IsDigest(text string) bool {
	_, ok := digestMark(text)
	return ok
}

// digestMark recognizes an unsalted digest in hex by its length.
func digestMark(text string) (mark string, ok bool) {
	if _, err := hex.DecodeString(text); err != nil {
		return "", false
	}
	mark, ok = map[int]string{32: "$md5", 40: "$sha1", 64: "$sha256"}[len(text)]
	return mark, ok
}

// normalize brings a hash into the form that Parse reads.
func normalize(text string) (string, error) {
	// Django: pbkdf2_sha256$ITERATIONS$SALT$HASH, where the salt is text.
	if name, rest, ok := strings.Cut(text, "$"); ok && strings.HasPrefix(name, "pbkdf2_") {
		fields := strings.Split(rest, "$")
		sum, err := decode(fields[len(fields)-1])
		iterations, err2 := strconv.Atoi(fields[0])
		if len(fields) != 3 || err != nil || err2 != nil {
			return "", errors.New("the hash is malformed")
		}
		return PBKDF2(strings.Replace(name, "_", "-", 1), iterations, []byte(fields[1]), sum), nil
	}
	if !strings.HasPrefix(text, "$") {
		return "", errors.New("the hash is of no supported kind: it is neither in PHC nor in modular-crypt form, " +
			"nor the hex of MD5, SHA-1 or SHA-256")
	}
	fields := strings.Split(text[1:], "$")
	switch name := fields[0]; {
	case name == "2x" || name == "2":
		return "", fmt.Errorf("$%s$ is the bcrypt of a faulty program, which many passwords match; the user has to set a new password", name)
	case name == "2b" || name == "2y":
		return "$2b" + text[3:], nil
	case name == "2a" || len(fields) == 4 && (digests["$"+name] != nil || "$"+name == condensedMark): // as they are stored
		return text, nil
	case name == "argon2d":
		return "", errors.New("argon2d is not supported; argon2id and argon2i are")
	case name == "argon2id" || name == "argon2i":
		if len(fields) != 5 || fields[1] != "v=19" {
			return "", errors.New("argon2 is only supported in version 1.3 (v=19), without a key id")
		}
		return rejoin(fields, 3)
	case name == "scrypt" && len(fields) == 4:
		// Ory Kratos writes N where the PHC string has its logarithm.
		params := strings.Split(fields[1], ",")
		if n, err := strconv.ParseUint(strings.TrimPrefix(params[0], "ln="), 10, 32); err == nil && n > 31 && bits.OnesCount64(n) == 1 {
			fields[1] = strings.Join(append([]string{fmt.Sprintf("ln=%d", bits.Len64(n)-1)}, params[1:]...), ",")
		}
		return rejoin(fields, 2)
	case name == "firescrypt" && len(fields) == 6: // Ory Kratos
		n, ok := numbers(fields[1], "ln=", "r=", "p=")
		salt, err1 := decode(fields[2])
		sum, err2 := decode(fields[3])
		separator, err3 := decode(fields[4])
		signer, err4 := decode(fields[5])
		if !ok || errors.Join(err1, err2, err3, err4) != nil {
			return "", errors.New("the hash is malformed")
		}
		return Firebase(int(n[0]), int(n[1]), separator, signer, salt, sum), nil
	case name == firebaseName && len(fields) == 4:
		return rejoin(fields, 2)
	case strings.HasPrefix(name, "pbkdf2") && len(fields) == 4:
		if name == "pbkdf2" {
			name = "pbkdf2-sha1"
		}
		salt, err1 := decode(fields[2])
		sum, err2 := decode(fields[3])
		first, _, _ := strings.Cut(strings.TrimPrefix(fields[1], "i="), ",")
		iterations, err3 := strconv.Atoi(first)
		if errors.Join(err1, err2, err3) != nil {
			return "", errors.New("the hash is malformed")
		}
		if prfs[name] == nil {
			return "", errors.New("PBKDF2 is only supported with SHA-1, SHA-256 and SHA-512")
		}
		return PBKDF2(name, iterations, salt, sum), nil
	}
	return "", errors.New("the hash is of no supported kind; bcrypt, argon2id, argon2i, scrypt, PBKDF2 and Firebase's scrypt are supported")
}

// decode reads Base64 of any kind: with or without padding, of passlib (with . for +) and of URLs.
func decode(text string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.NewReplacer(".", "+", "-", "+", "_", "/").Replace(strings.TrimRight(text, "=")))
}

// rejoin writes a PHC string whose fields from the given one on are Base64.
func rejoin(fields []string, from int) (string, error) {
	for i := from; i < len(fields); i++ {
		value, err := decode(fields[i])
		if err != nil {
			return "", errors.New("the hash is malformed")
		}
		fields[i] = base64.RawStdEncoding.EncodeToString(value)
	}
	return "$" + strings.Join(fields, "$"), nil
}

// PBKDF2 writes a hash of PBKDF2. The name is pbkdf2-sha1, pbkdf2-sha256 or pbkdf2-sha512.
func PBKDF2(name string, iterations int, salt, sum []byte) string {
	return fmt.Sprintf("$%s$i=%d,l=%d$%s", name, iterations, len(sum), saltAndSum(salt, sum))
}

// Argon2 writes a hash of argon2; memory is in KiB. The name is argon2id or argon2i.
func Argon2(name string, memory, passes, parallel int, salt, sum []byte) string {
	return fmt.Sprintf("$%s$v=19$m=%d,t=%d,p=%d$%s", name, memory, passes, parallel, saltAndSum(salt, sum))
}

// Firebase writes a hash of Firebase's scrypt. memCost and rounds are the parameters of the project that have these
// names.
func Firebase(memCost, rounds int, separator, signer, salt, sum []byte) string {
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$%s$v=1,n=%d,r=%d,p=1,ss=%s,sk=%s$%s", firebaseName, memCost, rounds, b(separator), b(signer), saltAndSum(salt, sum))
}

func saltAndSum(salt, sum []byte) string {
	return base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(sum)
}

// bounded returns an error if a check of the hash takes too much.
func (h Hash) bounded() error {
	s := h.Scheme
	touched := s.Memory()
	switch s.algorithm {
	case bcryptName:
		if s.cost > maxBcryptCost {
			return fmt.Errorf("its cost is %d; at most %d is allowed", s.cost, maxBcryptCost)
		}
		return nil
	case "argon2id", "argon2i":
		touched *= int64(s.passes)
	case "scrypt", firebaseName:
		touched *= int64(s.parallel)
	default:
		if s.cost > maxIterations/s.blocks() {
			return fmt.Errorf("it has %d iterations; at most %d are allowed", s.cost, maxIterations/s.blocks())
		}
	}
	switch {
	case len(h.salt) == 0 || len(h.salt) > maxSalt || len(h.sum) > maxSum:
		return fmt.Errorf("its salt is empty, or its salt or hash is longer than %d bytes", maxSalt)
	case s.Memory() > MaxMemory:
		return fmt.Errorf("a check of it takes %d MiB of memory; at most %d MiB are allowed", s.Memory()>>20, MaxMemory>>20)
	case touched > maxTouched || s.parallel > maxParallel:
		return fmt.Errorf("a check of it takes too long: its memory times its passes is more than %d MiB, or its parallelism is more than %d",
			maxTouched>>20, maxParallel)
	}
	return nil
}

package moving

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// keycloakHash reads the two texts of a credential.
func keycloakHash(secret, credential string) (string, error) {
	var s struct {
		Value string `json:"value"`
		Salt  string `json:"salt"`
	}
	var c struct {
		Algorithm  string `json:"algorithm"`
		Iterations int    `json:"hashIterations"`
		Parameters struct {
			Type        []string `json:"type"`
			Version     []string `json:"version"`
			Memory      []string `json:"memory"`
			Parallelism []string `json:"parallelism"`
		} `json:"additionalParameters"`
	}
	if json.Unmarshal([]byte(secret), &s) != nil || json.Unmarshal([]byte(credential), &c) != nil {
		return "", errors.New("secretData or credentialData is not the JSON of a hash")
	}
	salt, err1 := base64.StdEncoding.DecodeString(s.Salt)
	sum, err2 := base64.StdEncoding.DecodeString(s.Value)
	if err := errors.Join(err1, err2); err != nil {
		return "", errors.New("secretData is not Base64")
	}
	switch c.Algorithm {
	case "pbkdf2":
		return hashes.PBKDF2("pbkdf2-sha1", c.Iterations, salt, sum), nil
	case "pbkdf2-sha256", "pbkdf2-sha512":
		return hashes.PBKDF2(c.Algorithm, c.Iterations, salt, sum), nil
	case "argon2":
		name := argon2Types[one(c.Parameters.Type)]
		memory, err1 := strconv.Atoi(one(c.Parameters.Memory))
		parallel, err2 := strconv.Atoi(one(c.Parameters.Parallelism))
		if name == "" || one(c.Parameters.Version) != "1.3" || errors.Join(err1, err2) != nil {
			return "", errors.New("argon2 is only supported as argon2id or argon2i of version 1.3")
		}
		return hashes.Argon2(name, memory, c.Iterations, parallel, salt, sum), nil
	}
	return "", fmt.Errorf("the algorithm %q is not supported; pbkdf2, pbkdf2-sha256, pbkdf2-sha512 and argon2 are", c.Algorithm)
}

// FirebaseConfig has the parameters of a project, which its hashes need.
type FirebaseConfig struct {
	SignerKey, SaltSeparator []byte
	Rounds, MemCost          int
}

// ParseFirebaseConfig reads the text that the console shows:
//
//	hash_config {
//	  algorithm: SCRYPT,
//	  base64_signer_key: …,
//	  base64_salt_separator: …,
//	  rounds: 8,
//	  mem_cost: 14,
//	}
func ParseFirebaseConfig(r io.Reader) (*FirebaseConfig, error) {
	found := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok {
			found[strings.Trim(name, " \t\"")] = strings.Trim(value, " \t,\"")
		}
	}
	c := &FirebaseConfig{}
	var errs [4]error
	c.SignerKey, errs[0] = base64.StdEncoding.DecodeString(found["base64_signer_key"])
	c.SaltSeparator, errs[1] = base64.StdEncoding.DecodeString(found["base64_salt_separator"])
	c.Rounds, errs[2] = strconv.Atoi(found["rounds"])
	c.MemCost, errs[3] = strconv.Atoi(found["mem_cost"])
	if errors.Join(append(errs[:], lines.Err())...) != nil || len(c.SignerKey) == 0 || found["algorithm"] != "SCRYPT" {
		return nil, errors.New("the file does not have the parameters algorithm (SCRYPT), base64_signer_key, base64_salt_separator, " +
			"rounds and mem_cost, one a line, as the console shows them")
	}
	return c, nil
}

type firebaseUser struct {
	ID       string `json:"localId"`
	Email    string `json:"email"`
	Verified bool   `json:"emailVerified"`
	Name     string `json:"displayName"`
	Hash     string `json:"passwordHash"`
	Salt     string `json:"salt"`
	Created  string `json:"createdAt"` // milliseconds
	Disabled bool   `json:"disabled"`
}

func firebaseAccount(r *Reader, raw json.RawMessage, e *Entry) error {
	var u firebaseUser
	if err := json.Unmarshal(raw, &u); err != nil {
		return jsonFault(err)
	}
	created, err := strconv.ParseInt(u.Created, 10, 64)
	if u.Created != "" && err != nil {
		return errors.New("createdAt is malformed")
	}
	e.Account = identity.MovedAccount{
		ID: movedID("firebase", u.ID), Email: u.Email, EmailVerified: u.Verified,
		CreatedAt: fromMilliseconds(created), SuspendedAt: suspendedNow(u.Disabled),
	}
	e.Account.FirstName, e.Account.LastName = splitName(u.Name)
	if u.Hash == "" {
		return nil
	}
	url := strings.NewReplacer("-", "+", "_", "/")
	salt, err1 := base64.RawStdEncoding.DecodeString(strings.TrimRight(url.Replace(u.Salt), "="))
	sum, err2 := base64.RawStdEncoding.DecodeString(strings.TrimRight(url.Replace(u.Hash), "="))
	if errors.Join(err1, err2) != nil {
		return errors.New("passwordHash or salt is not Base64")
	}
	c := r.Firebase
	e.Account.PasswordHash = hashes.Firebase(c.MemCost, c.Rounds, c.SaltSeparator, c.SignerKey, salt, sum)
	return nil
}

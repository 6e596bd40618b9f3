package hashes

import (
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const testCost = bcrypt.MinCost

func mustHash(t *testing.T, password string) string {
	t.Helper()
	return testenv.Must(New(password, testCost))(t)
}

func isRight(t *testing.T, stored, password string) bool {
	t.Helper()
	return testenv.Must(Parse(stored))(t).Matches(password)
}

func TestPasswordIsHashedInFull(t *testing.T) {
	for _, length := range []int{8, 71, 72, 73, 256} {
		t.Run(fmt.Sprint(length, " bytes"), func(t *testing.T) {
			password := strings.Repeat("p", length)
			hash := mustHash(t, password)
			if !isRight(t, hash, password) {
				t.Fatal("the password does not match its hash")
			}
			for what, other := range map[string]string{
				"another last byte":  password[:length-1] + "q",
				"another first byte": "q" + password[1:],
				"a byte less":        password[:length-1],
				"a byte more":        password + "p",
			} {
				if isRight(t, hash, other) {
					t.Error("the hash matches a password with ", what)
				}
			}
		})
	}
	t.Run("64 characters of four bytes", func(t *testing.T) {
		password := strings.Repeat("😀", 64)
		hash := mustHash(t, password)
		if !isRight(t, hash, password) || isRight(t, hash, strings.Repeat("😀", 63)+"😁") {
			t.Error("the 256th byte is ignored")
		}
	})
}

func TestPasswordThatIsCondensedMatchesNoPlainOne(t *testing.T) {
	long := strings.Repeat("long ", 20)
	sum := sha512.Sum384([]byte(long))
	digest := base64.StdEncoding.EncodeToString(sum[:]) // the 64 bytes that bcrypt hashes instead of the password
	if hash := mustHash(t, long); isRight(t, hash, digest) {
		t.Error("the digest matches the hash of the long password")
	}
	if hash := mustHash(t, digest); isRight(t, hash, long) {
		t.Error("the long password matches the hash of its digest")
	}
	if isRight(t, mustHash(t, condensedMark+digest), long) {
		t.Error("a mark in a password is mistaken for the mark of a hash")
	}
	if hash := mustHash(t, long); !strings.HasPrefix(hash, condensedMark+"$2a$") || strings.HasPrefix(mustHash(t,
		"short one"), condensedMark) {
		t.Error("the hash of a condensed password lacks the mark, or another hash has it")
	}
}

func TestOwnHashHasTheCurrentCost(t *testing.T) {
	for _, password := range []string{"short one", strings.Repeat("long ", 20)} {
		hash := testenv.Must(Parse(mustHash(t, password)))(t)
		if !hash.IsOwn(testCost) || hash.IsOwn(testCost+1) {
			t.Errorf("%s: own at its cost: %v; at another: %v", hash.text, hash.IsOwn(testCost), hash.IsOwn(testCost+1))
		}
	}
}

func TestPlaceholderCostsWhatOthersDo(t *testing.T) {
	for cost := 4; cost <= 15; cost++ {
		hash := Placeholder(cost)
		if got, err := bcrypt.Cost([]byte(hash)); got != cost || err != nil || len(hash) != bcryptLength {
			t.Errorf("the placeholder for cost %d has cost %d: %v", cost, got, err)
		}
	}
	for cost := 4; cost <= 7; cost++ { // at higher costs only the duration differs
		// A mismatch shows that bcrypt decoded salt and digest and did the work. For a
		// malformed hash it returns another error at once.
		if err := bcrypt.CompareHashAndPassword([]byte(Placeholder(cost)), []byte("x")); !errors.Is(err,
			bcrypt.ErrMismatchedHashAndPassword) {
			t.Errorf("the placeholder for cost %d cannot be compared: %v", cost, err)
		}
	}
}

func TestStoredHashThatIsMalformedIsAnError(t *testing.T) {
	for _, stored := range []string{
		"x", condensedMark, "$2a$04$short", strings.Replace(Placeholder(4), "$2a", "$9z", 1), "$2x" + Placeholder(4)[3:],
		strings.Replace(Placeholder(4), "$04", "$99", 1), "$md4" + Placeholder(4), Placeholder(4)[:59] + "=",
		"$argon2id$v=16$m=8,t=1,p=1$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt", "$argon2id$v=19$m=0,t=1,p=1$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt",
		"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c3Vt", "$argon2d$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt",
		"$pbkdf2-sha256$i=1,l=32$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt", "$pbkdf2-md5$i=1,l=12$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt",
		"$scrypt$ln=99,r=8,p=1$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt", "$fbscrypt$v=1,n=4,r=8,p=1$c2FsdHNhbHQ$c3Vtc3Vtc3Vtc3Vt",
	} {
		if h, err := Parse(stored); err == nil || h.Matches("anything") {
			t.Errorf("%q: %v", stored, err)
		}
	}
	for _, stored := range []string{"", None} {
		if isRight(t, stored, "") || isRight(t, stored, None) {
			t.Errorf("%q matches a password", stored)
		}
	}
}

// argon2Of is what other programs store for a password.
func argon2Of(password string, memory, passes uint32, parallel uint8) string {
	salt := []byte("a salt of 16 B..")
	sum := argon2.IDKey([]byte(password), salt, passes, memory, parallel, 32)
	return Argon2("argon2id", int(memory), int(passes), int(parallel), salt, sum)
}

// foreign has hashes that other programs made of the password in front of them.
var foreign = []struct{ name, password, text, stored string }{
	// OpenWall's crypt_blowfish 1.3, wrapper.c
	{"bcrypt 2a", "U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
	{"bcrypt 2y", "U*U*", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"},
	// phc-winner-argon2, test.c
	{"argon2id", "password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", ""},
	{"argon2i", "password", "$argon2i$v=19$m=256,t=2,p=2$c29tZXNhbHQ$T/XOJ2mh1/TIpJHfCdQan76Q5esCFVoT5MAeIM1Oq2E", ""},
	// passlib's documentation
	{"scrypt", "password", "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E", ""},
	{"scrypt with N", "password", "$scrypt$ln=65536,r=8,p=1$aM15713r3Xsvxbi31lqr1Q==$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E=",
		"$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"},
	{"passlib pbkdf2", "password", "$pbkdf2-sha256$6400$.6UI/S.nXIk8jcbdHx3Fhg$98jZicV16ODfEsEZeYPGHU3kbrUrvUEXOPimVSQDD44",
		"$pbkdf2-sha256$i=6400,l=32$+6UI/S+nXIk8jcbdHx3Fhg$98jZicV16ODfEsEZeYPGHU3kbrUrvUEXOPimVSQDD44"},
	// RFC 6070: 4096 iterations
	{"pbkdf2-sha1", "password", "$pbkdf2-sha1$i=4096$c2FsdA$SwB5AbdlSJq+rUnZJvch0GWkKcE",
		"$pbkdf2-sha1$i=4096,l=20$c2FsdA$SwB5AbdlSJq+rUnZJvch0GWkKcE"},
	// github.com/firebase/scrypt
	{"Firebase", "user1password", Firebase(14, 8, raw("Bw=="),
		raw("jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=="), raw("42xEC+ixf3L2lw=="),
		raw("lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==")), ""},
	{"Firebase in Kratos", "user1password", "$firescrypt$ln=14,r=8,p=1$42xEC+ixf3L2lw==$" +
		"lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==$Bw==$" +
		"jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
		"$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==$" +
			"42xEC+ixf3L2lw$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ"},
}

func raw(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

func TestHashesOfOtherProgramsMatchTheirPasswords(t *testing.T) {
	for _, tc := range foreign {
		t.Run(tc.name, func(t *testing.T) {
			imported := testenv.Must(Import(tc.text))(t)
			stored := testenv.Must(imported.Stored(testCost))(t)
			if tc.stored == "" {
				tc.stored = tc.text
			}
			if stored != tc.stored {
				t.Errorf("it is stored as %s; want %s", stored, tc.stored)
			}
			if !isRight(t, stored, tc.password) || isRight(t, stored, tc.password+"x") || isRight(t, stored, "") {
				t.Error("it does not match its password, or it matches another one")
			}
			if again := testenv.Must(Import(stored))(t); again.Scheme != imported.Scheme {
				t.Errorf("what is stored has the scheme %v, and the import %v", again.Scheme, imported.Scheme)
			}
			if h := testenv.Must(Parse(stored))(t); h.IsOwn(5) && tc.name != "bcrypt 2a" {
				t.Error("it passes for an own hash, so it is never renewed")
			}
			if scheme, _, err := splitScheme(stored); err != nil || !strings.HasPrefix(stored, scheme+"$") {
				t.Error(scheme, err)
			}
		})
	}
}

func TestNoPasswordMatchesAnAccountWithoutAHash(t *testing.T) {
	for text, want := range map[string]string{"": None, None: None, Migrating: Migrating} {
		imported := testenv.Must(Import(text))(t)
		stored := testenv.Must(imported.Stored(testCost))(t)
		if stored != want || imported.Scheme != (Scheme{}) || !IsNone(stored) {
			t.Errorf("%q is stored as %q, with the scheme %v", text, stored, imported.Scheme)
		}
		for _, password := range []string{"", "!", "$migrate$$", "password"} {
			if isRight(t, stored, password) {
				t.Errorf("%q matches %q", stored, password)
			}
		}
	}
	if scheme, _, err := splitScheme(Migrating); err != nil || scheme != MigratingScheme {
		t.Errorf("the scheme is %q, %v", scheme, err)
	}
	if IsNone(Placeholder(testCost)) {
		t.Error("IsNone is true for a hash")
	}
}

func TestUnsaltedDigestIsStoredInsideBcrypt(t *testing.T) {
	for mark, text := range map[string]string{
		"$md5":    "5F4DCC3B5AA765D61D8327DEB882CF99",
		"$sha1":   "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8",
		"$sha256": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
	} {
		stored := testenv.Must(testenv.Must(Import(text))(t).Stored(testCost))(t)
		if !strings.HasPrefix(stored, mark+"$2b$04$") || strings.Contains(stored, strings.ToLower(text)) {
			t.Errorf("it is stored as %s", stored)
		}
		if !isRight(t, stored, "password") || isRight(t, stored, "Password") || isRight(t, stored, strings.ToLower(text)) {
			t.Errorf("%s does not match its password, or it matches another one", mark)
		}
		if testenv.Must(Parse(stored))(t).IsOwn(testCost) {
			t.Error("it passes for an own hash, so it is never renewed")
		}
	}
}

func TestForeignBcryptIgnoresWhatIsBeyond72Bytes(t *testing.T) {
	long := strings.Repeat("p", 80)
	made := string(testenv.Must(bcrypt.GenerateFromPassword([]byte(long[:72]), testCost))(t))
	stored := testenv.Must(testenv.Must(ImportForeign(made))(t).Stored(testCost))(t)
	if !isRight(t, stored, long) || isRight(t, stored, long[:71]) {
		t.Error("a password is not compared as other systems do")
	}
	if isRight(t, made, long) {
		t.Error("an own hash ignores a part of the password")
	}
}

func TestImportRefusesWhatItCannotCheckOrAfford(t *testing.T) {
	for what, text := range map[string]string{
		"$2x$":                  "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"its cost is 16":        Placeholder(16),
		"argon2d":               strings.Replace(argon2Of("x", 8, 1, 1), "2id", "2d", 1),
		"version 1.3":           strings.Replace(argon2Of("x", 8, 1, 1), "v=19", "v=16", 1),
		"129 MiB":               strings.Replace(argon2Of("x", 8, 1, 1), "m=8", fmt.Sprint("m=", 129<<10), 1),
		"takes too long":        strings.Replace(argon2Of("x", 8, 1, 1), "m=8,t=1", "m=131072,t=9", 1),
		"more than 1024 MiB":    "$scrypt$ln=17,r=8,p=9$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
		"is more than 16":       strings.Replace(argon2Of("x", 8, 1, 1), "p=1", "p=17", 1),
		"256 MiB":               "$scrypt$ln=18,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
		"9000000 iterations":    "$pbkdf2-sha1$i=9000000$c2FsdA$SwB5AbdlSJq+rUnZJvch0GWkKcE",
		"SHA-512":               "$pbkdf2-md5$i=9$c2FsdA$SwB5AbdlSJq+rUnZJvch0GWkKcE",
		"neither in PHC":        "secret-in-clear",
		"Firebase's scrypt are": "$6$rounds=5000$saltsalt$hash",
		"is malformed":          "$2a$05$short",
		"its salt is empty":     "$pbkdf2-sha1$i=9$$SwB5AbdlSJq+rUnZJvch0GWkKcE",
		"the hash is malformed": "$sha384$2a$05$short",
		"supported; argon2id":   "$argon2d$v=19$m=8,t=1,p=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFhYWFhYQ",
		"$2$ is the bcrypt":     "$2$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"it has 4000001 iterations; at most 4000000": "$pbkdf2-sha512$i=4000001,l=64$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 64)),
		"it has 2000001 iterations; at most 2000000": "$pbkdf2-sha256$i=2000001,l=64$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 64)),
	} {
		_, err := Import(text)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: the error is %v", what, err)
		} else if sum := text[max(0, len(text)-12):]; strings.Contains(err.Error(), sum) {
			t.Errorf("%s: the error contains the hash", what)
		}
	}
}

func TestImportAllowsTheUsualParameters(t *testing.T) {
	for _, text := range []string{
		Placeholder(15),
		strings.Replace(argon2Of("x", 8, 1, 1), "m=8,t=1,p=1", "m=65536,t=16,p=16", 1),
		strings.Replace(argon2Of("x", 8, 1, 1), "m=8,t=1,p=1", "m=131072,t=3,p=4", 1), // Kratos
		strings.Replace(argon2Of("x", 8, 1, 1), "m=8,t=1,p=1", "m=65536,t=4,p=1", 1),  // PHP
		"$scrypt$ln=17,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
		"$pbkdf2-sha1$i=1400000$c2FsdA$SwB5AbdlSJq+rUnZJvch0GWkKcE",
		"$pbkdf2-sha512$i=210000$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 64)),
	} {
		testenv.Must(Import(text))(t)
	}
}

// Every check of a wrong password does the same work, whatever it is compared with.
func TestLoadAddsUpToTheSameWorkForEveryScheme(t *testing.T) {
	var schemes []Scheme
	l := Load{}
	for _, stored := range []string{
		Placeholder(4), Placeholder(6), "$2b" + Placeholder(5)[3:], "$md5" + Placeholder(7), argon2Of("x", 16, 1, 1), argon2Of("x", 64, 2, 1),
		"$pbkdf2-sha256$i=100,l=64$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 64)),
		"$pbkdf2-sha256$i=150,l=32$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 32)),
		"$scrypt$ln=4,r=8,p=1$c2FsdA$" + base64.RawStdEncoding.EncodeToString(make([]byte, 32)),
		Firebase(4, 8, []byte("s"), make([]byte, 64), []byte("salt"), make([]byte, 64)),
	} {
		h := testenv.Must(Parse(stored))(t)
		schemes = append(schemes, h.Scheme)
		l.Add(h.Scheme)
	}
	for _, s := range append(schemes, Scheme{}) {
		did := map[Scheme]int{}
		if kind, n := s.kind(); n > 0 {
			did[kind] += n
		}
		for kind, n := range l {
			own, amount := s.kind()
			if kind == own {
				n -= amount
			}
			did[kind] += n
		}
		if fmt.Sprint(did) != fmt.Sprint(map[Scheme]int(l)) {
			t.Errorf("%v: %v is done; want %v", s, did, l)
		}
		for _, step := range l.Rest(s) {
			step.Run()
		}
	}
	// What bcrypt of a low cost leaves is done in powers of two.
	bcrypts := Load{}
	bcrypts.Add(schemes[1])
	if n := len(bcrypts.Rest(schemes[0])); n != 2 { // 2^6 − 2^4 = 2^5 + 2^4
		t.Errorf("the rest has %d steps", n)
	}
	if n := len(l.Rest(Scheme{})); n != 5 { // bcrypt, two argon2id, PBKDF2, scrypt
		t.Errorf("the whole load has %d steps", n)
	}
}

package hashes

import (
	"crypto/pbkdf2"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"
)

const (
	bcryptName   = "bcrypt"
	firebaseName = "fbscrypt"

	minSum  = 10 // bytes
	maxSum  = 128
	maxSalt = 128
)

// Scheme is an algorithm with its parameters. The zero Scheme is that of no hash.
type Scheme struct {
	algorithm string
	cost      int    // bcrypt, scrypt: the binary logarithm; PBKDF2: the iterations
	passes    uint32 // argon2
	memory    uint32 // argon2: in KiB; scrypt: r
	parallel  uint32 // argon2, scrypt: p
	length    int    // PBKDF2: of the hash, in bytes
	firebase  string // Firebase: the separator and the signer key
}

// Own returns the scheme of what New makes.
func Own(cost int) Scheme { return Scheme{algorithm: bcryptName, cost: cost} }

// ParseScheme reads the scheme of a stored hash.
func ParseScheme(text string) (s Scheme, err error) {
	fields := strings.Split(strings.TrimPrefix(text, "$"), "$")
	name, params := fields[0], fields[len(fields)-1]
	if n := len(fields); n >= 2 && (fields[n-2] == "2a" || fields[n-2] == "2b" || fields[n-2] == "2y") {
		mark := strings.TrimSuffix(text, "$"+fields[n-2]+"$"+params)
		if _, ok := digests[mark]; !ok && mark != "" && mark != condensedMark {
			return Scheme{}, errMalformed
		}
		s.algorithm = bcryptName
		s.cost, err = strconv.Atoi(params)
		if err != nil || len(params) != 2 || s.cost < bcrypt.MinCost || s.cost > bcrypt.MaxCost {
			return Scheme{}, errMalformed
		}
		return s, nil
	}
	s.algorithm = name
	var ok bool
	var n [3]uint32
	switch {
	case name == "argon2id" || name == "argon2i":
		n, ok = numbers(params, "m=", "t=", "p=")
		s.memory, s.passes, s.parallel = n[0], n[1], n[2]
		ok = ok && len(fields) == 3 && fields[1] == "v=19" && s.memory > 0 && s.passes > 0 && 0 < s.parallel && s.parallel < 256
	case name == "scrypt":
		n, ok = numbers(params, "ln=", "r=", "p=")
		s.cost, s.memory, s.parallel = int(n[0]), n[1], n[2]
		ok = ok && len(fields) == 2 && 0 < s.cost && s.cost < 32 && s.memory > 0 && s.parallel > 0
	case name == firebaseName:
		params, ok = strings.CutPrefix(params, "v=1,")
		if i := strings.Index(params, ",ss="); i > 0 {
			params, s.firebase = params[:i], params[i:]
		}
		n, _ = numbers(params, "n=", "r=", "p=")
		s.cost, s.memory, s.parallel = int(n[0]), n[1], n[2]
		ok = ok && len(fields) == 2 && 0 < s.cost && s.cost < 32 && s.memory > 0 && s.parallel == 1 && len(s.signer()) >= minSum
	case prfs[name] != nil:
		n, ok = numbers(params, "i=", "l=")
		s.cost, s.length = int(n[0]), int(n[1])
		ok = ok && len(fields) == 2 && s.cost > 0 && minSum <= s.length && s.length <= maxSum
	}
	if !ok {
		return Scheme{}, errMalformed
	}
	return s, nil
}

// numbers reads parameters with these names, in this order.
func numbers(params string, names ...string) (n [3]uint32, ok bool) {
	parts := strings.Split(params, ",")
	if len(parts) != len(names) {
		return n, false
	}
	for i, part := range parts {
		digits, named := strings.CutPrefix(part, names[i])
		value, err := strconv.ParseUint(digits, 10, 31)
		if !named || err != nil {
			return n, false
		}
		n[i] = uint32(value)
	}
	return n, true
}

func (s Scheme) separator() []byte {
	text, _, _ := strings.Cut(strings.TrimPrefix(s.firebase, ",ss="), ",sk=")
	separator, _ := base64.StdEncoding.DecodeString(text)
	return separator
}

func (s Scheme) signer() []byte {
	_, text, _ := strings.Cut(s.firebase, ",sk=")
	signer, _ := base64.StdEncoding.DecodeString(text)
	return signer
}

// String describes the scheme, without the keys of a project.
func (s Scheme) String() string {
	switch {
	case s.algorithm == bcryptName:
		return fmt.Sprintf("bcrypt of cost %d", s.cost)
	case s.passes > 0:
		return fmt.Sprintf("%s with m=%d,t=%d,p=%d", s.algorithm, s.memory, s.passes, s.parallel)
	case s.parallel > 0:
		return fmt.Sprintf("%s with ln=%d,r=%d,p=%d", s.algorithm, s.cost, s.memory, s.parallel)
	default:
		return fmt.Sprintf("%s with %d iterations", s.algorithm, s.cost)
	}
}

// Memory is how many bytes a check takes: 0 if it is only some KiB.
func (s Scheme) Memory() int64 {
	switch s.algorithm {
	case "argon2id", "argon2i":
		return max(int64(s.memory), 8*int64(s.parallel)) << 10
	case "scrypt", firebaseName:
		return 128 * int64(s.memory) << s.cost
	default:
		return 0
	}
}

// blocks is how many blocks PBKDF2 computes one after the other.
func (s Scheme) blocks() int {
	size := prfs[s.algorithm]().Size()
	return (s.length + size - 1) / size
}

// Load is an amount of work of each kind. Work of a kind can be added up: bcrypt of cost 10, 10 and 11 takes what bcrypt
// of cost 12 takes. Algorithms that need memory cannot, so each set of their parameters is a kind of its own.
type Load map[Scheme]int

// kind returns the kind of the work of a scheme, and how much of it there is.
func (s Scheme) kind() (Scheme, int) {
	switch s.algorithm {
	case "":
		return Scheme{}, 0
	case bcryptName:
		return Scheme{algorithm: bcryptName}, 1 << s.cost
	case firebaseName: // AES is negligible
		return Scheme{algorithm: "scrypt", cost: s.cost, memory: s.memory, parallel: 1}, 1
	}
	if prfs[s.algorithm] != nil {
		return Scheme{algorithm: s.algorithm}, s.cost * s.blocks()
	}
	return s, 1
}

// MaxForeignKinds is how many kinds of work the hashes of other systems may need together. A failed sign-in does all of
// them. Those of Argon2 and scrypt differ by their parameters. bcrypt does not count, because its work adds up with that of
// own hashes.
const MaxForeignKinds = 8

// Foreign returns the scheme that stands for all whose work is of the same kind. ok is false if that is the kind of own
// hashes, or no work.
func (s Scheme) Foreign() (kind Scheme, ok bool) {
	kind, n := s.kind()
	return kind, n > 0 && kind.algorithm != bcryptName
}

// Add makes the load include the work of a scheme.
func (l Load) Add(s Scheme) {
	if kind, n := s.kind(); n > 0 {
		l[kind] = max(l[kind], n)
	}
}

// Has reports whether the load includes the work of a scheme.
func (l Load) Has(s Scheme) bool {
	kind, n := s.kind()
	return l[kind] >= n
}

// Step is a part of a load.
type Step struct {
	Memory int64 // in bytes
	Run    func()
}

// Rest returns what remains of the load after the work of a scheme, always in the same order.
func (l Load) Rest(done Scheme) (steps []Step) {
	has, amount := done.kind()
	kinds := slices.SortedFunc(maps.Keys(l), func(a, b Scheme) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	for _, kind := range kinds {
		n := l[kind]
		if kind == has {
			n -= amount
		}
		if n > 0 {
			steps = append(steps, kind.work(n)...)
		}
	}
	return steps
}

// work returns n units of a kind of work, whose results are not used.
func (s Scheme) work(n int) (steps []Step) {
	input, salt := []byte("no password"), []byte("0123456789abcdef")
	switch s.algorithm {
	case bcryptName:
		for cost := bcrypt.MaxCost; cost >= bcrypt.MinCost; cost-- {
			if n&(1<<cost) != 0 {
				steps = append(steps, Step{Run: func() {
					_ = bcrypt.CompareHashAndPassword([]byte(Placeholder(cost)), input)
				}})
			}
		}
		return steps
	case "argon2id":
		return []Step{{s.Memory(), func() { argon2.IDKey(input, salt, s.passes, s.memory, uint8(s.parallel), 32) }}}
	case "argon2i":
		return []Step{{s.Memory(), func() { argon2.Key(input, salt, s.passes, s.memory, uint8(s.parallel), 32) }}}
	case "scrypt":
		return []Step{{s.Memory(), func() { _, _ = scrypt.Key(input, salt, 1<<s.cost, int(s.memory), int(s.parallel), 32) }}}
	}
	prf := prfs[s.algorithm]
	return []Step{{Run: func() { _, _ = pbkdf2.Key(prf, string(input), salt, n, prf().Size()) }}}
}

// Placeholder returns a well-formed bcrypt hash of no known password: its salt and digest are
// constants. A comparison with it takes as long as with any other hash.
func Placeholder(cost int) string {
	return fmt.Sprintf("$2a$%02d$%s", cost, "N0b0dyHasThisSaltOrDiges.uQ7mVh5r1cXo2YtLwPz8KdEfGa3B")
}

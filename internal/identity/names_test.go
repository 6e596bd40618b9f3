package identity

import (
	"net/mail"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

func TestUsernameIsPlainASCIIAndComparedWithoutCase(t *testing.T) {
	for _, c := range []struct{ what, in, canonical, wrong string }{
		{"letters", "ada", "ada", ""},
		{"capitals", "ADMIN", "admin", ""},
		{"everything allowed", "A.b_c-9", "a.b_c-9", ""},
		{"a digit first", "9lives", "9lives", ""},
		{"one character", "x", "x", ""},
		{"64 characters", strings.Repeat("a", 64), strings.Repeat("a", 64), ""},
		{"65 characters", strings.Repeat("a", 65), "", "is longer than 64 characters"},
		{"nothing", "", "", "is empty"},
		{"an @", "bob@example.com", "", "may hold only"},
		{"an id", "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22", "", "must not be a UUID"},
		{"an id in capitals", "0190C5D2-6F3A-7C11-9D4E-2B7A5F0C1D22", "", "must not be a UUID"},
		{"a space at the end", "bob ", "", "may hold only"},
		{"a space at the start", " bob", "", "must start with"},
		{"a dot at the start", ".bob", "", "must start with"},
		{"a dash at the start", "-bob", "", "must start with"},
		{"a space of no width", "bo\u200bb", "", "may hold only"},
		{"an override of direction", "bo\u202eb", "", "may hold only"},
		{"a Cyrillic o", "b\u043eb", "", "may hold only"},
		{"a Kelvin sign", "\u212aelvin", "", "must start with"},
		{"a long s", "bo\u017fs", "", "may hold only"},
		{"full width", "ｂｏｂ", "", "must start with"},
		{"emoji", "bob😀", "", "may hold only"},
		{"a run of combining marks", "b" + strings.Repeat("\u0301", 10_000), "", "is longer than"},
		{"a line break", "bob\r\nBcc", "", "may hold only"},
		{"a NUL", "bob\x00", "", "may hold only"},
		{"no UTF-8", "bob\xff", "", "may hold only"},
	} {
		t.Run(c.what, func(t *testing.T) {
			canonical, wrong := canonicalUsername(c.in)
			checkCanonical(t, canonical, wrong, c.canonical, c.wrong)
		})
	}
}

func TestEmailIsItsOwnParsedFormAndNothingElse(t *testing.T) {
	const malformed = "must be an address like name@example.com"
	long := func(n int) string { // has n bytes in total
		label := strings.Repeat("d", 60) + "."
		domain := strings.Repeat(label, 3) + strings.Repeat("e", 60)
		return strings.Repeat("l", n-len(domain)-1-len(".com")) + "@" + domain + ".com"
	}
	for _, c := range []struct{ what, in, canonical, wrong string }{
		{"plain", "ada@example.com", "ada@example.com", ""},
		{"capitals", "Ada@EXAMPLE.Com", "ada@example.com", ""},
		{"what a local part may hold", "a.b+c_d-e/f=g!#$%&'*?^`{|}~@example.com", "a.b+c_d-e/f=g!#$%&'*?^`{|}~@example.com", ""},
		{"an international domain", "ada@bücher.example", "ada@xn--bcher-kva.example", ""},
		{"an international domain in capitals", "ada@BÜCHER.example", "ada@xn--bcher-kva.example", ""},
		{"an international domain, decomposed", "ada@bu\u0308cher.example", "ada@xn--bcher-kva.example", ""},
		{"the A-labels of an international domain", "ada@XN--bcher-kva.example", "ada@xn--bcher-kva.example", ""},
		{"a Cyrillic look-alike is another domain", "ada@ex\u0430mple.com", "ada@xn--exmple-4nf.com", ""},
		{"digits in a domain", "ada@4.example", "ada@4.example", ""},
		{"64 bytes before the @", strings.Repeat("l", 64) + "@example.com", strings.Repeat("l", 64) + "@example.com", ""},
		{"65 bytes before the @", strings.Repeat("l", 65) + "@example.com", "", "has more than 64 bytes before the @"},
		{"254 bytes", long(254), long(254), ""},
		{"255 bytes", long(255), "", "is longer than 254 bytes"},
		{"a megabyte", strings.Repeat("a@", 1<<19), "", "is longer than 254 bytes"},
		{"too long in A-labels", strings.Repeat("l", 64) + "@" + strings.Repeat("ü.", 25) + "example", "", "is longer than 254 bytes"},
		{"a domain too long in A-labels", "a@" + strings.Repeat("ü.", 80) + "example", "", malformed},
		{"nothing", "", "", "is empty"},
		{"no @", "ada.example.com", "", malformed},
		{"two @", "ada@evil@example.com", "", malformed},
		{"no local part", "@example.com", "", malformed},
		{"no domain", "ada@", "", malformed},
		{"a display name", "Bob <a@b.example>", "", malformed},
		{"angle brackets", "<a@b.example>", "", malformed},
		{"a comment", "a@b.example (x)", "", malformed},
		{"a comment before", "(x) a@b.example", "", malformed},
		{"a space after", "a@b.example ", "", malformed},
		{"a space before", " a@b.example", "", malformed},
		{"a list", "a@b.example, c@d.example", "", malformed},
		{"a group", "g:a@b.example;", "", malformed},
		{"a quoted local part", `"a@evil.com"@c.example`, "", malformed},
		{"a quoted local part that needs no quotes", `"a"@c.example`, "", malformed},
		{"a quoted local part with a space", `"a b"@c.example`, "", malformed},
		{"an encoded word", "=?utf-8?q?a=40evil.com?=@c.example", "", malformed},
		{"a part of an encoded word", "x=?x@c.example", "", malformed},
		{"a display name in an encoded word", "=?utf-8?q?x?= <a@c.example>", "", malformed},
		{"a line break", "a@b.example\r\nBcc: c@d.example", "", malformed},
		{"a line feed", "a\n@b.example", "", malformed},
		{"a NUL", "a\x00@b.example", "", malformed},
		{"a delete", "a\x7f@b.example", "", malformed},
		{"a tab", "a\t@b.example", "", malformed},
		{"a local part beyond ASCII", "ädä@b.example", "", malformed},
		{"a Kelvin sign in the local part", "\u212a@b.example", "", malformed},
		{"no UTF-8", "a@b\xff.example", "", malformed},
		{"an IP literal", "a@[127.0.0.1]", "", malformed},
		{"an IPv6 literal", "a@[IPv6:::1]", "", malformed},
		{"an IP address", "a@127.0.0.1", "", malformed},
		{"a domain of digits", "a@1.2", "", malformed},
		{"no dot", "a@localhost", "", malformed},
		{"a dot at the end", "a@b.example.", "", malformed},
		{"a dot at the start", "a@.b.example", "", malformed},
		{"an empty label", "a@b..example", "", malformed},
		{"an empty label by an ideographic stop", "a@b\u3002.example", "", malformed},
		{"an ideographic stop", "a@b\u3002example", "", malformed},
		{"a domain in full width", "a@ｂ.example", "", malformed},
		{"a soft hyphen", "a@b\u00adc.example", "", malformed},
		{"a space of no width", "a@b\u200bc.example", "", malformed},
		{"an override of direction", "a@b\u202ec.example", "", malformed},
		{"an underscore in a domain", "a@b_c.example", "", malformed},
		{"a hyphen first", "a@-b.example", "", malformed},
		{"a hyphen last", "a@b-.example", "", malformed},
		{"A-labels of nothing", "a@xn--.example", "", malformed},
		{"A-labels that cannot be", "a@xn--a.example", "", malformed},
		{"a label of 64 bytes", "a@" + strings.Repeat("d", 64) + ".example", "", malformed},
		{"a dot at the end of the local part", "a.@b.example", "", malformed},
		{"two dots in the local part", "a..b@b.example", "", malformed},
	} {
		t.Run(c.what, func(t *testing.T) {
			canonical, wrong := canonicalEmail(c.in)
			checkCanonical(t, canonical, wrong, c.canonical, c.wrong)
		})
	}
}

// foldings are the ways in which programs convert a domain into A-labels. A mail program uses the first or, if it only
// supports the previous standard, the second. Web forms compare domains by the third, or only by lower case.
var foldings = map[string]func(string) (string, error){
	"for looking it up": idna.Lookup.ToASCII,
	"of a browser":      idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false)).ToASCII,
	"for registration":  idna.Registration.ToASCII,
}

// An address has one canonical form, which is used for comparison and for mail. The test tries every character at every
// position of a domain. Either the domain is refused, or every folding gives the canonical form: of the domain as
// written, in lower case and in upper case.
func TestEmailDomainIsRefusedUnlessEveryFoldingGivesTheTextThatIsCompared(t *testing.T) {
	taken := 0
	for r := rune(0x80); r <= unicode.MaxRune; r++ {
		if !unicode.IsPrint(r) && !unicode.In(r, unicode.Cf, unicode.Mn, unicode.Me) {
			continue // unassigned or private use
		}
		if unicode.In(r, unicode.Han, unicode.Hangul) && r%64 != 0 {
			continue // no folding changes these, and they are nine tenths of all
		}
		for _, domain := range []string{"git" + string(r) + "hub.example", string(r) + "b.example", "a.ex" + string(r)} {
			canonical, fault := canonicalEmail("ada@" + domain)
			if fault != (Fault{}) {
				continue
			}
			taken++
			want := strings.TrimPrefix(canonical, "ada@")
			for name, fold := range foldings {
				for _, form := range []string{want, domain, strings.ToLower(domain)} {
					got, err := fold(form)
					if name == "for registration" && err != nil {
						continue // a program with this folding refuses the domain, so it sends no mail
					}
					if err != nil || got != want {
						t.Errorf("U+%04X: the canonical form of %q is %q, but %q by %s is %q, error %v",
							r, domain, want, form, name, got, err)
					}
				}
			}
			if upper, fault := canonicalEmail("ADA@" + strings.ToUpper(domain)); fault == (Fault{}) && upper != canonical {
				// Not every character is the lower case of its upper case. The domain in
				// upper case may therefore be another one, but mail must go to that one.
				if got, err := idna.Lookup.ToASCII(strings.ToUpper(domain)); err != nil || "ada@"+got != upper {
					t.Errorf("U+%04X: the canonical form of %q in upper case is %q, but mail goes to %q, error %v",
						r, domain, upper, got, err)
				}
			}
		}
	}
	if taken < 10_000 {
		t.Errorf("only %d domains are accepted", taken)
	}
	for _, domain := range []string{"g\u0130thub.com", "stra\u1e9ee.de", "github.c\u2126m", "\u212bngstrom.se"} {
		if canonical, fault := canonicalEmail("ada@" + domain); fault == (Fault{}) {
			if got, err := idna.Lookup.ToASCII(domain); err != nil || "ada@"+got != canonical {
				t.Errorf("the canonical form of %s is %s, but mail goes to %s, error %v", domain, canonical, got, err)
			}
		}
	}
}

func TestPersonNameIsAnyTextThatCannotForgeTheTextAroundIt(t *testing.T) {
	for _, c := range []struct{ what, in, name, wrong string }{
		{"plain", "Ada", "Ada", ""},
		{"with spaces", "  Mary Ann\t", "Mary Ann", ""},
		{"an apostrophe", "O'Brien-Smith", "O'Brien-Smith", ""},
		{"decomposed", "Zoe\u0308", "Zoë", ""},
		{"Persian, which needs a joiner", "علی\u200cرضا", "علی\u200cرضا", ""},
		{"Chinese", "李", "李", ""},
		{"100 characters", strings.Repeat("李", 100), strings.Repeat("李", 100), ""},
		{"101 characters", strings.Repeat("李", 101), "", "is longer than 100 characters"},
		{"nothing", "", "", "is empty"},
		{"white space", " \t\u3000", "", "is empty"},
		{"a line break", "Ada\r\nBcc: x", "", "holds control characters"},
		{"a NUL", "A\x00da", "", "holds control characters"},
		{"a C1 control", "A\u0085da", "", "holds control characters"},
		{"an escape", "A\x1b[31mda", "", "holds control characters"},
		{"a line separator", "A\u2028da", "", "holds control characters"},
		{"a paragraph separator", "A\u2029da", "", "holds control characters"},
		{"an override of direction", "A\u202eda", "", "holds control characters"},
		{"an isolate", "A\u2066da", "", "holds control characters"},
		{"no UTF-8", "A\xffda", "", "is not valid UTF-8"},
	} {
		t.Run(c.what, func(t *testing.T) {
			name, wrong := personName(c.in)
			checkCanonical(t, name, wrong, c.name, c.wrong)
		})
	}
}

func TestScopeHasEachTokenOfRFC6749Once(t *testing.T) {
	many := strings.TrimSpace(strings.Repeat("t ", 10_000))
	for _, c := range []struct{ what, in, scope, wrong string }{
		{"one", "profile", "profile", ""},
		{"two", "a b", "a b", ""},
		{"order and case are kept", "b a B", "b a B", ""},
		{"one given twice", "a b a", "a b", ""},
		{"spaces around", "  a   b ", "a b", ""},
		{"all that a token may hold", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", ""},
		{"1000 bytes", strings.Repeat("s", 1000), strings.Repeat("s", 1000), ""},
		{"1001 bytes", strings.Repeat("s", 1001), "", "is longer than 1000 bytes"},
		{"ten thousand tokens", many, "", "is longer than 1000 bytes"},
		{"nothing", "", "", "is empty"},
		{"spaces", "   ", "", "is empty"},
		{"a quote", `a"b`, "", "must be tokens"},
		{"a backslash", `a\b`, "", "must be tokens"},
		{"a NUL", "a\x00b", "", "must be tokens"},
		{"a line break", "a\r\nb", "", "must be tokens"},
		{"a tab", "a\tb", "", "must be tokens"},
		{"a delete", "a\x7f", "", "must be tokens"},
		{"beyond ASCII", "café", "", "must be tokens"},
		{"a space that does not break", "a\u00a0b", "", "must be tokens"},
	} {
		t.Run(c.what, func(t *testing.T) {
			scope, wrong := canonicalScope(c.in)
			checkCanonical(t, scope, wrong, c.scope, c.wrong)
		})
	}
}

// checkCanonical compares a result. wantWrong need only be the beginning of the message.
func checkCanonical(t *testing.T, canonical string, fault Fault, wantCanonical, wantWrong string) {
	t.Helper()
	if canonical != wantCanonical && wantWrong == "" {
		t.Errorf("the canonical form is %q; want %q", canonical, wantCanonical)
	}
	wrong := fault.Text
	if (wrong == "") != (fault.Reason == "") {
		t.Errorf("the fault is %+v", fault)
	}
	if !strings.HasPrefix(wrong, wantWrong) || (wrong == "") != (wantWrong == "") {
		t.Errorf("the fault is %q; want %q", wrong, wantWrong)
	}
}

func TestLoginWithAnAtSignIsAnEmailAndNeverAUsername(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Login
		ok   bool
	}{
		{"Ada", Login{CanonicalUsername: "ada"}, true},
		{"Ada@Example.com", Login{CanonicalEmail: "ada@example.com"}, true},
		{"ada@", Login{}, false},
		{"", Login{}, false},
		{"ada lovelace", Login{}, false},
	} {
		if got, ok := ParseLogin(c.in); got != c.want || ok != c.ok {
			t.Errorf("%q is %+v, %v; want %+v, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

func TestIsUUIDAcceptsOneSpelling(t *testing.T) {
	const id = "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22"
	if !IsUUID(id) || !IsUUID(newID()) {
		t.Error("a UUID is not recognized")
	}
	for _, other := range []string{
		"", "not-a-uuid", strings.ToUpper(id), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""),
		id + " ", id + "0", "01ARZ3NDEKTSV4RRFFQ69G5FAV", strings.Repeat("0", 1<<20),
	} {
		if IsUUID(other) {
			t.Errorf("%.50q is accepted as a UUID", other)
		}
	}
}

func TestScopeIsNeverWiderThanTheOneThatIsStillAllowed(t *testing.T) {
	for _, c := range []struct{ scope, allowed, want string }{
		{"a b", "a b", "a b"},
		{"a b", "b a", "a b"},
		{"a b", "a", "a"},
		{"a", "a b", "a"},
		{"a b", "", ""},
		{"", "a", ""},
		{"admin", "administrator", ""},
	} {
		if got := narrowScope(c.scope, c.allowed); got != c.want {
			t.Errorf("%q within %q is %q; want %q", c.scope, c.allowed, got, c.want)
		}
	}
}

func TestDisplayNameIsBothNamesJoined(t *testing.T) {
	for want, u := range map[string]User{
		"Ada Lovelace": {FirstName: "Ada", LastName: "Lovelace"},
		"Ada":          {FirstName: "Ada"},
		"Lovelace":     {LastName: "Lovelace"},
	} {
		if got := u.Name(); got != want {
			t.Errorf("the name is %q; want %q", got, want)
		}
	}
}

func FuzzCanonicalUsername(f *testing.F) {
	addAll(f, "Ada", "a.b", "\u212a", "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22")
	f.Fuzz(func(t *testing.T, s string) { checkForm(t, s, canonicalUsername, maxUsername) })
}

func FuzzCanonicalScope(f *testing.F) {
	addAll(f, "a b", " a  a ", `"`, "\u00a0")
	f.Fuzz(func(t *testing.T, s string) { checkForm(t, s, canonicalScope, maxScope) })
}

func FuzzCanonicalEmail(f *testing.F) {
	addAll(f, "Ada@Example.com", "a@BÜCHER.example", "a@b\u3002c", `"a"@b.c`, "a@xn--bcher-kva.example", "a@faß.de",
		"a@\u0130.com", "a.b!@c.d")
	f.Fuzz(func(t *testing.T, s string) {
		if !checkForm(t, s, canonicalEmail, maxEmail) {
			return
		}
		// Another parser must agree on every accepted address.
		if parsed, err := mail.ParseAddress(s); err != nil || parsed.Address != s || parsed.Name != "" {
			t.Errorf("net/mail reads %q as %+v: %v", s, parsed, err)
		}
	})
}

func addAll(f *testing.F, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
}

// checkForm checks that a canonical form is ASCII, within its limit, and its own canonical
// form. A faulty input must have no canonical form.
func checkForm(t *testing.T, s string, canonical func(string) (form string, wrong Fault), limit int) (taken bool) {
	form, wrong := canonical(s)
	if wrong != (Fault{}) {
		if form != "" {
			t.Fatalf("%q is faulty (%s), but has the canonical form %q", s, wrong, form)
		}
		return false
	}
	if form == "" || len(form) > limit {
		t.Fatalf("the canonical form of %q has %d bytes", s, len(form))
	}
	for i := range len(form) {
		if form[i] < ' ' || form[i] >= utf8.RuneSelf {
			t.Fatalf("the canonical form of %q is not printable ASCII: %q", s, form)
		}
	}
	if again, wrong := canonical(form); again != form || wrong != (Fault{}) {
		t.Fatalf("the canonical form of %q is %q, whose own canonical form is %q (%s)", s, form, again, wrong)
	}
	return true
}

package mail

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"

	"golang.org/x/net/publicsuffix"
	"golang.org/x/text/language"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

//go:embed templates/*.txt templates/*.html
var builtIn embed.FS

// maxTemplate bounds a file, so that a wrong one cannot fill the memory.
const maxTemplate = 256 << 10

// purposes are the kinds of mail; each has built-in templates.
var purposes = identity.MessagePurposes()

// TemplateOptions configure the templates.
type TemplateOptions struct {
	Dir     string                             // "": only the built-in templates
	Links   map[identity.MessagePurpose]string // contain {code}; without a link, mails contain only the code
	Service string                             // the name of the service in mails
}

// Letter is a rendered mail.
type Letter struct {
	Subject string // one line
	Text    string
	HTML    string // empty: only the text
	Link    string // empty: none
}

// Data is what a template may use.
type Data struct {
	Username         string // empty if the mail is about no account; never looks like a link
	Email            string // the recipient
	Code             string // in groups, as people read it; empty in mails without a code
	Link             string // contains the code; empty if no link is set up
	ExpiresIn        string // how long the code is valid, in English: 15 minutes
	ExpiresInMinutes int    // the same for other languages
	Service          string // SERVICE_NAME, or the host of the issuer
}

// Templates render messages. They are safe for concurrent use.
type Templates struct {
	byPurpose map[identity.MessagePurpose]wordings
	links     map[identity.MessagePurpose]string
	service   string
}

// wordings holds the templates of one purpose.
type wordings struct {
	fallback *wording
	matcher  language.Matcher // of the languages below
	matched  []*wording
}

// A wording is one mail in one language.
type wording struct {
	subject *template.Template
	text    *template.Template
	html    *htmltemplate.Template // nil: only the text
}

// LoadTemplates reads, parses and executes all templates, so that a broken one is found at
// start. The built-in templates serve the purposes that the folder lacks.
func LoadTemplates(o TemplateOptions) (*Templates, error) {
	t := &Templates{byPurpose: map[identity.MessagePurpose]wordings{}, links: o.Links, service: o.Service}
	root, err := fs.Sub(builtIn, "templates")
	if err != nil {
		return nil, err
	}
	words, err := readTemplates(root)
	if err != nil {
		return nil, fmt.Errorf("the built-in templates: %w", err)
	}
	if o.Dir != "" {
		own, err := readTemplates(os.DirFS(o.Dir))
		if err != nil {
			return nil, fmt.Errorf("the template folder %s: %w", o.Dir, err)
		}
		for purpose, inLanguages := range own {
			maps.Copy(words[purpose], inLanguages)
		}
	}
	for _, purpose := range purposes {
		t.byPurpose[purpose] = choose(words[purpose])
	}
	return t, nil
}

// fileName parses the name of a template, such as verification.txt or verification.de.html.
func fileName(name string) (purpose identity.MessagePurpose, lang, kind string, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) == 3 {
		tag, err := language.Parse(parts[1])
		if err != nil || tag == language.Und {
			return "", "", "", false
		}
		lang = tag.String()
		parts = []string{parts[0], parts[2]}
	}
	if len(parts) != 2 || parts[1] != "txt" && parts[1] != "html" {
		return "", "", "", false
	}
	purpose = identity.MessagePurpose(parts[0])
	return purpose, lang, parts[1], slices.Contains(purposes, purpose)
}

func readTemplates(folder fs.FS) (map[identity.MessagePurpose]map[string]*wording, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, err
	}
	type key struct {
		purpose identity.MessagePurpose
		lang    string
	}
	names := map[key]map[string]string{}
	var problems []error
	for _, e := range entries {
		// A mounted ConfigMap also contains entries such as ..data.
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		purpose, lang, kind, ok := fileName(e.Name())
		if !ok {
			problems = append(problems, fmt.Errorf(
				"%s is not the name of a template: name it PURPOSE.txt, PURPOSE.html, PURPOSE.LANGUAGE.txt or PURPOSE.LANGUAGE.html, "+
					"with a PURPOSE of %s and a LANGUAGE such as de or pt-BR; or remove it from the folder", e.Name(), purposeNames()))
			continue
		}
		k := key{purpose, lang}
		if names[k] == nil {
			names[k] = map[string]string{}
		}
		if other := names[k][kind]; other != "" {
			problems = append(problems, fmt.Errorf("%s and %s are the same template: remove one of them", other, e.Name()))
		}
		names[k][kind] = e.Name()
	}
	words := map[identity.MessagePurpose]map[string]*wording{}
	for _, purpose := range purposes {
		words[purpose] = map[string]*wording{}
	}
	for _, k := range slices.SortedFunc(maps.Keys(names), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.purpose, b.purpose), cmp.Compare(a.lang, b.lang))
	}) {
		w, err := readWording(folder, names[k]["txt"], names[k]["html"])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		words[k.purpose][k.lang] = w
	}
	return words, errors.Join(problems...)
}

func purposeNames() string {
	names := make([]string, len(purposes))
	for i, p := range purposes {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}

// readWording reads a text and the HTML beside it, if there is one, and executes both.
func readWording(folder fs.FS, textName, htmlName string) (*wording, error) {
	if textName == "" {
		want := strings.TrimSuffix(htmlName, ".html") + ".txt"
		return nil, fmt.Errorf("%s has no %s beside it: write one; its first line is the subject, and some people do not read HTML",
			htmlName, want)
	}
	source, err := readFile(folder, textName)
	if err != nil {
		return nil, err
	}
	first, rest, _ := strings.Cut(source, "\n")
	subject, isSubject := strings.CutPrefix(first, "Subject:")
	empty, body, found := strings.Cut(rest, "\n")
	if !isSubject || strings.TrimSpace(empty) != "" || !found {
		return nil, fmt.Errorf("%s:1: the first line must be `Subject: …` and the second line empty; the text follows", textName)
	}
	w := &wording{}
	if w.subject, err = template.New(textName).Parse(subject); err != nil {
		return nil, err
	}
	// The two lines are restored, so that errors name the line numbers of the file.
	if w.text, err = template.New(textName).Parse("\n\n" + body); err != nil {
		return nil, err
	}
	if htmlName != "" {
		if source, err = readFile(folder, htmlName); err != nil {
			return nil, err
		}
		if w.html, err = htmltemplate.New(htmlName).Parse(source); err != nil {
			return nil, err
		}
	}
	err = w.try()
	return w, err
}

func readFile(folder fs.FS, name string) (string, error) {
	data, err := fs.ReadFile(folder, name)
	if err != nil {
		return "", err
	}
	if len(data) > maxTemplate {
		return "", fmt.Errorf("%s is larger than %d KiB: shorten it", name, maxTemplate>>10)
	}
	source := strings.TrimPrefix(string(data), "\ufeff") // some editors start a file with it
	return strings.ReplaceAll(source, "\r\n", "\n"), nil
}

// try executes a wording with and without the optional values.
func (w *wording) try() error {
	for _, data := range []Data{
		{
			Username: "ada", Email: "ada@example.com",
			Code: "ABCDE-FGHIJ-KLMNO-PQRST-UVWXYZ", Link: "https://app.example.com/#ABCDEFGHIJKLMNOPQRSTUVWXYZ",
			ExpiresIn: "15 minutes", ExpiresInMinutes: 15, Service: "auth.example.com",
		},
		{
			Email: "ada@example.com", Code: "ABCDE-FGHIJ-KLMNO-PQRST-UVWXYZ",
			ExpiresIn: "15 minutes", ExpiresInMinutes: 15, Service: "auth.example.com",
		},
		{Email: "ada@example.com", Service: "auth.example.com"},
	} {
		if _, err := w.write(data); err != nil {
			return err
		}
	}
	return nil
}

func (w *wording) write(data Data) (Letter, error) {
	var subject, text, html strings.Builder
	if err := w.subject.Execute(&subject, data); err != nil {
		return Letter{}, err
	}
	l := Letter{Subject: oneLine(subject.String()), Link: data.Link}
	if l.Subject == "" {
		return Letter{}, fmt.Errorf("%s:1: the subject is empty: write one", w.subject.Name())
	}
	if err := w.text.Execute(&text, data); err != nil {
		return Letter{}, err
	}
	l.Text = strings.TrimSpace(text.String()) + "\n"
	if w.html != nil {
		if err := w.html.Execute(&html, data); err != nil {
			return Letter{}, err
		}
		l.HTML = html.String()
	}
	return l, nil
}

// oneLine makes a text safe for a header: whatever a name contains, it cannot start another header.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

// choose returns the wordings of a purpose. A file without a language serves all languages
// that have no file, and is the English one if there is no other.
func choose(inLanguages map[string]*wording) wordings {
	w := wordings{fallback: inLanguages[""]}
	var tags []language.Tag
	if inLanguages[language.English.String()] == nil {
		tags, w.matched = append(tags, language.English), append(w.matched, w.fallback)
	}
	for _, lang := range slices.Sorted(maps.Keys(inLanguages)) {
		if lang != "" {
			tags, w.matched = append(tags, language.Make(lang)), append(w.matched, inLanguages[lang])
		}
	}
	w.matcher = language.NewMatcher(tags)
	return w
}

// in returns the wording for an Accept-Language.
func (w wordings) in(accepted string) *wording {
	tags, _, err := language.ParseAcceptLanguage(accepted)
	if err != nil || len(tags) == 0 {
		return w.fallback
	}
	_, i, confidence := w.matcher.Match(tags...)
	if confidence == language.No {
		return w.fallback
	}
	return w.matched[i]
}

// Render renders a message.
func (t *Templates) Render(m identity.Message) (Letter, error) {
	w, ok := t.byPurpose[m.Purpose]
	if !ok {
		return Letter{}, fmt.Errorf("there is no template for the purpose %q", m.Purpose)
	}
	data := Data{
		Username: withoutLinks(m.Username), Email: m.To, Code: grouped(m.Code), Service: t.service,
		ExpiresIn: inWords(m.TTL), ExpiresInMinutes: int(m.TTL / time.Minute),
	}
	if link := t.links[m.Purpose]; link != "" && m.Code != "" {
		data.Link = strings.Replace(link, "{code}", url.QueryEscape(m.Code), 1)
	}
	return w.in(m.Language).write(data)
}

// grouped splits a code into groups that people can read and compare:
// ABCDE-FGHIJ-KLMNO-PQRST-UVWXYZ. The server ignores the hyphens.
func grouped(code string) string {
	const size = 5
	var groups []string
	for len(code) >= 2*size {
		groups, code = append(groups, code[:size]), code[size:]
	}
	return strings.Join(append(groups, code), "-")
}

// linkEnding matches a dot and what could be a top-level domain after it.
var linkEnding = regexp.MustCompile(`\.([a-zA-Z]{2,})`)

// withoutLinks puts a dot of a name in brackets if a mail program could take the name for a web address:
// prizes.example[.]net. Anyone can sign up with a stranger's address, and the stranger reads the username.
func withoutLinks(name string) string {
	return linkEnding.ReplaceAllStringFunc(name, func(ending string) string {
		if _, registered := publicsuffix.PublicSuffix(strings.ToLower(ending[1:])); registered {
			return "[.]" + ending[1:]
		}
		return ending
	})
}

// inWords writes a duration in its two largest units, as people do: up to two days in hours.
func inWords(d time.Duration) string {
	var words []string
	days := d >= 48*time.Hour
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if unit.name == "day" && !days {
			continue
		}
		n := int64(d / unit.size)
		d %= unit.size
		switch {
		case n == 1:
			words = append(words, "1 "+unit.name)
		case n > 1:
			words = append(words, fmt.Sprintf("%d %ss", n, unit.name))
		}
		if len(words) == 2 {
			break
		}
	}
	return strings.Join(words, " and ")
}

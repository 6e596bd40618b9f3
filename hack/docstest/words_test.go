package docstest

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// rejected is an entry of the word list: a wording that comments, messages and documents must not use, and the wording
// to use instead.
type rejected struct {
	name    string
	pattern *regexp.Regexp
	fine    *regexp.Regexp // correct English that matches the pattern; nil if there is none
	instead string
}

func reject(name, pattern, fine, instead string) rejected {
	r := rejected{name: name, pattern: regexp.MustCompile(pattern), instead: instead}
	if fine != "" {
		r.fine = regexp.MustCompile(fine)
	}
	return r
}

// start is the beginning of a sentence or a table cell; end is its end, without a question mark.
const (
	start = `(?:^|[.:;|]\s+)`
	end   = `[^?.;|]*(?:[.;|]|$)`
)

// words is the word list. Keep it short: add an entry only if readers stumble over the wording, and if it came back
// before.
var words = []rejected{
	// Pronouns and clauses in place of an actor.
	reject("whoever", `(?i)\b(whoever|whomever|nobody|somebody|anybody)\b`, "", "name the actor: the client, the operator, a caller without the key, no replica"),
	reject("Who …", start+`Who\b`+end, "", "name the actor: a client that …"),
	reject("What is …", start+`What (?:is|was|are|were)\b`+end, "", "name the thing: the fields that …, not \"what is …\""),
	reject("Where …", start+`Where [a-z][^?.|]*,`, "", "a condition is \"if\" or \"when\"; \"where\" is for places"),
	// Wordings that are rare in technical English, or mean something else there.
	reject("is none", `\b(?:is|are|was|were|be) none\b`, `\b[Tt]here (?:is|are|was|were) none\b`, "is missing, is not set, is invalid, there is no …"),
	reject("but for", `\bbut for\b`, "", "except"),
	reject("by itself", `(?i)\bby (?:itself|themselves)\b`, "", "on its own, automatically; or leave it out"),
	reject("tells", `\b(?:tells|told)\b`, "", "a program reports, returns, logs or records; a reader learns"),
	reject("so that … so that", `(?i)\bso that\b[^.;]*\bso that\b`, "", "one clause a sentence"),
	reject("alone", `\balone\b`, `(?i)\b(?:leaves?|left|leaving|let)(?: [\w.-]+){0,5} alone\b`, "only"),
	reject("amiss", `\bamiss\b`, "", "wrong; name the problem"),
	reject("goes by", `\b(?:goes|go|going|went) by\b`, "", "uses, follows, depends on"),
	reject("for ever", `(?i)\bfor ever\b`, "", "forever, without end"),
	reject("anew", `\banew\b`, "", "again, new"),
	reject("mend", `\bmend(?:s|ed|ing)?\b`, "", "fix, repair"),
	reject("is away", `\b(?:is|are|was|were|be) away\b`, "", "is unreachable, is down"),
	reject("last words", `(?i)\blast words\b`, "", "termination message"),
	reject("looks after", `\blook(?:s|ed|ing)? after\b`, "", "manages"),
	reject("keeps from", `\b(?:keeps?|kept|keeping) (?:it|them|others|no other|nothing|everything|anything)(?: else)? from\b`, "", "prevents, stops, blocks"),
	reject("in its stead", `(?i)\b(?:in (?:its|their) stead|at the most|lest|therein|thereof|wherein|whence)\b`, "", "instead, at most, so that … not, in which"),
	// Terms that were replaced by the standard ones; see the glossary in ARCHITECTURE.md.
	reject("custody", `(?i)\bcustody\b`, "", "PassphraseState: the current and previous passphrase of each use"),
	reject("tend", `(?i)\btend(?:s|ed)\b`, "", "reconcile"),
	reject("workshop", `(?i)\bworkshop\b`, "", "keyFactory"),
	reject("lane", `(?i)\blanes?\b`, "", "the hashing worker pool"),
	reject("shed", `\bshed\b`, "", "reject, rejected"),
	reject("afterlife", `(?i)\bafterlife\b`, "", "retire interval (RFC 7583)"),
}

// retired matches the terms that identifiers must not use either. Not planes, such as ControlPlane of envtest.
var retired = regexp.MustCompile(`(?i)custody|workshop|afterlife|^(?:re)?tend(?:s|ed)?$|(?:^|[a-oq-z])lanes?$`)

// unfinished lists the folders and files that still use such wordings. The list may only become shorter: remove an
// entry when it is clean. In identitytest, the names of the contract's subtests stay as they are.
var unfinished = []string{"internal/identity/identitytest"}

var everywhere = flag.Bool("everywhere", false, "report the folders in unfinished too")

// text is a comment, a message or the prose of a document, with its first line.
type text struct {
	line    int
	content string
}

var (
	quotation = regexp.MustCompile("``[^`]+``|`[^`\n]+`" + `|"[^"\n]{1,80}"|“[^”]+”|'[^'\s][^'\n]{0,60}'`)
	directive = regexp.MustCompile(`(?m)^//(?:go:|nolint|\+|line )[^\n]*`)
	marker    = regexp.MustCompile(`(?m)^[ \t]*(?://+|/\*|\*/|#+|--|\*)[ \t]?`)
)

// blank replaces quoted text and code by underscores, so that offsets and lines stay the same.
func blank(s string, what *regexp.Regexp) string {
	return what.ReplaceAllStringFunc(s, func(m string) string {
		return strings.Map(func(r rune) rune {
			if r == '\n' {
				return r
			}
			return '_'
		}, m)
	})
}

// find returns the entries that a text contains, with their lines.
func find(t text) (all []string) {
	content := blank(t.content, quotation)
	for _, r := range words {
		for _, at := range r.pattern.FindAllStringIndex(content, -1) {
			if r.fine != nil && slices.ContainsFunc(r.fine.FindAllStringIndex(content, -1), func(f []int) bool { return f[0] <= at[0] && at[1] <= f[1] }) {
				continue
			}
			found := strings.Join(strings.Fields(strings.Trim(content[at[0]:at[1]], ".:;| \n")), " ")
			line := t.line + strings.Count(content[:at[0]], "\n") + strings.Count(content[at[0]:at[1]], "\n") - strings.Count(strings.TrimLeft(content[at[0]:at[1]], ".:;| \n"), "\n")
			all = append(all, fmt.Sprintf("%d: %q: write: %s", line, found, r.instead))
		}
	}
	return all
}

// goTexts returns the comments of a Go file and its strings that are sentences, and
// the retired identifiers that it declares or uses.
func goTexts(path, content string) (all []text, identifiers []string, err error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	for _, group := range file.Comments {
		var lines []string
		for _, c := range group.List {
			lines = append(lines, c.Text)
		}
		line := files.Position(group.Pos()).Line
		comment := marker.ReplaceAllString(blank(strings.Join(lines, "\n"), directive), "")
		all = append(all, text{line: line, content: comment})
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && strings.Contains(s, " ") {
				all = append(all, text{line: files.Position(n.Pos()).Line, content: s})
			}
		case *ast.Ident:
			if retired.MatchString(n.Name) {
				identifiers = append(identifiers, fmt.Sprintf("%d: %s: see the word list", files.Position(n.Pos()).Line, n.Name))
			}
		}
		return true
	})
	return all, identifiers, nil
}

// markdownText returns the prose of a document. A line of a table ends a sentence, as an empty line does.
func markdownText(content string) text {
	inside := false
	var lines []string
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n")
		if fence.MatchString(line) {
			inside, line = !inside, ""
		}
		switch {
		case inside, indented.MatchString(line), strings.HasPrefix(line, "#"):
			line = "."
		case line == "":
			line = "."
		default:
			line = strings.TrimLeft(line, "-*> ")
		}
		lines = append(lines, link.ReplaceAllString(line, "]"))
	}
	return text{line: 1, content: strings.Join(lines, "\n")}
}

const longest = 140

var (
	table  = regexp.MustCompile("^\\s*(?:\\{|\"|`|[\\w.]+: )")
	noWrap = regexp.MustCompile(`://|^\s*//(?:go:|nolint|\s*\+)|//nolint:`)
)

// longLines returns the lines of a Go file that are too long, except those that cannot be wrapped: a URL, a marker, a
// row of a test's table.
func longLines(path, content string) (all []string) {
	n := 0
	for line := range strings.Lines(content) {
		n++
		length := utf8.RuneCountInString(strings.TrimRight(line, "\n"))
		if length > longest && !noWrap.MatchString(line) && !(strings.HasSuffix(path, "_test.go") && table.MatchString(line)) {
			all = append(all, fmt.Sprintf("%d: %d columns: %d at most", n, length, longest))
		}
	}
	return all
}

// generated matches the marker of generated files, which are not checked; their sources are.
var generated = regexp.MustCompile(`(?m)^(?://|#|<!--|\{\{- /\*) (?:Code generated .*DO NOT EDIT|Generated by go generate)`)

// sources returns the files that people write, by their path from the root.
func sources(t *testing.T) map[string]string {
	t.Helper()
	suffixes := []string{".go", ".md", ".yaml", ".yml", ".sh", ".sql", ".html", ".txt", ".js", ".mjs", ".ts", ".css", ".tpl", ".mod", "Makefile", "Dockerfile"}
	skip := []string{".git", ".local", "bin", "node_modules", "testdata"}
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && slices.Contains(skip, d.Name()) {
				return filepath.SkipDir
			}
			return err
		}
		if !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(d.Name(), s) }) || strings.HasSuffix(d.Name(), "common_passwords.txt") || !d.Type().IsRegular() {
			return nil
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(filepath.ToSlash(relative), "config/crd/bases/") {
			return nil // controller-gen writes no such comment
		}
		content, err := os.ReadFile(path)
		if err == nil && !generated.Match(content) {
			all[filepath.ToSlash(relative)] = string(content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// problemsOf returns the lines of a file that the word list or the length limit rejects.
func problemsOf(t *testing.T, path, content string) (all []string) {
	t.Helper()
	switch {
	case strings.HasSuffix(path, "hack/docstest/words_test.go"):
		return nil // it contains the list
	case filepath.Ext(path) == ".go":
		texts, identifiers, err := goTexts(path, content)
		if err != nil {
			t.Fatal(err)
		}
		all = append(identifiers, longLines(path, content)...)
		for _, c := range texts {
			all = append(all, find(c)...)
		}
	case filepath.Ext(path) == ".md":
		all = find(markdownText(content))
	default:
		all = find(text{line: 1, content: marker.ReplaceAllString(content, "")})
	}
	slices.SortFunc(all, func(a, b string) int {
		x, _, _ := strings.Cut(a, ":")
		y, _, _ := strings.Cut(b, ":")
		i, _ := strconv.Atoi(x)
		j, _ := strconv.Atoi(y)
		return cmp.Compare(i, j)
	})
	return all
}

func TestTheWordListHolds(t *testing.T) {
	exempt := map[string]int{}
	checked := sources(t)
	for _, path := range slices.Sorted(maps.Keys(checked)) {
		problems := problemsOf(t, path, checked[path])
		i := slices.IndexFunc(unfinished, func(u string) bool { return path == u || strings.HasPrefix(path, u+"/") })
		if i >= 0 {
			exempt[unfinished[i]] += len(problems)
		}
		if i < 0 || *everywhere {
			for _, problem := range problems {
				t.Errorf("%s:%s", path, problem)
			}
		}
	}
	for _, entry := range unfinished {
		if exempt[entry] == 0 {
			t.Errorf("%s is clean: remove it from unfinished", entry)
		}
	}
	if len(checked) < 300 {
		t.Errorf("only %d files were found; this test looks in the wrong place", len(checked))
	}
}

func TestTheWordListFindsWhatItNames(t *testing.T) {
	for content, want := range map[string]int{
		"Whoever asks is told that nobody is there.":                          3,
		"A value that is none fails.\nWhat is wrong is refused.":              2,
		"Who may call it. Who may call it?":                                   1,
		"Where the key is lost, it ends. It says where it stands.":            1,
		"it wins alone; leave the object alone":                               1,
		"so that it ends, so that it starts":                                  1,
		"so that it ends. So that it starts.":                                 0,
		"`nobody` and \"whoever\" are quoted; what is it? It is by the book.": 0,
	} {
		if got := find(text{line: 1, content: content}); len(got) != want {
			t.Errorf("%q: %d found, want %d: %v", content, len(got), want, got)
		}
	}
	const source = "package p\n\n// Run runs.\n//\n//nolint:nobody // told\nfunc Run() {\n\t// It waits\n\t// by itself.\n\tprintln(\"nobody answers\", \"nobody\", Custody)\n}\n"
	if got := strings.Join(problemsOf(t, "a.go", source), "\n"); strings.Count(got, "\n") != 2 || !strings.HasPrefix(got, "8: ") {
		t.Errorf("got\n%s", got)
	}
	document := "# Nobody\n\n| Who calls | told |\n|---|---|\n\n```\nnobody\n```\n\n    whoever\n\n- amiss\n"
	if got := problemsOf(t, "a.md", document); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	if long := "\tx := " + strings.Repeat("x", 140); len(longLines("a.go", long+"\n"+long+" // https://example.com\nok\n")) != 1 || len(longLines("a_test.go", "\t{"+long)) != 0 {
		t.Error("long lines are not found, or rows of tables are")
	}
}

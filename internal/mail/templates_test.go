package mail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// folder writes files in the layout of a mounted ConfigMap: links into a folder whose name begins with two dots.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	testenv.NoError(t, os.Mkdir(filepath.Join(dir, "..2026"), 0o755))
	testenv.NoError(t, os.Symlink("..2026", filepath.Join(dir, "..data")))
	for name, content := range files {
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, "..2026", name), []byte(content), 0o600))
		testenv.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	return dir
}

func render(t *testing.T, words *Templates, m identity.Message) Letter {
	t.Helper()
	return testenv.Must(words.Render(m))(t)
}

func TestTemplatesOfEveryPurposeDiffer(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{})
	seen := map[string]identity.MessagePurpose{}
	for _, purpose := range purposes {
		m := aMessage(1)
		m.Purpose = purpose
		bringsCode := purpose == identity.MailVerification || purpose == identity.MailRecovery || purpose == identity.MailEmailChange ||
			purpose == identity.MailInvitation
		if !bringsCode {
			m.Code, m.TTL = "", 0
		}
		l := render(t, words, m)
		if other, taken := seen[l.Subject]; taken {
			t.Errorf("%s and %s have the same subject, %q", purpose, other, l.Subject)
		}
		seen[l.Subject] = purpose
		for form, text := range map[string]string{"text": l.Text, "HTML": l.HTML} {
			if !strings.Contains(text, "auth.example.com") {
				t.Errorf("the %s of %s does not name its purpose:\n%s", form, purpose, text)
			}
			const about = "This code expires in 15 minutes and can be used once. Don't share this code with anyone."
			if bringsCode && (!strings.Contains(text, "ABCDE-FGHIJ-KLMNO-PQRST-UVWXYZ") || !strings.Contains(text, about)) {
				t.Errorf("the %s of %s lacks the code or its lifetime:\n%s", form, purpose, text)
			}
			if !strings.Contains(text, "If it was not you") && !strings.Contains(text, "If you did not ") {
				t.Errorf("the %s of %s does not advise a reader who did not request it:\n%s", form, purpose, text)
			}
			if strings.Contains(text, "src=") || strings.Contains(text, "http") {
				t.Errorf("the %s of %s loads or links external content:\n%s", form, purpose, text)
			}
		}
	}
}

func TestTemplatesOfASignUpNameTheUsername(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{})
	l := render(t, words, aMessage(1))
	if !strings.Contains(l.Text, "\nUsername: ada\n") || !strings.Contains(l.HTML, "Username: <strong>ada</strong>") {
		t.Errorf("the mail does not name the username of the sign-up:\n%s\n%s", l.Text, l.HTML)
	}
}

func TestTemplatesGreetWithoutAUsername(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{})
	for _, purpose := range purposes {
		m := aMessage(1)
		m.Purpose, m.Username = purpose, ""
		l := render(t, words, m)
		if text := l.Text + l.HTML; strings.Contains(text, "Hello ,") || strings.Contains(text, "Username") {
			t.Errorf("%s without a username still mentions one:\n%s", purpose, text)
		}
	}
}

func TestTemplatesNeverMakeAUsernameALink(t *testing.T) {
	// A caller can sign up with a stranger's address and any username.
	for name, want := range map[string]string{
		"prizes.example.net": "prizes.example[.]net", "WIN.COM": "WIN[.]COM", "a.com_b": "a[.]com_b", "x.co.uk": "x[.]co[.]uk",
		"ada.lovelace": "ada.lovelace", "ada": "ada", "a.b.c": "a.b.c", "v1.2": "v1.2", "": "",
	} {
		if got := withoutLinks(name); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
	words := mustTemplates(t, TemplateOptions{})
	for _, purpose := range purposes {
		m := aMessage(1)
		m.Purpose, m.Username = purpose, "prizes.example.net"
		if l := render(t, words, m); strings.Contains(l.Subject+l.Text+l.HTML, m.Username) {
			t.Errorf("%s repeats the username:\n%s", purpose, l.Text)
		}
	}
}

// TestTemplatesAreWrittenInSentences checks the wording, because the users of every adopter read these mails.
func TestTemplatesAreWrittenInSentences(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{Links: map[identity.MessagePurpose]string{identity.MailRecovery: "https://app.example.com/#{code}"}})
	for _, purpose := range purposes {
		m := aMessage(1)
		m.Purpose = purpose
		for line := range strings.Lines(render(t, words, m).Text) {
			first, _ := utf8.DecodeRuneInString(line)
			if unicode.IsLower(first) && !strings.HasPrefix(line, "https://") {
				t.Errorf("%s begins a sentence with a lower-case letter: %s", purpose, line)
			}
		}
	}
}

func TestTemplatesPutTheCodeIntoTheLink(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{Links: map[identity.MessagePurpose]string{
		identity.MailVerification: "https://app.example.com/verify?x=1&y=2#{code}",
	}})
	m := aMessage(1)
	l := render(t, words, m)
	want := "https://app.example.com/verify?x=1&y=2#" + m.Code
	if l.Link != want || !strings.Contains(l.Text, want) {
		t.Errorf("the link is %q, and the text is\n%s", l.Link, l.Text)
	}
	if !strings.Contains(l.HTML, `href="https://app.example.com/verify?x=1&amp;y=2#`+m.Code+`"`) {
		t.Errorf("the HTML does not contain the link:\n%s", l.HTML)
	}
	m.Purpose = identity.MailRecovery
	if l := render(t, words, m); l.Link != "" || strings.Contains(l.Text, "link") {
		t.Errorf("a mail without a link mentions one:\n%s", l.Text)
	}
}

func TestTemplatesEscapeHostileNames(t *testing.T) {
	dir := folder(t, map[string]string{
		"verification.txt":  "Subject: Hello {{.Username}}\n\nHello {{.Username}}, {{.Code}}\n",
		"verification.html": "<p title=\"{{.Username}}\">{{.Username}}</p>",
	})
	words := mustTemplates(t, TemplateOptions{Dir: dir})
	m := aMessage(1)
	m.Username = "a\r\nBcc: eve@example.net\r\n\r\n<script>\"\u2028\x00\xff"
	l := render(t, words, m)
	if strings.ContainsAny(l.Subject, "\r\n\x00\u2028") || !strings.HasPrefix(l.Subject, "Hello a Bcc:") {
		t.Errorf("the subject is %q", l.Subject)
	}
	if strings.Contains(l.HTML, "<script>") || strings.Contains(l.HTML, `title="a`+"\r\nBcc: eve@example.net\r\n\r\n<") {
		t.Errorf("the HTML is\n%s", l.HTML)
	}
}

func TestTemplatesUseTheLanguageOfTheReader(t *testing.T) {
	text := func(word string) string { return "Subject: " + word + "\n\n" + word + "\n" }
	dir := folder(t, map[string]string{
		"verification.de.txt": text("Hallo"), "verification.pt-BR.txt": text("Oi"),
		"recovery.txt": text("Grüezi"), "recovery.en.txt": text("Hello"),
	})
	words := mustTemplates(t, TemplateOptions{Dir: dir})
	for _, c := range []struct {
		purpose        identity.MessagePurpose
		accepted, want string
	}{
		{identity.MailVerification, "de-CH,de;q=0.9,en;q=0.8", "Hallo"},
		{identity.MailVerification, "pt", "Oi"},
		{identity.MailVerification, "en-GB,de;q=0.5", "Confirm your email address for auth.example.com"},
		{identity.MailVerification, "ja", "Confirm your email address for auth.example.com"},
		{identity.MailVerification, "ja,de;q=0.1", "Hallo"},
		{identity.MailVerification, "", "Confirm your email address for auth.example.com"},
		{identity.MailVerification, "*", "Confirm your email address for auth.example.com"},
		{identity.MailVerification, ";;q=nonsense,,", "Confirm your email address for auth.example.com"},
		{identity.MailVerification, strings.Repeat("de-", 85), "Confirm your email address for auth.example.com"},
		{identity.MailRecovery, "en-US", "Hello"},
		{identity.MailRecovery, "ja", "Grüezi"},
		{identity.MailRecovery, "", "Grüezi"},
		{identity.MailEmailTaken, "de", "You already have an account at auth.example.com"},
	} {
		m := aMessage(1)
		m.Purpose, m.Language = c.purpose, c.accepted
		if l := render(t, words, m); l.Subject != c.want {
			t.Errorf("%s for %q has the subject %q; want %q", c.purpose, c.accepted, l.Subject, c.want)
		}
	}
	m := aMessage(1)
	m.Language = "de"
	if l := render(t, words, m); l.HTML != "" {
		t.Errorf("a custom text is sent with the HTML of the built-in one:\n%s", l.HTML)
	}
}

func TestTemplatesThatAreWrongAreRefusedWithFileAndLine(t *testing.T) {
	const good = "Subject: x\n\nx\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"a file of another name", map[string]string{"welcome.txt": good}, []string{"welcome.txt", "verification", "email_changed", "PURPOSE.LANGUAGE.txt"}},
		{"an unknown language", map[string]string{"verification.klingonese.txt": good}, []string{"verification.klingonese.txt"}},
		{"another kind", map[string]string{"verification.md": good}, []string{"verification.md"}},
		{"no subject", map[string]string{"verification.txt": "Hello\n\nx\n"}, []string{"verification.txt:1", "Subject:"}},
		{"no empty line", map[string]string{"verification.txt": "Subject: x\nHello\n"}, []string{"verification.txt:1"}},
		{"a subject that is empty", map[string]string{"verification.txt": "Subject: {{if false}}x{{end}}\n\nx\n"}, []string{"verification.txt:1", "empty"}},
		{"a header after the subject", map[string]string{"verification.txt": "Subject: x\nBcc: eve@example.net\n\nx\n"}, []string{"verification.txt:1"}},
		{"what cannot be parsed", map[string]string{"verification.txt": "Subject: x\n\nx\n{{.Code\n"}, []string{"verification.txt:4"}},
		{"a variable that there is not", map[string]string{"verification.de.txt": "Subject: x\n\nx\n\n{{.Password}}\n"}, []string{"verification.de.txt:5", "Password"}},
		{"one in the subject", map[string]string{"verification.txt": "Subject: {{.Nothing}}\n\nx\n"}, []string{"verification.txt:1", "Nothing"}},
		{"one in HTML, where there is no link", map[string]string{"recovery.txt": good, "recovery.html": "<p>\n{{if not .Link}}{{.Foo}}{{end}}"}, []string{"recovery.html:2", "Foo"}},
		{"HTML in which nothing can be escaped", map[string]string{"recovery.txt": good, "recovery.html": "<p>\n<a href='{{if .Link}}'{{end}}>"}, []string{"recovery.html"}},
		{"HTML without a text", map[string]string{"recovery.de.html": "<p>"}, []string{"recovery.de.html", "recovery.de.txt"}},
		{"the same twice", map[string]string{"recovery.pt-BR.txt": good, "recovery.pt-br.txt": good}, []string{"recovery.pt-BR.txt", "recovery.pt-br.txt"}},
		{"a huge file", map[string]string{"recovery.txt": good + strings.Repeat("x", maxTemplate)}, []string{"recovery.txt", "256 KiB"}},
		{"all problems at once", map[string]string{"a.txt": good, "recovery.txt": "x"}, []string{"a.txt", "recovery.txt:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := LoadTemplates(TemplateOptions{Dir: folder(t, c.files)})
			if err == nil {
				t.Fatal("LoadTemplates accepts the files")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not contain %q: %v", want, err)
				}
			}
		})
	}
	if _, err := LoadTemplates(TemplateOptions{Dir: "/nowhere/at/all"}); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("the folder does not exist: error %v", err)
	}
}

func TestTemplatesMayComeFromAnotherSystem(t *testing.T) {
	dir := folder(t, map[string]string{"verification.txt": "\ufeffSubject: Hello\r\n\r\nIt is {{.Code}}\r\n"})
	l := render(t, mustTemplates(t, TemplateOptions{Dir: dir}), aMessage(1))
	if l.Subject != "Hello" || l.Text != "It is ABCDE-FGHIJ-KLMNO-PQRST-UVWXYZ\n" {
		t.Errorf("the subject is %q, the text %q", l.Subject, l.Text)
	}
}

func TestTemplatesOfALaterPurposeAreAnError(t *testing.T) {
	m := aMessage(1)
	m.Purpose = "new_device"
	if _, err := mustTemplates(t, TemplateOptions{}).Render(m); err == nil {
		t.Error("a message of an unknown purpose is rendered")
	}
}

func TestTemplatesWriteDurationsInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		15 * time.Minute: "15 minutes", time.Hour: "1 hour", 90 * time.Minute: "1 hour and 30 minutes",
		24 * time.Hour: "24 hours", 36 * time.Hour: "36 hours", 48*time.Hour + time.Second: "2 days and 1 second", time.Minute: "1 minute", 0: "",
	} {
		if got := inWords(d); got != want {
			t.Errorf("%v is written %q; want %q", d, got, want)
		}
	}
}

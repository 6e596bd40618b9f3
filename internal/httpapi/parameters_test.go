package httpapi

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/valyala/fasthttp"
)

// FuzzBody compares the parser with the standard library's: what it accepts they accept too, with the same values. What it
// refuses gets a proper error.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `{}`, `[]`, `null`, `"x"`, `0`, `{"code":"c"}`, `{"code":5}`, `{"code":null,"x":[{"y":1}]}`, `{"code":"c","code":"d"}`,
		`{"\u0063ode":"\u0000"}`, `{"CODE":"c"}`, `{"code":"\ud800"}`, "{\"code\":\"\xff\"}", "\xef\xbb\xbf{}", `{}{}`, `{"x":` + strings.Repeat("[", 40),
		`refresh_token=r`, `refresh_token=r&refresh_token=s`, `token=%00`, `token=%ff&a[9]=1`, `a=b;c=d`, `%zz`,
	} {
		f.Add([]byte(seed), "application/json")
		f.Add([]byte(seed), "application/x-www-form-urlencoded")
	}
	f.Add([]byte(`{}`), "application/json; charset=utf-8")
	f.Add([]byte(`{}`), "text/plain; a=\"")

	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		var req fasthttp.Request
		req.SetBody(body)
		req.Header.SetContentType(contentType)
		var p parameters
		if err := p.read(&req, jsonOrForm); err != nil {
			got := failureOf(err)
			if got.status != http.StatusBadRequest && got.status != http.StatusUnsupportedMediaType || got.description == "" {
				t.Fatalf("refused with %+v", got)
			}
			return
		}
		reference := map[string]any{}
		switch kind := mediaType(string(req.Header.ContentType())); {
		case len(body) == 0:
		case kind == "application/json":
			if err := json.Unmarshal(body, &reference); err != nil || reference == nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
		default:
			form, err := url.ParseQuery(string(body))
			if err != nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
			for name, values := range form {
				if values[0] != "" {
					reference[name] = values[0]
				}
			}
		}
		for name := range parameterCount {
			value, there := reference[name.String()]
			text, isText := value.(string)
			want := absent
			switch {
			case isText:
				want = given
			case there:
				want = mistyped
			}
			if p.state[name] != want || p.text[name] != text {
				t.Fatalf("%s is %d %q in %q, want %d %q", name, p.state[name], p.text[name], body, want, text)
			}
			if strings.Contains(text, "\x00") || !utf8.ValidString(text) {
				t.Fatalf("%s is %q", name, text)
			}
		}
	})
}

// FuzzFraming checks that an accepted head has one reading.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		"Host: x\r\n\r\n", "Host: x\r\nContent-Length: 5\r\n\r\n", "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"Host: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "Host: x\r\nX: a\r\n b\r\n\r\n", "Host: x\nX: y\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, fields []byte) {
		var h fasthttp.RequestHeader
		if err := h.Read(bufio.NewReaderSize(strings.NewReader("POST /users HTTP/1.1\r\n"+string(fields)), headLimit)); err != nil {
			return
		}
		if validateFraming(&h) != nil {
			return
		}
		// Each line is a name, a colon and a value.
		lengths := 0
		for line := range strings.SplitSeq(strings.TrimSuffix(string(h.RawHeaders()), "\r\n\r\n"), "\r\n") {
			name, _, found := strings.Cut(line, ":")
			if !found || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("accepted %q", line)
			}
			switch strings.ToLower(name) {
			case "content-length", "transfer-encoding":
				lengths++
			}
		}
		if lengths > 1 {
			t.Fatalf("accepted %d lengths: %q", lengths, fields)
		}
	})
}

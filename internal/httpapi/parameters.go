package httpapi

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// parameter is a parameter of any route. All are strings.
type parameter int

const (
	paramUsername parameter = iota
	paramEmail
	paramFirstName
	paramLastName
	paramPassword
	paramOldPassword
	paramScope
	paramCode
	paramID
	paramAccessToken
	paramRefreshToken
	paramGrantType
	paramToken
	paramTokenTypeHint
	parameterCount
)

var parameterNames = [parameterCount]string{
	"username", "email", "first_name", "last_name", "password", "old_password", "scope",
	"code", "id", "access_token", "refresh_token", "grant_type", "token", "token_type_hint",
}

func (p parameter) String() string { return parameterNames[p] }

func parameterNamed(name string) (parameter, bool) {
	for p, known := range parameterNames {
		if known == name {
			return parameter(p), true
		}
	}
	return 0, false
}

// parameters are the parameters of a request. A handler reads all of its parameters and then calls
// err, so that the reply names all problems at once. Parameters that it does not read are ignored,
// unless the server has STRICT_PARAMETERS.
type parameters struct {
	text     [parameterCount]string
	state    [parameterCount]state
	asked    [parameterCount]bool
	problems []identity.Problem

	// strict makes unread members of a JSON object invalid. Unread fields of a form are always
	// ignored (RFC 6749 section 3.2).
	strict  bool
	members []string // the names of the object's members, if strict
}

type state int8

const (
	absent state = iota
	mistyped
	given
)

// optional returns a parameter that may be missing.
func (p *parameters) optional(name parameter) (value string, there bool) {
	p.asked[name] = true
	switch p.state[name] {
	case given:
		return p.text[name], true
	case mistyped:
		p.wrong(name, identity.FieldNotText, "must be a string")
	}
	return "", false
}

// required returns a parameter that must not be missing.
func (p *parameters) required(name parameter) string { return p.requiredUnless(false, name) }

// requiredUnless returns a parameter that may be missing only if optional is set.
func (p *parameters) requiredUnless(optional bool, name parameter) string {
	if !optional && p.state[name] == absent {
		p.wrong(name, identity.FieldMissing, "is missing")
	}
	value, _ := p.optional(name)
	return value
}

// pointer returns a parameter that may be missing, or nil.
func (p *parameters) pointer(name parameter) *string {
	if value, there := p.optional(name); there {
		return &value
	}
	return nil
}

// ignore marks parameters that clients may send but that have no effect.
func (p *parameters) ignore(names ...parameter) {
	for _, name := range names {
		p.asked[name] = true
	}
}

func (p *parameters) wrong(name parameter, reason identity.FieldReason, what string) {
	fault := identity.Fault{Reason: reason, Text: what}
	p.problems = append(p.problems, identity.Problem{Parameter: name.String(), Fault: fault})
}

// also adds the domain's problems with parameters in the request.
func (p *parameters) also(problems []identity.Problem) {
	for _, problem := range problems {
		if name, known := parameterNamed(problem.Parameter); known && p.state[name] == given {
			p.wrong(name, problem.Reason, problem.Text)
		}
	}
}

// err returns all problems with the parameters. A handler calls it after it has read all of its
// parameters, and before it does anything.
func (p *parameters) err() error {
	problems := slices.Clip(p.problems)
	for _, member := range p.members {
		if name, known := parameterNamed(member); !known || !p.asked[name] {
			problems = append(problems, unknownParameter(member))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return invalidFields(problems)
}

// A reply repeats names of unknown parameters up to maxNamed bytes, and at most maxUnknownNames.
const (
	maxNamed        = 64
	maxUnknownNames = 16
)

// unknownParameter returns the problem with a parameter that its route does not know. It does not
// repeat a name that cannot be a parameter's.
func unknownParameter(name string) identity.Problem {
	for _, b := range []byte(name) {
		if !isAlphanumeric(b) && b != '_' && b != '-' && b != '.' {
			name = ""
			break
		}
	}
	if name == "" || len(name) > maxNamed {
		name = "parameters"
	}
	return identity.Problem{
		Parameter: name,
		Fault:     identity.Fault{Reason: identity.FieldUnrecognized, Text: "is not a parameter of this route"},
	}
}

// read parses the body. It does not decompress it, so that a small body cannot become a large one.
func (p *parameters) read(req *fasthttp.Request, kind bodyKind) error {
	if len(req.Header.Peek("Content-Encoding")) > 0 {
		return invalid(http.StatusUnsupportedMediaType, reasonContentEncoding,
			"a Content-Encoding is not supported: send the body uncompressed")
	}
	body := req.Body()
	if len(body) == 0 {
		return nil
	}
	switch contentType := req.Header.ContentType(); mediaType(string(contentType)) {
	case "application/json":
		return p.readJSON(body)
	case "":
		// If a route accepts two media types, generated clients may omit the Content-Type. No form
		// begins like an object.
		if kind == jsonOrForm && len(contentType) == 0 && bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
			return p.readJSON(body)
		}
	case "application/x-www-form-urlencoded":
		if kind == jsonOrForm {
			return p.readForm(body)
		}
	}
	if kind == jsonOrForm {
		return invalid(http.StatusUnsupportedMediaType, reasonMediaType,
			"the Content-Type must be application/json or application/x-www-form-urlencoded")
	}
	return invalid(http.StatusUnsupportedMediaType, reasonMediaType, "the Content-Type must be application/json")
}

// mediaType returns the media type in lower case and without "charset=utf-8", the only accepted
// parameter, or "" for anything else.
func mediaType(field string) string {
	if field == "application/json" {
		return field // by far the most frequent
	}
	name, params, err := mime.ParseMediaType(field)
	if err != nil {
		return ""
	}
	for key, value := range params {
		if key != "charset" || !strings.EqualFold(value, "utf-8") {
			return ""
		}
	}
	return name
}

// maxDepth bounds the nesting of values in ignored members.
const maxDepth = 32

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// readJSON parses an object. Names of members must match parameters exactly. jsontext refuses
// duplicate names, invalid UTF-8, lone surrogates, byte order marks and everything else that RFC
// 8259 does not allow. Other members are ignored, but must be well-formed.
func (p *parameters) readJSON(body []byte) error {
	d := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(d)
	d.Reset(bytes.NewBuffer(body))

	// PostgreSQL does not accept NUL, and C libraries end a text at it. It has only one spelling,
	// so strings are decoded to find it only if the body contains that.
	mayHoldNUL := bytes.Contains(body, []byte(`\u0000`))

	next := func() (jsontext.Token, error) {
		t, err := d.ReadToken()
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			return t, errBody("has a duplicate member")
		case err != nil:
			return t, errBody("is not well-formed JSON")
		case d.StackDepth() > maxDepth:
			return t, errBody("is nested too deeply")
		case mayHoldNUL && t.Kind() == jsontext.KindString && strings.Contains(t.String(), "\x00"):
			return t, errBody("contains a NUL character")
		}
		return t, nil
	}

	t, err := next()
	if err != nil {
		return err
	}
	if t.Kind() != jsontext.KindBeginObject {
		return errBody("is not a JSON object")
	}
	for {
		if t, err = next(); err != nil {
			return err
		}
		if t.Kind() == jsontext.KindEndObject {
			break
		}
		name, known := parameterNamed(t.String())
		if p.strict && len(p.members) < maxUnknownNames+int(parameterCount) {
			p.members = append(p.members, t.String())
		}
		if t, err = next(); err != nil {
			return err
		}
		if known {
			p.state[name] = mistyped
			if t.Kind() == jsontext.KindString {
				p.text[name], p.state[name] = t.String(), given
			}
		}
		for d.StackDepth() > 1 {
			if _, err = next(); err != nil {
				return err
			}
		}
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errBody("has data after the JSON object")
	}
	return nil
}

func errBody(what string) *failure {
	return invalid(http.StatusBadRequest, reasonBodyMalformed, "the body "+what)
}

// readForm parses a flat form, with each field at most once. A field without a value is ignored (RFC 6749 section 3.2).
func (p *parameters) readForm(body []byte) error {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return errBody("is not a well-formed form")
	}
	for name, list := range values {
		switch value := list[0]; {
		case len(list) > 1:
			return errBody("has a duplicate field")
		case !isText(name) || !isText(value):
			return errBody("contains a NUL character or is not UTF-8")
		case value == "":
		default:
			if known, ok := parameterNamed(name); ok {
				p.text[known], p.state[known] = value, given
			}
		}
	}
	return nil
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

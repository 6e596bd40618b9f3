package admin_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The examples of RFC 7396 appendix A whose target and result are objects, and what is refused.
func TestMetadataIsMerged(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"a":"foo"}`, `null`, `{}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{``, ` { "b" : [ 1 , 1e400 ] , "a" : "\u0000" } `, `{"a":"\u0000","b":[1,1e400]}`},
		{`{"a":"b"}`, `["c"]`, ``},
		{`{"a":"b"}`, `"c"`, ``},
		{`{}`, `{"a":1,"a":2}`, ``},
		{`{}`, `{"a":{"b":1,"b":2}}`, ``},
		{`{}`, `{"a":[{"b":1,"b":2}]}`, ``},
	} {
		got, err := admin.Merge(tc.target, jsontext.Value(tc.patch))
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s with %s is %s, %v; want %s", tc.target, tc.patch, got, err, tc.want)
		}
		if err != nil && identity.KindOf(err) != identity.Invalid {
			t.Errorf("%s with %s: %v is not for the caller", tc.target, tc.patch, err)
		}
	}
}

package httpapi_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// documentedBody is an operation with the parameters of its body.
type documentedBody struct {
	method, path string
	parameters   []string
	form         bool
}

// documentedBodies reads the operations from the document, so that a parameter
// that is added later is tried like the others.
func documentedBodies(t *testing.T) (list []documentedBody) {
	t.Helper()
	type schema struct {
		Ref        string         `json:"$ref"`
		Properties map[string]any `json:"properties"`
	}
	type requestBody struct {
		Ref     string `json:"$ref"`
		Content map[string]struct {
			Schema schema `json:"schema"`
		} `json:"content"`
	}
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			RequestBodies map[string]requestBody `json:"requestBodies"`
			Schemas       map[string]schema      `json:"schemas"`
		} `json:"components"`
	}
	testenv.NoError(t, json.Unmarshal(httpapi.OpenAPI(), &doc))
	for path, item := range doc.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var operation struct {
				RequestBody requestBody `json:"requestBody"`
			}
			testenv.NoError(t, json.Unmarshal(raw, &operation))
			body := operation.RequestBody
			if body.Ref != "" {
				body = doc.Components.RequestBodies[body.Ref[strings.LastIndex(body.Ref, "/")+1:]]
			}
			_, form := body.Content["application/x-www-form-urlencoded"]
			o := documentedBody{method: strings.ToUpper(method), path: strings.Replace(path, "{id}", userID, 1), form: form}
			parameters := body.Content["application/json"].Schema
			if parameters.Ref != "" {
				parameters = doc.Components.Schemas[parameters.Ref[strings.LastIndex(parameters.Ref, "/")+1:]]
			}
			for name := range parameters.Properties {
				o.parameters = append(o.parameters, name)
			}
			if o.method == "GET" && (path == "/users" || path == "/users/sessions") {
				o.parameters = []string{"access_token"} // described in words: browsers send no body with GET
			}
			slices.Sort(o.parameters)
			list = append(list, o)
		}
	}
	if len(list) < 20 {
		t.Fatalf("only %d operations were found", len(list))
	}
	return list
}

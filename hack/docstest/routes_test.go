package docstest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// undescribed are routes that no OpenAPI document has.
var undescribed = []string{
	"POST /console/code", // of the console
	"GET /authz",         // for proxies
	"GET /livez", "GET /readyz", "GET /metrics",
}

var (
	namedRoute = regexp.MustCompile(`\b(GET|HEAD|POST|PUT|PATCH|DELETE) (/[\w.{}/-]*)`)
	calledPath = regexp.MustCompile(`https?://[\w.:-]+(/(?:users|tokens|sessions|admin)\b[\w.{}/-]*)`)
)

// TestTheRoutesInTheManualExist checks each method with a path, and the paths of URLs.
func TestTheRoutesInTheManualExist(t *testing.T) {
	parameter := regexp.MustCompile(`\{\w+\}`)
	known, paths := slices.Clone(undescribed), []string{}
	for _, document := range [][]byte{httpapi.OpenAPI(), httpapi.AdminOpenAPI()} {
		var described struct{ Paths map[string]map[string]any }
		testenv.NoError(t, json.Unmarshal(document, &described))
		for path, methods := range described.Paths {
			path = parameter.ReplaceAllString(path, "{}")
			paths = append(paths, path)
			for method := range methods {
				known = append(known, strings.ToUpper(method)+" "+path)
			}
		}
	}
	found := 0
	for _, document := range documents(t) {
		if document == "CHANGELOG.md" || strings.HasPrefix(document, "docs/decisions/") {
			continue // they describe former versions
		}
		for _, m := range namedRoute.FindAllStringSubmatch(read(t, document), -1) {
			found++
			path := strings.TrimRight(m[2], ".")
			if !slices.Contains(known, m[1]+" "+parameter.ReplaceAllString(path, "{}")) {
				t.Errorf("%s names the route %s %s, which does not exist", document, m[1], path)
			}
		}
		for _, m := range calledPath.FindAllStringSubmatch(read(t, document), -1) {
			found++
			if path := strings.TrimRight(m[1], "./"); !slices.Contains(paths, parameter.ReplaceAllString(path, "{}")) {
				t.Errorf("%s calls the path %s, which does not exist", document, path)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d routes were found", found)
	}
}

package httpapi_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The code, the reference and the OpenAPI document have the same reasons. Package authserver tests that a server returns
// each of them.
func TestReasonsAreThoseOfTheDocumentAndTheReference(t *testing.T) {
	t.Parallel()
	var document struct {
		Components struct {
			Schemas map[string]struct{ Enum []string }
		}
	}
	testenv.OK(t, json.Unmarshal(httpapi.OpenAPI(), &document))
	rows, fieldRows := httpapi.DocumentedReasons()
	for _, tc := range []struct {
		schema, goType string
		rows           []string
	}{{"Reason", "Reason", rows}, {"FieldReason", "FieldReason", fieldRows}} {
		if enum := document.Components.Schemas[tc.schema].Enum; !slices.Equal(enum, tc.rows) {
			t.Errorf("openapi.yaml lists %q\nreasons.go documents %q", enum, tc.rows)
		}
		constants := slices.Sorted(slices.Values(constantsOf(t, tc.goType)))
		if documented := slices.Sorted(slices.Values(tc.rows)); !slices.Equal(constants, documented) {
			t.Errorf("the constants of type %s are %q\nreasons.go documents %q", tc.goType, constants, documented)
		}
	}
	page := testenv.Must(os.ReadFile("../../docs/reference/errors.md"))(t)
	if string(page) != httpapi.ErrorsReference() {
		t.Error("docs/reference/errors.md is out of date: run go generate")
	}
}

// Programs cannot use an error without a reason.
func TestReasonIsSetOnEveryErrorOfTheDomain(t *testing.T) {
	t.Parallel()
	seen := 0
	inspect(t, "..", func(file *token.FileSet, n ast.Node) {
		literal, ok := n.(*ast.CompositeLit)
		if !ok || !isNamed(literal.Type, "Error") {
			return
		}
		seen++
		for _, element := range literal.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok && isNamed(pair.Key, "Reason") {
				return
			}
		}
		t.Errorf("%v: this error has no Reason", file.Position(literal.Pos()))
	})
	if seen < 10 {
		t.Errorf("only %d errors were found", seen)
	}
}

// constantsOf returns the values of all constants of a type.
func constantsOf(t *testing.T, name string) (values []string) {
	inspect(t, "..", func(_ *token.FileSet, n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || !isNamed(spec.Type, name) {
			return
		}
		for _, value := range spec.Values {
			literal, ok := value.(*ast.BasicLit)
			if !ok {
				continue
			}
			text := testenv.Must(strconv.Unquote(literal.Value))(t)
			values = append(values, text)
		}
	})
	return values
}

// isNamed reports whether an expression is a name, qualified or not.
func isNamed(e ast.Expr, name string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == name
	case *ast.SelectorExpr:
		pkg, ok := e.X.(*ast.Ident)
		return ok && pkg.Name == "identity" && e.Sel.Name == name
	}
	return false
}

// inspect visits the code below a directory that is in package identity or imports it.
func inspect(t *testing.T, dir string, visit func(*token.FileSet, ast.Node)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil || !strings.Contains(path, "identity") && !strings.Contains(string(source), "internal/identity\"") {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if n != nil {
				visit(files, n)
			}
			return true
		})
		return nil
	})
	testenv.OK(t, err)
}

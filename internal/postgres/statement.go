package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed queries/*.sql
var queries embed.FS

// A statement is one of those in the folder queries.
type statement struct {
	name   string
	sql    string   // as it is sent, with $1, $2, …
	params []string // their names, in this order
}

// statements holds the statements by their names. They are parsed once, at start.
var statements = parseStatements(queries)

// param matches a parameter. The form is that of psql's variables: after \set, a statement can be pasted into psql.
var param = regexp.MustCompile(`:'([a-z_]+)'`)

// parseStatements reads files in which a line "-- name: FindUser" begins a statement,
// comments may follow it, and a semicolon at the end of a line ends it.
func parseStatements(files fs.FS) map[string]*statement {
	all := map[string]*statement{}
	names, err := fs.Glob(files, "queries/*.sql")
	if err != nil || len(names) == 0 {
		panic("postgres: no statements are embedded")
	}
	for _, file := range names {
		content, err := fs.ReadFile(files, file)
		if err != nil {
			panic("postgres: " + err.Error())
		}
		for _, part := range strings.Split("\n"+string(content), "\n-- name: ")[1:] {
			name, text, _ := strings.Cut(part, "\n")
			for strings.HasPrefix(text, "--") {
				_, text, _ = strings.Cut(text, "\n")
			}
			text, ended := strings.CutSuffix(strings.TrimSpace(text), ";")
			if _, twice := all[name]; twice || !ended || text == "" {
				panic(fmt.Sprintf("postgres: %s: the statement %s is not one statement, or its name is used twice", file, name))
			}
			all[name] = newStatement(name, text)
		}
	}
	return all
}

// newStatement numbers the parameters of a text.
func newStatement(name, text string) *statement {
	st := &statement{name: name}
	st.sql = param.ReplaceAllStringFunc(text, func(match string) string {
		name := param.FindStringSubmatch(match)[1]
		i := slices.Index(st.params, name)
		if i < 0 {
			i = len(st.params)
			st.params = append(st.params, name)
		}
		return fmt.Sprintf("$%d", i+1)
	})
	return st
}

// named returns the statement of this name.
func named(name string) *statement {
	st, ok := statements[name]
	if !ok {
		panic("postgres: there is no statement " + name)
	}
	return st
}

// bind returns the arguments in the order of the parameters. An argument that is missing
// or that no parameter has is a mistake in this package, which its tests find.
func (st *statement) bind(args pgx.NamedArgs) []any {
	values := make([]any, len(st.params))
	for i, name := range st.params {
		value, ok := args[name]
		if !ok {
			panic(fmt.Sprintf("postgres: %s lacks the argument %s", st.name, name))
		}
		values[i] = value
	}
	if len(args) != len(values) {
		panic(fmt.Sprintf("postgres: %s has %d parameters, but %d arguments", st.name, len(values), len(args)))
	}
	return values
}

// queryRow runs the statement and returns its row, to be scanned.
func (st *statement) queryRow(ctx context.Context, db querier, args pgx.NamedArgs) pgx.Row {
	return db.QueryRow(ctx, st.sql, st.bind(args)...)
}

// exec runs the statement, which returns no rows.
func (st *statement) exec(ctx context.Context, db querier, args pgx.NamedArgs) error {
	_, err := db.Exec(ctx, st.sql, st.bind(args)...)
	return err
}

// StatementNames returns the names of all statements in order, for the load test: it looks at their plans.
func StatementNames() []string { return slices.Sorted(maps.Keys(statements)) }

// Statement returns the text of a statement as it is sent, and the names of its
// parameters in the order of $1, $2, …, for the load test: it sends the same text.
func Statement(name string) (sql string, params []string) {
	st := named(name)
	return st.sql, slices.Clone(st.params)
}

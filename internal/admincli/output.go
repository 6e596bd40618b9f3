package admincli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// Output is how results are written: a table for people, json or yaml.
type Output struct{ format string }

// AddFlag adds the flag to a command.
func (o *Output) AddFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		switch o.format {
		case "table", "json", "yaml":
		default:
			return Misused("-o %s is unknown: write table, json or yaml", o.format)
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// ForPeople reports whether the result is to be a table.
func (o *Output) ForPeople() bool { return o.format == "table" }

// Print writes a value as JSON or YAML.
func (o *Output) Print(w io.Writer, value any) error {
	text, err := json.Marshal(value, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return err
	}
	if o.format == "yaml" {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// Table aligns columns. Its cells can contain anything: what is not printable is replaced, because names and browsers
// come from strangers and could contain commands for the terminal.
type Table struct{ w *tabwriter.Writer }

// NewTable returns a table.
func NewTable(w io.Writer) Table { return Table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

// Row adds a row. An empty cell is a dash.
func (t Table) Row(cells ...string) {
	for i, cell := range cells {
		if cells[i] = Printable(cell); cell == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// Field adds a line of a description, if there is a value.
func (t Table) Field(name, value string) {
	if value != "" {
		fmt.Fprintf(t.w, "%s:\t%s\n", name, Printable(value))
	}
}

// Flush writes the table.
func (t Table) Flush() error { return t.w.Flush() }

// Printable replaces what a terminal would not print.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// Time returns a time as tables have it.
func Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

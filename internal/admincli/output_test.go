package admincli

import (
	"strings"
	"testing"
)

// What strangers write, such as the name of a browser, does not reach the terminal as a command of it.
func TestTablesHaveNoControlCharacters(t *testing.T) {
	var text strings.Builder
	table := NewTable(&text)
	table.Row("a\x1b[31m", "b\u009b1m", "c\td", "e\nf", "")
	table.Field("Name", "g\rh")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	if want := "a�[31m  b�1m  c�d  e�f  -\nName:   g�h\n"; text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
}

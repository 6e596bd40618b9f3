// Command errorsdoc writes docs/reference/errors.md from the table of reasons that package httpapi holds.
//
//	errorsdoc docs/reference/errors.md
package main

import (
	"fmt"
	"os"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: errorsdoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(httpapi.ErrorsReference()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "errorsdoc:", err)
		os.Exit(1)
	}
}

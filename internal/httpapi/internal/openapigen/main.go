// Command openapigen turns openapi.yaml, which people write, into openapi.json,
// which the server embeds and serves. The members keep their order.
//
//	openapigen openapi.yaml openapi.json
package main

import (
	"fmt"
	"os"

	yaml "github.com/pb33f/go-yaml"
	"github.com/pb33f/libopenapi/json"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: openapigen openapi.yaml openapi.json")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "openapigen:", err)
		os.Exit(1)
	}
}

func generate(from, to string) error {
	source, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(source, &document); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := json.YAMLNodeToJSON(&document, " ")
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, append(out, '\n'), 0o644)
}

// Package compose checks examples/compose against the Compose specification, with the parser that Docker Compose uses.
// It is a separate module, so the product does not require that parser.
package compose

import (
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
)

func TestTheComposeFileIsValid(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../../examples/compose/compose.yaml"}, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := project.ServiceNames()
	slices.Sort(names)
	if !slices.Equal(names, []string{"auth", "mail", "postgres"}) {
		t.Errorf("the services are %v", names)
	}
	for name, service := range project.Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %d to the network", name, port.Target)
			}
		}
	}
	auth := project.Services["auth"]
	if auth.Build == nil || auth.Build.Target != "authserver" || !auth.ReadOnly {
		t.Errorf("the build is %+v", auth.Build)
	}
}

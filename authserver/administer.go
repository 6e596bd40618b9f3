package authserver

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

// The environment variables of the commands for accounts. They are no settings of a server.
const (
	envAdminServer  = "AUTHSERVER_ADMIN_SERVER"
	envAdminKeyFile = "AUTHSERVER_ADMIN_KEY_FILE"
)

const defaultAdminServer = "http://localhost:8081"

// administer runs one of the commands users, sessions and events.
func (c Command) administer(ctx context.Context, args []string) int {
	root := c.Administration() //nolint:contextcheck // Run gives the commands the context
	root.SetOut(c.Out)
	root.SetErr(c.Err)
	if c.In != nil {
		root.SetIn(c.In)
	}
	return admincli.Run(ctx, root, args)
}

// Administration returns the commands for accounts, sessions and events.
func (c Command) Administration() *cobra.Command {
	var server, keyFile string
	root := &cobra.Command{Use: "authserver", CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}}
	users, sessions, events := admincli.Commands(admincli.Options{
		Program: "authserver",
		Connect: func(context.Context) (*adminapi.Client, func(), error) {
			client, err := c.administrator(server, keyFile)
			return client, func() {}, err
		},
		AddFlags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&server, "server", "",
				"the URL of ADMIN_PORT (default: "+envAdminServer+", or "+defaultAdminServer+")")
			cmd.Flags().StringVar(&keyFile, "key-file", "",
				"a file with a key of an administrator, or with a token (default: "+envAdminKeyFile+")")
		},
	})
	users.AddCommand(c.importCommand(), c.exportCommand())
	root.AddCommand(users, sessions, events)
	return root
}

// administrator returns a client with the key in a file.
func (c Command) administrator(server, keyFile string) (*adminapi.Client, error) {
	variable := func(name string) string {
		value, _ := c.LookupEnv(name)
		return value
	}
	server = cmp.Or(server, variable(envAdminServer), defaultAdminServer)
	keyFile = cmp.Or(keyFile, variable(envAdminKeyFile))
	if keyFile == "" {
		return nil, admincli.Misused("name a file with a key of an administrator: --key-file FILE, or %s; "+
			"authserver admin-key makes a key", envAdminKeyFile)
	}
	content, err := c.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	client, err := adminapi.NewClient(server, strings.TrimSpace(string(content)))
	if err != nil {
		return nil, fmt.Errorf("--server, or the key in %s: %w", keyFile, err)
	}
	return client, nil
}

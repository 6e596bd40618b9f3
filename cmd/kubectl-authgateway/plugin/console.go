package plugin

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

// consoleLife is how long a session of the console may last: see the console.
const consoleLife = 8 * time.Hour

func (p *Plugin) console() *cobra.Command {
	var port int
	var open bool
	cmd := &cobra.Command{
		Use: "console", Short: "Open the console for administrators in a browser",
		Long: `Forwards a port to a pod for administrators, and prints a URL that opens the
console once, within a minute. The console has the rights of the ServiceAccount.
Its token stays in this program and in the pod. Ctrl-C ends both.`,
		Args: admincli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if port < 0 || port > 65535 {
				return admincli.Misused("--port must be a number from 0 to 65535")
			}
			ctx := cmd.Context()
			c, g, err := p.start(ctx)
			if err != nil {
				return err
			}
			a, err := p.reach(ctx, c, g, consoleLife, port)
			if err != nil {
				return err
			}
			defer a.tunnel.close()
			code, err := a.client.ConsoleCode(ctx)
			if err != nil {
				return err
			}
			url := a.tunnel.url + code.Path
			fmt.Fprintf(cmd.OutOrStdout(), "The console of %s/%s, with the rights of the ServiceAccount %s.\n"+
				"This URL is good for one use within %v:\n%s\n",
				g.Namespace, g.Name, a.account, time.Duration(code.ExpiresIn)*time.Second, url)
			if open {
				if err := p.Browse(ctx, url); err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "open the URL yourself: the browser cannot be started: %v\n", err)
				}
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "Press Ctrl-C to end it.")
			select {
			case <-ctx.Done():
				return nil
			case err := <-a.tunnel.ended:
				return fmt.Errorf("%w; start the command again", cmp.Or(err, errLost))
			}
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "the port of this machine (default: any)")
	cmd.Flags().BoolVar(&open, "open", false, "open the URL in the browser")
	p.addAccount(cmd)
	return cmd
}

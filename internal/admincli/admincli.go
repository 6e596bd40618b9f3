package admincli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

// Exit codes of Run.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong arguments
)

// Options are what the programs have differently.
type Options struct {
	// Program is how a person calls the program, for examples.
	Program string

	// Connect returns a client of the administration of a gateway. The caller ends the connection with the function.
	Connect func(context.Context) (*adminapi.Client, func(), error)

	// AddFlags adds the flags of Connect to a command. It may be nil.
	AddFlags func(*cobra.Command)
}

// Commands returns the commands users, sessions and events.
func Commands(o Options) (users, sessions, events *cobra.Command) {
	users = Group("users", "Find, make, suspend and delete accounts")
	users.AddCommand(
		o.find(), o.show(), o.create(), o.invite(), o.suspend(), o.unsuspend(), o.signOut(), o.deleteUser(),
	)
	sessions = Group("sessions", "List and end the sessions of an account")
	sessions.AddCommand(o.sessions(), o.endSession())
	return users, sessions, o.events()
}

// examples returns command lines as help texts have them.
func (o Options) examples(lines ...string) string {
	for i, line := range lines {
		lines[i] = "  " + o.Program + " " + line
	}
	return strings.Join(lines, "\n")
}

// Group returns a command that only has subcommands.
func Group(name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Misused("unknown command %q", args[0])
			}
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return Misused("say what to do: %s", strings.Join(names, ", "))
		},
	}
}

// misuse is an error of the arguments.
type misuse struct{ text string }

func (e *misuse) Error() string { return e.text }

// Misused returns an error of the arguments.
func Misused(format string, args ...any) error { return &misuse{fmt.Sprintf(format, args...)} }

// ExitCode is an error that is reported already.
type ExitCode int

func (ExitCode) Error() string { return "" }

// Run runs a command line, reports its error, and returns the exit code: 1 for an error, 2 for wrong arguments.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &misuse{err.Error()} })
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if code, reported := errors.AsType[ExitCode](err); reported {
		return int(code)
	}
	name := root.CommandPath()
	_, wrong := errors.AsType[*misuse](err)
	if wrong || strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) ") {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v; see %s --help\n", name, err, cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", name, err)
	return exitFailed
}

// Exactly returns a check of the arguments. names are those of the usage, for the error.
func Exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return Misused("%s is missing", names[len(args)])
		case len(args) > len(names) && len(names) == 0:
			return Misused("it takes no arguments")
		case len(args) > len(names):
			return Misused("there are %d arguments: write only %s", len(args), strings.Join(names, " "))
		}
		return nil
	}
}

// leaf completes a command that calls the server.
func (o Options) leaf(cmd *cobra.Command, run func(ctx context.Context, c call, args []string) error) *cobra.Command {
	if o.AddFlags != nil {
		o.AddFlags(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, done, err := o.Connect(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		return run(cmd.Context(), call{Client: client, cmd: cmd, out: cmd.OutOrStdout(), note: cmd.ErrOrStderr()}, args)
	}
	return cmd
}

// call is a run of a command.
type call struct {
	*adminapi.Client

	cmd       *cobra.Command
	out, note io.Writer
}

// withReason adds the flag for the audit trail, and returns its value.
func withReason(cmd *cobra.Command) *adminapi.Change {
	change := new(adminapi.Change)
	cmd.Flags().StringVar(&change.Reason, "reason", "", "why, for the audit trail: one line of up to 200 characters")
	return change
}

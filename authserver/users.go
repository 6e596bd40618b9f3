package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/admincli"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/resources"
)

// move are the flags of the import of accounts.
type move struct {
	reader            moving.Reader
	dryRun, resume    bool
	rate              int
	refused, firebase string
}

// importCommand is the command that moves accounts in, directly from files to the database.
func (c Command) importCommand() *cobra.Command {
	var m move
	cmd := &cobra.Command{
		Use: "import FILE… --from SYSTEM", Short: "Import accounts into the database",
		Long: `Imports accounts from files of another system into the database, which the
settings of the server name (see authserver -h). docs/moving-in.md has the
formats.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return admincli.Misused("FILE is missing")
			}
			return noDash(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			m.reader.Files = args
			return c.moved(m.rate, func(s *Server) error { return c.importUsers(cmd.Context(), s, &m) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&m.reader.From, "from", "", "native, supabase, keycloak, auth0, firebase or kratos (required)")
	flags.BoolVar(&m.dryRun, "dry-run", false, "only check the accounts")
	flags.BoolVar(&m.resume, "resume", false, "continue an import that was stopped")
	rateFlag(cmd, &m.rate)
	flags.StringVar(&m.refused, "refused", "",
		"the file for what cannot be imported (default: the first FILE with .refused; for a dry run none)")
	flags.StringVar(&m.firebase, "firebase-config", "", "a file with the hash parameters of the Firebase project")
	return cmd
}

// exportCommand is the command that moves accounts out.
func (c Command) exportCommand() *cobra.Command {
	var perSecond int
	cmd := &cobra.Command{
		Use: "export FILE", Short: "Export all accounts of the database, in the native format",
		Long: `Exports all accounts of the database, which the settings of the server name (see
authserver -h), with the hashes of their passwords.`,
		Args: func(cmd *cobra.Command, args []string) error {
			return cmp.Or(admincli.Exactly("FILE")(cmd, args), noDash(args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.moved(perSecond, func(s *Server) error { return c.exportUsers(cmd.Context(), s, args[0], perSecond) })
		},
	}
	rateFlag(cmd, &perSecond)
	return cmd
}

// noDash refuses a dash in place of a file, which other programs take for the standard input or output.
func noDash(files []string) error {
	if slices.Contains(files, "-") {
		return admincli.Misused("FILE is -, but accounts are read from and written to files only: write a name")
	}
	return nil
}

func rateFlag(cmd *cobra.Command, perSecond *int) {
	cmd.Flags().IntVar(perSecond, "rate", 0, "accounts a second at most, so that a server in use is not slowed down (default: no limit)")
}

// moved moves accounts with a server that does not run.
func (c Command) moved(perSecond int, move func(*Server) error) error {
	if perSecond < 0 {
		return admincli.Misused("--rate must not be negative")
	}
	server, _, code := c.server("users", func(settings *config.Config) { // no request waits for it
		settings.DBAcquireTimeout = max(settings.DBAcquireTimeout, time.Minute)
		settings.DBStatementTimeout = max(settings.DBStatementTimeout, time.Minute)
	})
	if server == nil {
		return admincli.ExitCode(code)
	}
	defer server.close()
	resources.YieldToOthers() // it can wait, and the sign-ins of a server on the same machine cannot
	return move(server)
}

// checkMoved checks an account that moves in. Its tokens must have room for what an administrator could give it.
func (s *Server) checkMoved(m *identity.MovedAccount) error {
	if err := s.accounts.CheckMovedAccount(m); err != nil {
		return err
	}
	return s.administration.CheckRoom(m.Roles, string(m.Metadata))
}

func (c Command) importUsers(ctx context.Context, s *Server, m *move) error {
	reader := &m.reader
	if m.firebase != "" {
		f, err := os.Open(m.firebase)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // it was only read
		if reader.Firebase, err = moving.ParseFirebaseConfig(f); err != nil {
			return fmt.Errorf("%s: %w", m.firebase, err)
		}
	}
	if m.refused == "" && !m.dryRun { // a dry run must not replace the file of an import that was stopped
		m.refused = reader.Files[0] + ".refused"
	}
	if err := reader.Check(); err != nil {
		return err
	}
	if err := s.store.Ready(ctx); err != nil {
		return fmt.Errorf("%w; run authserver migrate if the database is new", err)
	}
	begun, last, explained := s.now(), s.now(), 0
	i := moving.Import{
		Store: s.store, Check: s.checkMoved, Cost: s.config.SaltRounds, Refused: m.refused, DryRun: m.dryRun, Resume: m.resume,
		Rate: m.rate,
		Report: func(p moving.Progress) {
			if now := s.now(); now.Sub(last) >= time.Second {
				last = now
				fmt.Fprintf(c.Err, "%s %3.0f %%  %d imported, %d refused\n", bar(reader.Share()), 100*reader.Share(), p.Imported, p.Refused)
			}
		},
	}
	if m.dryRun {
		i.Explain = func(e moving.Entry) {
			if explained++; explained <= maxExplained {
				fmt.Fprintf(c.Err, "%s, account %d: %v\n", e.File, e.Number, e.Refused)
			}
		}
	}
	err := c.runImport(ctx, s, i, reader, begun)
	if more := explained - maxExplained; more > 0 && m.refused == "" {
		fmt.Fprintf(c.Err, "%d more are refused; --refused FILE writes the reasons of all\n", more)
	}
	return err
}

// maxExplained is how many reasons a dry run prints.
const maxExplained = 20

func (c Command) runImport(ctx context.Context, s *Server, i moving.Import, reader *moving.Reader, begun time.Time) error {
	id, err := moving.ID(reader.From, reader.Files)
	if err != nil {
		return err
	}
	p, err := i.Run(ctx, id, reader.Entries())
	if err != nil {
		if p.Read > 0 && !i.DryRun {
			return fmt.Errorf("stopped after %d accounts, which --resume continues: %w", p.Read, err)
		}
		return err
	}
	if i.DryRun {
		fmt.Fprintf(c.Out, "%d accounts read: %d can be imported, %d are refused; nothing was stored\n", p.Read, p.Imported, p.Refused)
		return nil
	}
	if p.Finished {
		fmt.Fprintf(c.Out, "these files were imported before, with %d accounts imported and %d refused\n", p.Imported, p.Refused)
		return nil
	}
	took := s.now().Sub(begun).Round(time.Millisecond)
	fmt.Fprintf(c.Out, "%d accounts read: %d imported, %d refused, in %v\n", p.Read, p.Imported, p.Refused, took)
	if p.Refused > 0 {
		fmt.Fprintf(c.Out, "%s names the refused accounts and the reasons\n", i.Refused)
	}
	err = s.accounts.RecordImport(ctx, p.Imported, p.Refused)
	if err == nil && p.Imported == 0 && p.Refused > 0 {
		err = errors.New("no account was imported")
	}
	return err
}

// bar draws how much of a whole is done.
func bar(share float64) string {
	const width = 30
	done := min(int(share*width), width)
	return "[" + strings.Repeat("#", done) + strings.Repeat(".", width-done) + "]"
}

func (c Command) exportUsers(ctx context.Context, s *Server, path string, perSecond int) error {
	if err := s.store.Ready(ctx); err != nil {
		return err
	}
	m, err := moving.Export(ctx, path, perSecond, func(f func(*identity.MovedAccount) error) error {
		return s.store.ExportAccounts(ctx, perSecond > 0, f)
	})
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already; name a new file", path)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%d accounts exported to %s, with the hashes of their passwords: keep the file as safe as the database\n",
		m.Users, path)
	return nil
}

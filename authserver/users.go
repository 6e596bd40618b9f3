package authserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
)

const usersUsage = `the commands are:
  users import FILE… --from SYSTEM [--dry-run] [--resume] [--refused FILE] [--firebase-config FILE]
  users export FILE`

// users moves accounts in and out, directly between files and the database.
func (c Command) users(ctx context.Context, s *Server, args []string) int {
	switch {
	case len(args) > 1 && args[0] == "import":
		return c.importUsers(ctx, s, args[1:])
	case len(args) == 2 && args[0] == "export":
		return c.exit(c.exportUsers(ctx, s, args[1]))
	}
	return c.misused(usersUsage)
}

// checkMoved checks an account that moves in. Its tokens must have room for what an administrator could give it.
func (s *Server) checkMoved(m *identity.MovedAccount) error {
	if err := s.accounts.CheckMovedAccount(m); err != nil {
		return err
	}
	return s.administration.CheckRoom(m.Roles, string(m.Metadata))
}

func (c Command) importUsers(ctx context.Context, s *Server, args []string) int {
	flags := flag.NewFlagSet("users import", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	reader := &moving.Reader{}
	flags.StringVar(&reader.From, "from", "", "")
	dryRun, resume := flags.Bool("dry-run", false, ""), flags.Bool("resume", false, "")
	refused, firebase := flags.String("refused", "", ""), flags.String("firebase-config", "", "")
	for len(args) > 0 { // the flags may follow the files
		if err := flags.Parse(args); err != nil {
			return c.misused(err.Error() + "; " + usersUsage)
		}
		if args = flags.Args(); len(args) > 0 {
			reader.Files, args = append(reader.Files, args[0]), args[1:]
		}
	}
	if len(reader.Files) == 0 {
		return c.misused(usersUsage)
	}
	if *firebase != "" {
		f, err := os.Open(*firebase)
		if err != nil {
			return c.exit(err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		if reader.Firebase, err = moving.ParseFirebaseConfig(f); err != nil {
			return c.exit(fmt.Errorf("%s: %w", *firebase, err))
		}
	}
	if *refused == "" {
		*refused = reader.Files[0] + ".refused"
	}
	if err := reader.Check(); err != nil {
		return c.exit(err)
	}
	if err := s.store.Ready(ctx); err != nil {
		return c.exit(fmt.Errorf("%w; run authserver migrate if the database is new", err))
	}
	begun, last := s.now(), s.now()
	i := moving.Import{
		Store: s.store, Check: s.checkMoved, Cost: s.config.SaltRounds, Refused: *refused, DryRun: *dryRun, Resume: *resume,
		Report: func(p moving.Progress) {
			if now := s.now(); now.Sub(last) >= time.Second {
				last = now
				fmt.Fprintf(c.Err, "%s %3.0f %%  %d imported, %d refused\n", bar(reader.Share()), 100*reader.Share(), p.Imported, p.Refused)
			}
		},
	}
	return c.exit(c.runImport(ctx, s, i, reader, begun))
}

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
	return s.accounts.RecordImport(ctx, p.Imported, p.Refused)
}

// bar draws how much of a whole is done.
func bar(share float64) string {
	const width = 30
	done := min(int(share*width), width)
	return "[" + strings.Repeat("#", done) + strings.Repeat(".", width-done) + "]"
}

func (c Command) exportUsers(ctx context.Context, s *Server, path string) error {
	if err := s.store.Ready(ctx); err != nil {
		return err
	}
	m, err := moving.Export(path, func(f func(*identity.MovedAccount) error) error {
		return s.store.ExportAccounts(ctx, f)
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

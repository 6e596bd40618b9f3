package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestStatementsPrepareAgainstTheSchema(t *testing.T) {
	t.Parallel()
	conn := testenv.Must(pgx.Connect(t.Context(), postgrestest.DSN(postgrestest.Config(t))))(t)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	staging, _ := postgres.Statement("CreateStaging") // the table of StoreStaging
	testenv.Must(conn.Exec(t.Context(), "BEGIN; "+staging))(t)
	for name, sql := range postgres.Statements() {
		_, params := postgres.Statement(name)
		if d, err := conn.Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(d.ParamOIDs) != len(params) {
			t.Errorf("%s has %d parameters in PostgreSQL, but %d named ones: %v", name, len(d.ParamOIDs), len(params), params)
		}
	}
}

// The code names a statement where it sends it, so a wrong name would only be noticed there.
func TestStatementsThatTheCodeNamesExist(t *testing.T) {
	t.Parallel()
	all, named, found := postgres.Statements(), regexp.MustCompile(`named\("(\w+)"\)`), 0
	for _, file := range testenv.Must(filepath.Glob("*.go"))(t) {
		for _, match := range named.FindAllSubmatch(testenv.Must(os.ReadFile(file))(t), -1) {
			found++
			if _, ok := all[string(match[1])]; !ok {
				t.Errorf("%s names the statement %s, which is not in queries", file, match[1])
			}
		}
	}
	if found < len(all) {
		t.Errorf("the code names %d statements; want all %d", found, len(all))
	}
}

// A statement that is sent has exactly the arguments that it names; see bind.
func TestStatementsAreAllUsed(t *testing.T) {
	t.Parallel()
	var sent statements
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c, postgres.WithStatementHook(sent.add))
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Second)
	callEverything(ctx, t, store, "ada", now)
	administrate(t, store, signUp(t, store, "grace").ID, now)
	for name, call := range map[string]func() error{
		"a change of address with an unknown code": func() error {
			u := signUp(t, store, "barbara")
			e := identity.EmailRedemption{Email: "new@example.com", CanonicalEmail: "new@example.com"}
			_, err := store.RedeemEmailChange(ctx, open(t, store, u, now), e, noRecord)
			return noError(err, identity.ErrNoCode)
		},
		"an ambiguous proof": func() error {
			first, code := newSignUp("frances"), newCode(identity.Verification)
			second := newSignUp("jean")
			second.Email, second.CanonicalEmail = first.Email, first.CanonicalEmail
			if err := store.CreateSignUp(ctx, first, newCode(identity.Verification), noEvent); err != nil {
				return err
			}
			if err := store.CreateSignUp(ctx, second, code, noEvent); err != nil {
				return err
			}
			_, err := store.RedeemVerification(ctx, identity.ClaimProof{Code: code.Hash}, newSession(identity.User{}, now),
				noRecord)
			return noError(err, identity.ErrSeveralClaims)
		},
		"a mail to an unknown address": func() error {
			if err := store.QueueMail(ctx, newMail(identity.MailRecovery, "nobody@example.com")); err != nil {
				return err
			}
			_, _, err := claim(ctx, store, now)
			return err
		},
		"the mails": func() error { _, _, err := store.CountMails(ctx); return err },
		"the issuer": func() error {
			if _, err := store.RememberIssuer(ctx, "a"); err != nil {
				return err
			}
			return store.ChangeIssuer(ctx, "a", "b")
		},
		"a first ring":  func() error { _, err := store.SwapRing(ctx, 0, 1, map[string][]byte{}, noEvent); return err },
		"a second ring": func() error { _, err := store.SwapRing(ctx, 1, 2, map[string][]byte{}, noEvent); return err },
		"the ring":      func() error { _, _, err := store.LoadRing(ctx); return err },
		"its version":   func() error { _, err := store.RingVersion(ctx); return err },
		"the version":   func() error { _, err := store.Version(ctx); return err },
		"the readiness": func() error { return store.Ready(ctx) },
		"an import": func() error {
			if err := store.RestartImport(ctx, "files"); err != nil {
				return err
			}
			refuse := func([]moving.Taken) (moving.Progress, error) { return moving.Progress{}, nil }
			all := func([]string) map[int]bool { return nil }
			return errors.Join(store.ImportBatch(ctx, moving.Batch{Import: "files", Refuse: refuse, Exclude: all}),
				store.ImportBatch(ctx, moving.Batch{Refuse: refuse, DryRun: true}), store.FinishImport(ctx, "files", moving.Progress{}))
		},
		"an export": func() error {
			return store.ExportAccounts(ctx, true, func(*identity.MovedAccount) error { return nil })
		},
		"the events that wait": func() error {
			ref := events.Ref{Number: 1, ID: newID(), Attempt: 1}
			_, _, claimed := store.ClaimEvent(ctx, time.Minute)
			return errors.Join(store.QueueEvents(ctx, events.Types(), time.Hour), claimed, store.PostponeEvent(ctx, ref, 0),
				store.RemoveEvent(ctx, ref), testenv.Err(store.GiveUpEvents(ctx, time.Hour, 10)), testenv.Err(store.OldestEvent(ctx)))
		},
		"the connections": func() error { _, err := store.MaxConnections(ctx); return err },
		"the state": func() error {
			_, _, err := store.Clock(ctx)
			return errors.Join(err, testenv.Err(store.Connections(ctx)), testenv.Err(store.WaitingMails(ctx)))
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	texts := sent.take()
	all := postgres.Statements()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(texts, all[name]) {
			t.Errorf("%s was not sent", name)
		}
	}
}

// noError returns nil if err is the wanted error.
func noError(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("the error is %v; want %v", err, want)
}

package authserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestStartEndsOnErrorsThatWaitingCannotFix(t *testing.T) {
	for _, err := range []error{
		keys.ErrPassphrase, keys.ErrDamaged, fs.ErrNotExist, fs.ErrPermission,
		&identity.Error{Kind: identity.Internal},
	} {
		if !isFatal(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v: the server would wait forever", err)
		}
	}
	for _, err := range []error{&identity.Error{Kind: identity.Unavailable}, context.Canceled, keys.ErrRolledBack} {
		if isFatal(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v: the server would give up", err)
		}
	}
}

func TestReasonIsOneLineWithTheCause(t *testing.T) {
	away := errors.New("cannot reach\n\tdb:5432")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&identity.Error{Kind: identity.Unavailable, Message: "what clients see", Cause: away}, "waiting for the database: cannot reach db:5432"},
		{fmt.Errorf("wrapped: %w", &identity.Error{Kind: identity.Unavailable, Message: "what clients see", Cause: away}), "waiting for the database: cannot reach db:5432"},
		{&identity.Error{Kind: identity.Unavailable, Message: "no cause is known"}, "no cause is known"},
		{&identity.Error{Kind: identity.Internal, Message: "refused", Cause: errors.New("SQLSTATE 42501")}, "refused: SQLSTATE 42501"},
		{errors.New("KEYS_DIR: /x holds no keys"), "KEYS_DIR: /x holds no keys"},
		{errors.New(strings.Repeat("a", 511)), strings.Repeat("a", 511)},
		{errors.New(strings.Repeat("a", 512)), strings.Repeat("a", 508) + "…"},
		{errors.New(strings.Repeat("é", 300)), strings.Repeat("é", 254) + "…"},
		{errors.New("a" + strings.Repeat("é", 300)), "a" + strings.Repeat("é", 253) + "…"},
	} {
		if got := because(tc.err); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

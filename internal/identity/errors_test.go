package identity

import (
	"errors"
	"fmt"
	"testing"
)

func TestKindsHaveDifferentNames(t *testing.T) {
	seen := map[string]Kind{}
	for kind := Internal; kind <= Overloaded; kind++ {
		if other, ok := seen[kind.String()]; ok {
			t.Errorf("kinds %d and %d have the same name, %q", other, kind, kind)
		}
		seen[kind.String()] = kind
	}
	if got := (Overloaded + 1).String(); got != "internal" {
		t.Errorf("the name of an unknown kind is %q", got)
	}
}

func TestKindOfAnUnclassifiedErrorIsInternal(t *testing.T) {
	cause := errors.New("the cause")
	e := &Error{Kind: Conflict, Message: "the message", Cause: cause}
	for err, want := range map[error]Kind{cause: Internal, e: Conflict, fmt.Errorf("while testing: %w", e): Conflict} {
		if got := KindOf(err); got != want {
			t.Errorf("%v is %v; want %v", err, got, want)
		}
	}
	if got := e.Error(); got != "conflict: the message: the cause" {
		t.Errorf("the error text is %q", got)
	}
	if !errors.Is(e, cause) {
		t.Error("the cause is not in the chain")
	}
	if got := failure(NotFound, ReasonAccountNotFound, "no %s", "such thing").Error(); got != "not_found: no such thing" {
		t.Errorf("the error text is %q", got)
	}
}

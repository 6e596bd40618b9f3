package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

// maxMetadata is the longest metadata, in bytes of JSON without white space.
const maxMetadata = 4 << 10

// maxAttempts bounds how often an update without a condition is tried while others change the account.
const maxAttempts = 10

// Patch is what changes of an account (RFC 7396). A member that is nil stays.
type Patch struct {
	identity.AccountUpdate

	// Metadata is merged into what there is: null removes a member, an object is merged, another value replaces. The text
	// null removes all.
	Metadata jsontext.Value
}

// Update changes an account. The next access token of each of its sessions has the new scope, roles and claims. If
// nothing differs, nothing is recorded. Without a version in ref, concurrent updates follow each other.
func (s *Service) Update(ctx context.Context, ref Ref, p Patch, c Change) (User, error) {
	if err := p.Check(s.optional); err != nil {
		return User{}, err
	}
	for attempt := 1; ; attempt++ {
		u, err := s.User(ctx, ref.ID)
		switch {
		case err != nil:
			return User{}, err
		case ref.Version != "" && ref.Version != u.Version:
			return User{}, translate(identity.ErrStale)
		}
		now, changed, err := s.apply(p, u)
		if err != nil || changed == nil {
			return u, err
		}
		e := s.event(ctx, EventUpdated, c, ref.ID, "")
		e.Details = append(e.Details, slog.String("changed", strings.Join(changed, " ")))
		err = s.store.EditUser(ctx, Ref{ID: ref.ID, Version: u.Version}, now, s.audited(e))
		if errors.Is(err, identity.ErrStale) && ref.Version == "" && attempt < maxAttempts {
			continue
		}
		return s.changed(ctx, ref.ID, e, true, err)
	}
}

// apply returns an account with a patch, and the names of what differs.
func (s *Service) apply(p Patch, u User) (now Editable, changed []string, err error) {
	now = Editable{FirstName: u.FirstName, LastName: u.LastName, Scope: u.Scope, Roles: u.Roles, Metadata: u.Metadata}
	metadata := u.Metadata
	if p.Metadata != nil {
		if metadata, err = Merge(u.Metadata, p.Metadata); err != nil {
			return now, nil, err
		}
	}
	for _, field := range []struct {
		name string
		to   *string
		from *string
	}{
		{"first_name", &now.FirstName, p.FirstName}, {"last_name", &now.LastName, p.LastName},
		{"scope", &now.Scope, p.Scope}, {"roles", &now.Roles, p.Roles}, {"metadata", &now.Metadata, &metadata},
	} {
		if field.from != nil && *field.from != *field.to {
			*field.to = *field.from
			changed = append(changed, field.name)
		}
	}
	if slices.Contains(changed, "roles") || slices.Contains(changed, "metadata") {
		err = s.CheckRoom(now.Roles, now.Metadata)
	}
	return now, changed, err
}

// CheckRoom returns an error if a token has no room for roles and the claims of metadata.
func (s *Service) CheckRoom(roles, metadata string) error {
	claims, err := token.Members(metadata, s.claims)
	if err != nil {
		return err
	}
	if needs := token.Needs(roles, claims); needs > max(0, s.room) {
		parameter := "metadata"
		if token.Needs(roles, "") > max(0, s.room) {
			parameter = "roles"
		}
		return invalid(parameter, fmt.Sprintf("roles, and the members of metadata that TOKEN_CLAIMS names, take %d bytes in a token, "+
			"which has room for %d: shorten them", needs, s.room))
	}
	return nil
}

// Merge applies a patch to a JSON object (RFC 7396), and returns it without white space and with sorted members.
func Merge(object string, patch jsontext.Value) (string, error) {
	if object == "" {
		object = "{}"
	}
	merged, err := merge(jsontext.Value(object), patch)
	if err != nil {
		return "", err
	}
	if merged == nil {
		merged = jsontext.Value("{}")
	}
	if merged.Kind() != '{' {
		return "", invalid("metadata", "must be a JSON object, or null to remove all of it")
	}
	if len(merged) > maxMetadata {
		return "", invalid("metadata", fmt.Sprintf("would have %d bytes: write at most %d", len(merged), maxMetadata))
	}
	return string(merged), nil
}

// merge returns nil if the patch removes the target.
func merge(target, patch jsontext.Value) (jsontext.Value, error) {
	switch patch.Kind() {
	case 'n':
		return nil, nil
	case '{':
	default:
		return compact(patch)
	}
	var changes, members map[string]jsontext.Value
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, invalid("metadata", "is not JSON")
	}
	if target.Kind() == '{' {
		if err := json.Unmarshal(target, &members); err != nil {
			return nil, fmt.Errorf("admin: the metadata in the database: %w", err)
		}
	}
	if members == nil {
		members = map[string]jsontext.Value{}
	}
	for name, change := range changes {
		switch value, err := merge(members[name], change); {
		case err != nil:
			return nil, err
		case value == nil:
			delete(members, name)
		default:
			members[name] = value
		}
	}
	text, err := json.Marshal(members, json.Deterministic(true))
	return text, err
}

func compact(value jsontext.Value) (jsontext.Value, error) {
	value = value.Clone()
	if err := value.Compact(); err != nil {
		return nil, invalid("metadata", "is not JSON")
	}
	return value, nil
}

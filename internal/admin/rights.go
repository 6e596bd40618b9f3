package admin

import (
	"context"
	"errors"
	"slices"
)

// Resource is what a right is about. Kubernetes' RBAC has it as a subresource of authgateways.
type Resource string

// The resources.
const (
	Users       Resource = "users"
	Sessions    Resource = "sessions"
	Events      Resource = "events"
	SigningKeys Resource = "keys"
)

// Verb is one of those of Kubernetes' RBAC.
type Verb string

// The verbs.
const (
	Get    Verb = "get"
	List   Verb = "list"
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Right is a verb on a resource.
type Right struct {
	Resource Resource
	Verb     Verb
}

// String returns the right as a file of keys has it, such as users:get.
func (r Right) String() string { return string(r.Resource) + ":" + string(r.Verb) }

// Rights are all rights that exist.
var Rights = []Right{
	{Users, Get}, {Users, List}, {Users, Create}, {Users, Update}, {Users, Delete},
	{Sessions, List}, {Sessions, Delete},
	{Events, List},
	{SigningKeys, List}, {SigningKeys, Update},
}

// Roles are the usual sets of rights. Those who edit accounts do not change the keys: a key that is revoked ends the
// sessions of everyone.
var Roles = map[string][]Right{
	"viewer": {{Users, Get}, {Users, List}, {Sessions, List}, {Events, List}, {SigningKeys, List}},
	"editor": slices.DeleteFunc(slices.Clone(Rights), func(r Right) bool { return r == Right{SigningKeys, Update} }),
}

// Actor is an administrator.
type Actor struct {
	Name string // for the audit trail
}

// Authorizer decides who may do what.
type Authorizer interface {
	// Authorize returns who sent a credential, if they have the right: ErrUnauthenticated, ErrForbidden, or
	// ErrUndecided if there is no answer, which means no.
	Authorize(ctx context.Context, credential string, need Right) (Actor, error)
}

// The errors of an Authorizer. It may wrap them in a Refusal.
var (
	ErrUnauthenticated = errors.New("the credential is not valid")
	ErrForbidden       = errors.New("the right is missing")
	ErrUndecided       = errors.New("no decision now")
)

// A Refusal is an error of an Authorizer that says why.
type Refusal struct {
	Err     error  // one of the three
	Message string // for the caller
	Cause   error  // for the log; may be nil
}

func (r *Refusal) Error() string {
	if r.Cause != nil {
		return r.Err.Error() + ": " + r.Message + ": " + r.Cause.Error()
	}
	return r.Err.Error() + ": " + r.Message
}

// Unwrap returns the error and its cause.
func (r *Refusal) Unwrap() []error {
	if r.Cause == nil {
		return []error{r.Err}
	}
	return []error{r.Err, r.Cause}
}

// ParseRights returns the rights that names give: roles and rights.
func ParseRights(names []string) (rights []Right, unknown string) {
	for _, name := range names {
		if role, ok := Roles[name]; ok {
			rights = append(rights, role...)
			continue
		}
		i := slices.IndexFunc(Rights, func(r Right) bool { return r.String() == name })
		if i < 0 {
			return nil, name
		}
		rights = append(rights, Rights[i])
	}
	return rights, ""
}

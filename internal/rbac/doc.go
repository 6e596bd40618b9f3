// Package rbac lets a Kubernetes cluster decide what administrators may do. It implements admin.Authorizer.
//
//	token ─▶ TokenReview: who, and is the token for this gateway? ─▶ SubjectAccessReview: may they? ─▶ actor
//
// A right is a verb on a subresource of the AuthGateway, such as list on authgateways/users, so that roles and
// bindings grant it and kubectl auth can-i answers the same.
//
// No answer means no. A positive decision is remembered for a few seconds, and a negative one is not.
package rbac

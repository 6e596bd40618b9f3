// Package admin is the administration of accounts and keys: what administrators may do, and what it does. Package httpapi
// serves it over HTTP, console in a browser, and postgres stores it.
//
//	request ─▶ Authorizer: who, and may they? ─▶ Service ─▶ Store: one statement ─▶ audit trail
//
// An administrator needs a Right, a verb on a resource, as in Kubernetes' RBAC. Every change is an event of the audit
// trail with its actor, written in the statement that makes the change.
//
// Lists are paged by the key of the last row. A Cursor is that key with the filter that it belongs to.
package admin

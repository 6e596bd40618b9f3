// Package httpapi serves the domain (package identity) over HTTP. It parses requests and writes replies; all rules
// about accounts, codes and tokens are in the domain. It is the only importer of Fiber and fasthttp.
//
// # The path of a request
//
//	bytes ──▶ fasthttp     request line, fields, body; limits and timeouts
//	      ──▶ screen       refuses ambiguous requests, and closes
//	      ──▶ route        404, 405, the id in a path; secrets in a query string
//	                       are refused; preflight requests are answered
//	      ──▶ Fiber        finds the handler of the route
//	      ──▶ parameters   strict JSON (or a form) into named strings
//	      ──▶ handler      asks for its parameters, calls Accounts
//	      ──▶ finish       common headers, metrics, one log line
//
// All errors, including panics, are written by exchange.fail in the same form.
//
// routes.go lists all routes. openapi.yaml describes them for callers. Tests validate each reply
// against it (see package apitest).
package httpapi

//go:generate go run ./internal/openapigen openapi.yaml openapi.json
//go:generate go run ./internal/openapigen openapi-admin.yaml openapi-admin.json
//go:generate go run ./internal/errorsdoc ../../docs/reference/errors.md

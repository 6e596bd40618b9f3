// Package httpapi serves the domain (package identity) over HTTP. It parses and
// answers; every rule about accounts, codes and tokens is the domain's. It is
// the one importer of Fiber and fasthttp.
//
// # The way of a request
//
//	bytes ──▶ fasthttp     request line, fields, body; limits and timeouts
//	      ──▶ screen       refuses what can be read in two ways, and closes
//	      ──▶ targets      404, 405, the id in a path; secrets in a query string
//	                       are refused; preflights of browsers are answered
//	      ──▶ Fiber        finds the handler of the route
//	      ──▶ parameters   strict JSON (or a form) into named strings
//	      ──▶ handler      asks for its parameters, calls Accounts
//	      ──▶ finish       headers that every reply has, metrics, one log line
//
// Whatever goes wrong on that way, a panic included, leaves through
// call.fail in the one error shape.
//
// routes.go is the whole surface. openapi.yaml is its description and the
// manual for callers; tests hold each reply against it (see package apitest).
package httpapi

//go:generate go run ./internal/openapigen openapi.yaml openapi.json
//go:generate go run ./internal/errorsdoc ../../docs/reference/errors.md

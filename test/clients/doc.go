// Package clients generates clients from the OpenAPI document and runs the whole flow with each of them, against the
// real server and a real PostgreSQL. It is a separate module, so the server's module does not require the generators.
//
// The generated code is not committed: run go generate before go test.
package clients

//go:generate go tool oapi-codegen -generate types,client -package oapi -o oapi/client.gen.go ../../internal/httpapi/openapi.json
//go:generate go tool ogen --loglevel error --config ogen.yml --target ogen --package ogen --clean ../../internal/httpapi/openapi.json

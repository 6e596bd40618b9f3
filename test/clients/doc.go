// Package clients generates clients from the OpenAPI document and drives the whole
// flow with each of them, against the real server and a real PostgreSQL. It is a
// module of its own, so that no generator is among the server's requirements.
//
// The generated code is not kept: run go generate before go test.
package clients

//go:generate go tool oapi-codegen -generate types,client -package oapi -o oapi/client.gen.go ../../internal/httpapi/openapi.json
//go:generate go tool ogen --loglevel error --config ogen.yml --target ogen --package ogen --clean ../../internal/httpapi/openapi.json

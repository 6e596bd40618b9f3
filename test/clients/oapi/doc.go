// Package oapi is the client that oapi-codegen generates. This file keeps what it
// imports in go.mod.
package oapi

import (
	_ "github.com/oapi-codegen/runtime"
	_ "github.com/oapi-codegen/runtime/types"
)

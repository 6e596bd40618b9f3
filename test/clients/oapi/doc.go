// Package oapi contains the client that oapi-codegen generates. This file keeps in go.mod the packages that the client
// imports.
package oapi

import (
	_ "github.com/oapi-codegen/runtime"
	_ "github.com/oapi-codegen/runtime/types"
)

// Package oapi contains the client that oapi-codegen generates. This file keeps the packages that the client imports in
// go.mod.
package oapi

import (
	_ "github.com/oapi-codegen/runtime"
	_ "github.com/oapi-codegen/runtime/types"
)

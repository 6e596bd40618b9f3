//go:build tools

// Package cloudnativepg keeps in go.mod the requirements of the operator that hack/localcluster builds. The package
// itself is never compiled.
package cloudnativepg

import (
	_ "github.com/cloudnative-pg/cloudnative-pg/cmd/manager"
)

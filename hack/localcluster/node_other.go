//go:build !linux

package localcluster

import (
	"context"
	"errors"
	"io"
)

func newNode(string, io.Writer) engine { return nil }

// Supervise returns an error: it needs Linux.
func Supervise(context.Context, string) error { return errors.New("a node without Docker needs Linux") }

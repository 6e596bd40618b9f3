//go:build !linux

package localcluster

import (
	"errors"
	"io"
)

func newNode(string, io.Writer) engine { return nil }

// Supervise needs Linux.
func Supervise(string) error { return errors.New("a node without Docker needs Linux") }

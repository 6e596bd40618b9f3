//go:build race

package verify_test

func init() { manySessions /= 10 } // the race detector makes it slow

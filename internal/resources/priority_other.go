//go:build !linux

package resources

// YieldToOthers does nothing here: priorities belong to whole processes.
func YieldToOthers() {}

// Package install tests config/ and charts/ with a real API server: it accepts the objects, they grant only the rights
// that they should, a release can be installed, upgraded and removed, and both ways of installing give the same result.
package install

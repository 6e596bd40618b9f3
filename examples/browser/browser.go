// Package browser is a browser application: sign-up to sign-out against a public gateway,
// in plain JavaScript. docs/browser-applications.md explains it.
package browser

import "embed"

// Files are the files of the application. A server that serves them adds config.json.
//
//go:embed *.html *.css *.js *.svg
var Files embed.FS

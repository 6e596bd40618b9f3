// Package judges tests what verifies the gateway's tokens: libraries of several languages, proxies and the Kubernetes
// API server, each as its own documentation configures it. None of them is ours, so they judge whether the issuer's
// metadata, the keys and the tokens are what the standards say.
//
// Each judge verifies tokens before, during and after a rotation of the keys, and after a revocation. A judge is a
// program that reads a token per line and writes a verdict per line.
package judges

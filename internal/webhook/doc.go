// Package webhook posts signed messages to a service of others, as the Standard Webhooks specification defines, and
// says how often a sender tries again. Packages mail and events send with it.
package webhook

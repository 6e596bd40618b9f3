// Package plugin is kubectl authgateway: it shows gateways and their keys, and has the commands of internal/admincli
// for accounts.
//
// It reads and changes AuthGateways with the credentials of kubectl. The administration of accounts takes a token for
// an audience of its own, which people do not have. The plugin therefore creates a token of a ServiceAccount, and
// forwards a port to a pod for administrators:
//
//	TokenRequest ─▶ a token for authgateway.io/NAMESPACE/NAME ─▶ port-forward ─▶ routes of administrators
package plugin

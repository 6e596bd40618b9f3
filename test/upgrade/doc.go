// Package upgrade runs earlier releases beside this one, on one database and under load: an upgrade replica by replica,
// the way back, and the upgrade again. No request fails and no session is lost.
//
// Each release adds the one before it to the list in upgrade_test.go.
package upgrade

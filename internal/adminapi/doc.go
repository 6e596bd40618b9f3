// Package adminapi has the bodies of the routes for administrators, and a client of these routes. The server encodes
// the same types, so that both agree.
package adminapi

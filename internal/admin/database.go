package admin

import "time"

// Database is what the database says about itself, and what it holds for all replicas.
type Database struct {
	Server      string // its version
	Ring        int64  // the generation of the key ring that it holds; 0: it holds none
	Connections []Connections
	Outbox      []WaitingMails
}

// Connections are those of servers on one machine.
type Connections struct {
	Address string // empty: this machine, by a socket
	Number  int
	Since   time.Time // of the oldest
	Own     bool      // this server's are among them
}

// WaitingMails are the mails of one purpose that wait to be sent.
type WaitingMails struct {
	Purpose  string
	Number   int
	Oldest   time.Time // when the oldest was queued
	Attempts int       // the most for one mail
	Due      time.Time // when the next attempt is due
}

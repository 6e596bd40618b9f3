// Package failover runs two gateways over a PostgreSQL that fails over, with Patroni, while clients use them. One gateway
// is given all hosts, the other HAProxy. The primary is killed, frozen and switched over, and the replication is cut, in
// an order that a seed determines.
//
// Clients record each request about an account and its reply. With synchronous replication, every history must be
// possible if the requests had come one after the other (linearizable): no acknowledged sign-up or password change is
// lost, and a session that has ended stays ended. The outcome of a request that got 503 is unknown: it may have
// happened. No client gets an error except 503 with Retry-After, and the keys are served throughout.
//
// FAILOVER_FAULTS=20 runs more faults than the test does by default, and prints how long writes were interrupted.
// FAILOVER_SEED repeats an order.
package failover

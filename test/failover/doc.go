// Package failover runs two gateways over a PostgreSQL that fails over, with Patroni, while clients use them. One gateway
// is given all hosts, the other HAProxy. The primary is killed, frozen and switched over, and the replication is cut, in
// an order that a seed determines. Package failovertest has the clients and judges the replies. TestCloudNativePG in
// test/e2e does the same over CloudNativePG.
//
// With synchronous replication no acknowledged write may be lost. With asynchronous replication writes are lost, and the
// test judges what their clients and other parties see afterwards.
//
// FAILOVER_FAULTS=20 runs more faults than the test does by default, and prints how long writes were interrupted.
// FAILOVER_SEED repeats an order.
package failover

package controllers

import "github.com/prometheus/client_golang/prometheus"

// Watches shows what an operator may not watch, as its metrics do. A process has
// one registry, and tests have many operators.
func (r *Reconciler) Watches() prometheus.Collector { return r.watches }

// Upgrades shows the upgrades that an operator does, as its metrics do.
func (r *Reconciler) Upgrades() prometheus.Collector { return r.upgrades }

// AskAPod is how the operator asks a pod.
var AskAPod = ask(askTransport())

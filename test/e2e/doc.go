// Package e2e drives Auth Gateway on a real Kubernetes, with real pods: what
// `make up` has made, or whatever $KUBECONFIG leads to. `make e2e` runs it.
//
// Each test has namespaces of its own, and in each a PostgreSQL, an AuthGateway
// and an agent (test/e2e/agent), which puts a load on the gateway and judges
// every answer and every token; another is the mail server of a public gateway.
// What disturbs the whole cluster runs alone and first; the rest runs three at a
// time (-parallel).
//
// When a test fails, it prints what happened in its namespaces. E2E_KEEP=1 leaves
// them there. Lines that begin with "figure:" are measurements, and come once
// more, together, at the end.
//
//	KUBECONFIG           the cluster; left out, .local/cluster/kubeconfig
//	E2E_AGENT_IMAGE      left out, those of the ConfigMap local-images that
//	E2E_POSTGRES_IMAGE   make up writes
//	E2E_PUBLISH_LEAD     by how much a mounted ConfigMap may lag; left out, 20s
//	                     on the cluster of make up without Docker, else 100s
package e2e

// Package e2e tests Auth Gateway on a real Kubernetes cluster with real pods: the one that `make up` creates, or the
// one that $KUBECONFIG names. `make e2e` runs it.
//
// Each test has its own namespaces. In each there are a PostgreSQL, an AuthGateway and a probe (test/consumers/probe), which
// puts a load on the gateway and checks every answer and every token. A second probe is the mail server of a public
// gateway. Tests that disturb the whole cluster run first. `make e2e` runs one test at a time; on a larger cluster, set
// -parallel to run several.
//
// When a test fails, it prints the events and logs of its namespaces. With E2E_KEEP=1 the namespaces are kept. Lines
// that begin with "figure:" are measurements; all of them are printed again at the end.
//
// `make soak` runs TestSoak for an hour. `make cloudnativepg` installs CloudNativePG and runs TestCloudNativePG.
//
//	KUBECONFIG           the cluster; by default .local/cluster/kubeconfig
//	E2E_PROBE_IMAGE      the image of the probe, and
//	E2E_POSTGRES_IMAGE   that of PostgreSQL; by default make up sets them in the
//	                     ConfigMap local-images
//	E2E_PUBLISH_LEAD     the longest delay of an update to a mounted ConfigMap; by
//	                     default 20s on the cluster of make up without Docker, else 100s
package e2e

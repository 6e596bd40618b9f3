package controllers

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Prometheus overwrites labels of these names with those of the target that it scrapes, unless honorLabels is set.
var overwritten = []string{"container", "endpoint", "instance", "job", "namespace", "node", "pod", "service"}

var variableLabels = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)

func TestMetricsHaveNoLabelThatPrometheusOverwrites(t *testing.T) {
	for _, collector := range []prometheus.Collector{gatewayMetrics{}, stepsMetric(), &watches{}, newUpgrades(0)} {
		descriptions := make(chan *prometheus.Desc)
		go func() { defer close(descriptions); collector.Describe(descriptions) }()
		for d := range descriptions {
			found := variableLabels.FindStringSubmatch(d.String())
			if found == nil {
				t.Fatalf("%s: no labels were found", d)
			}
			for label := range strings.SplitSeq(found[1], ",") {
				if slices.Contains(overwritten, label) {
					t.Errorf("%s has the label %s", d, label)
				}
			}
		}
	}
}

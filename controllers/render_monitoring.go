package controllers

func renderServiceMonitor(r rendering) map[string]any {
	m := r.gateway.Spec.Monitoring.ServiceMonitor
	return map[string]any{"metadata": r.metadata(m.Labels), "spec": map[string]any{
		"selector": map[string]any{"matchLabels": *convert[map[string]any](r.names.labels())},
		"endpoints": []any{map[string]any{
			"port": portOperations, "path": "/metrics", "interval": string(m.Interval),
		}},
	}}
}

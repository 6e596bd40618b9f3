package install

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// lua returns a value as a Lua expression.
func lua(value any) string {
	switch value := value.(type) {
	case map[string]any:
		var fields []string
		for key, v := range value {
			fields = append(fields, fmt.Sprintf("[%s] = %s", strconv.Quote(key), lua(v)))
		}
		return "{" + strings.Join(fields, ", ") + "}"
	case []any:
		var items []string
		for _, v := range value {
			items = append(items, lua(v))
		}
		return "{" + strings.Join(items, ", ") + "}"
	case string:
		return strconv.Quote(value)
	}
	return fmt.Sprint(value)
}

func TestArgoCDHealth(t *testing.T) {
	interpreter := ""
	for _, name := range []string{"lua5.1", "lua5.4", "lua"} {
		if path, err := exec.LookPath(name); err == nil {
			interpreter = path
			break
		}
	}
	if interpreter == "" {
		t.Skip("Lua is not installed: install the package lua5.1")
	}
	condition := func(kind, status, reason string) any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "message": "why " + reason, "observedGeneration": 2}
	}
	for _, c := range []struct {
		what       string
		generation int
		status     map[string]any
		want       string
	}{
		{"no status", 1, nil, "Progressing the operator has not seen this object yet"},
		{"an empty status", 1, map[string]any{}, "Progressing the operator has not seen this object yet"},
		{"the default status", 1, map[string]any{"observedGeneration": -1}, "Progressing the operator has not seen this object yet"},
		{"a new spec", 3, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "True", "Ready")}}, "Progressing the operator has not seen this version of the spec yet"},
		{"Ready", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Stalled", "False", "Ready"), condition("Ready", "True", "Ready")}}, "Healthy why Ready"},
		{"suspended and available", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "True", "Suspended")}}, "Suspended why Suspended"},
		{"suspended and not available", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "Suspended"), condition("Stalled", "True", "Suspended")}}, "Suspended why Suspended"},
		{"stalled", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "NameConflict"), condition("Stalled", "True", "NameConflict")}}, "Degraded NameConflict: why NameConflict"},
		{"pods failing", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "PodsFailing"), condition("Stalled", "False", "Ready")}}, "Degraded PodsFailing: why PodsFailing"},
		{"without a database", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "DatabaseUnavailable")}}, "Degraded DatabaseUnavailable: why DatabaseUnavailable"},
		{"progressing", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "Progressing"), condition("Stalled", "False", "Ready")}}, "Progressing Progressing: why Progressing"},
		{"a missing Secret", 2, map[string]any{"observedGeneration": 2, "conditions": []any{condition("Ready", "False", "SecretMissing")}}, "Progressing SecretMissing: why SecretMissing"},
	} {
		object := map[string]any{"metadata": map[string]any{"generation": c.generation}, "spec": map[string]any{}}
		if c.status != nil {
			object["status"] = c.status
		}
		program := fmt.Sprintf("obj = %s\nlocal health = dofile(%q)\nio.write(health.status, ' ', health.message)",
			lua(object), filepath.Join(root, "config", "argocd", "health.lua"))
		out, err := exec.CommandContext(t.Context(), interpreter, "-e", program).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", c.what, err, out)
		}
		if string(out) != c.want {
			t.Errorf("%s: %q, want %q", c.what, out, c.want)
		}
	}
}

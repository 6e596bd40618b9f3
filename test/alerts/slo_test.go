package alerts

import (
	"maps"
	"regexp"
	"strings"
	"testing"
)

// answers returns the histogram of the sign-ins at one replica. Slow ones take more than the second that the objective
// allows. With it comes the series that identifies an Auth Gateway.
func answers(namespace, pod, status string, slow bool, values string) map[string]string {
	replica := `{namespace="` + namespace + `",service="auth",pod="` + pod + `",`
	bucket := "http_request_duration_seconds_bucket" + replica +
		`method="POST",route="/tokens/signin",status="` + status + `",le="`
	within := values
	if slow {
		within = "0x999"
	}
	return map[string]string{
		bucket + `0.5"}`:  "0x999",
		bucket + `1"}`:    within,
		bucket + `+Inf"}`: values,
		"authgateway_build_info" + replica + `version="1"}`: "1x999",
	}
}

func good(values string) map[string]string { return answers("shop", "a", "200", false, values) }

func failed(values string) map[string]string { return answers("shop", "a", "503", false, values) }

// busy is a thousand good sign-ins a minute.
func busy() map[string]string { return good("0+1000x999") }

// without removes a metric.
func without(metric string, series map[string]string) map[string]string {
	maps.DeleteFunc(series, func(name, _ string) bool { return strings.HasPrefix(name, metric+"{") })
	return series
}

// burns is the alert for an indicator of the sign-ins of shop/auth.
func burns(sli, rate string) []firing {
	return one(with(server, "slo", "sign-in", "sli", sli),
		"Auth Gateway shop/auth burns the error budget of sign-in "+sli+" "+rate+" times too fast")
}

const (
	fast   = "AuthGatewayErrorBudgetBurnsFast"
	slowly = "AuthGatewayErrorBudgetBurnsSlowly"
)

// The objective of availability is 99.9%: an hour in which 3.333% of the requests fail burns 33.33 times too fast. The
// long windows of a young gateway contain only its own hours.
var sloScenarios = []scenario{
	{
		"an outage", fast, all(good("0+1000x100 100000x200"), failed("0x100 0+1000x200")),
		[]string{"60m", "99m"}, "105m", burns("availability", "33.33"),
	},
	{
		"an outage that is over", fast, all(busy(), failed("0x100 0+1000x4 4000x200")),
		[]string{"100m", "145m"}, "104m", burns("availability", "19.29"),
	},
	{
		"errors that are fewer for longer", fast, all(busy(), failed("0x60 0+10x400")),
		[]string{"65m"}, "200m", burns("availability", "6.872"),
	},
	{
		"errors within the objective", fast, all(busy(), failed("0+0.9x500")),
		[]string{"60m", "90m"}, "", nil,
	},
	{
		"answers that are slow", fast, answers("shop", "a", "200", true, "0+10x120"),
		[]string{"1m"}, "30m", burns("latency", "100"),
	},
	{
		"slow errors, which count once", fast, all(busy(), answers("shop", "a", "503", true, "0+500x120")),
		nil, "60m", burns("availability", "333.3"),
	},
	{
		"refused clients", fast,
		all(answers("shop", "a", "429", false, "0+500x120"), answers("shop", "a", "401", false, "0+500x120")),
		[]string{"60m", "120m"}, "", nil,
	},
	{
		"a gateway with little traffic that fails once", fast, all(good("0x10 1x50 2x50 3x400"), failed("0x30 1x400")),
		[]string{"32m", "35m", "60m", "100m"}, "", nil,
	},
	{
		"a gateway with little traffic that always fails", fast, failed("0+0.1x400"),
		[]string{"60m"}, "120m", burns("availability", "1000"),
	},
	{
		"a gateway that is scaled to zero", fast, all(good("0+1000x60 _x400"), failed("0+1x60 _x400")),
		[]string{"55m", "66m", "100m"}, "", nil,
	},
	{
		"an outage that ends with no replica", fast, failed("0+100x60 _x400"),
		[]string{"100m"}, "30m", burns("availability", "1000"),
	},
	{
		"a gateway that fails, beside one that does not", fast,
		all(answers("orders", "a", "200", false, "0+1000x120"), failed("0+10x120")),
		[]string{"1m"}, "60m", burns("availability", "1000"),
	},
	{
		"replicas that restart", fast, all(
			good("0+1000x60 0+1000x60 0+1000x60"), failed("900x60 0x60 900x60"),
			answers("shop", "b", "200", false, "0+1000x30 0+1000x150"), answers("shop", "b", "503", false, "100x30 0x150"),
		),
		[]string{"35m", "65m", "119m"}, "", nil,
	},
	{
		"another program with the same metrics", fast, without("authgateway_build_info", failed("0+1000x120")),
		[]string{"60m", "120m"}, "", nil,
	},

	{
		"errors above the objective for hours", slowly, all(busy(), failed("0+1.2x500")),
		[]string{"3m"}, "120m", burns("availability", "1.199"),
	},
	{
		"errors that use most of the budget", slowly, all(busy(), failed("0+0.9x500")),
		[]string{"60m", "90m"}, "", nil,
	},
	{
		"errors that were", slowly, all(busy(), failed("0+5x60 300x900")),
		[]string{"330m"}, "60m", burns("availability", "4.975"),
	},
	{
		"nine errors of ten requests", slowly, all(
			good("0x10 1x500"), failed("0x10 1x10 2x10 3x10 4x10 5x10 6x10 7x10 8x10 9x500"),
		),
		[]string{"60m", "100m", "130m"}, "", nil,
	},
}

// The scenarios are those of the sign-ins, in a few windows. The rules of the other objectives and windows are the same
// except for what their labels say.
func TestRulesOfAnObjectiveDifferOnlyInTheirLabels(t *testing.T) {
	selected := regexp.MustCompile(`\{method.*\}`)
	exprs, of := map[string]map[string]bool{}, map[string]int{}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			expr, window := selected.ReplaceAllString(r.Expr, "{}"), r.Labels["window"]
			switch {
			case r.Labels["slo"] != "" && r.Expr == expr || window == "5m": // an objective; a window without a sum
				continue
			case window != "" && strings.Count(expr, "["+window+"]") != 2:
				t.Errorf("the rule of the window %s has others: %s", window, r.Expr)
			case window != "":
				expr = strings.ReplaceAll(expr, "["+window+"]", "[]")
			case r.Labels["slo"] == "":
				continue
			}
			if exprs[r.Record] == nil {
				exprs[r.Record] = map[string]bool{}
			}
			exprs[r.Record][expr] = true
			of[r.Record]++
		}
	}
	for record, n := range of {
		if n < 5 || len(exprs[record]) != 1 {
			t.Errorf("%d rules of %s have %d forms: %v", n, record, len(exprs[record]), exprs[record])
		}
	}
	if len(of) != 2 {
		t.Errorf("found the rules of %v", of)
	}
}

// Package alerts runs the rules of docs/alerts.yaml in promtool, the test tool of Prometheus: each alert fires when it
// should, and only then.
package alerts

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const rulesFile = "../../docs/alerts.yaml"

type labels map[string]string

// scenario is a set of series, with one value a minute, and the expected state of one alert.
type scenario struct {
	name, alert string
	series      map[string]string
	quiet       []string // times at which the alert does not fire
	at          string   // a time at which it fires
	fires       []firing
}

// firing is a firing alert. Its severity and runbook are those of the rule.
type firing struct {
	labels  labels
	summary string
}

// The labels of a gateway and of one of its servers. Prometheus' service discovery sets namespace, service and pod.
var (
	gateway = labels{"gateway_namespace": "shop", "gateway_name": "auth"}
	server  = labels{"namespace": "shop", "service": "auth"}
)

// condition returns a condition as the two replicas of an operator report it.
func condition(kind, status, values string) map[string]string {
	all := map[string]string{}
	for _, pod := range []string{"a", "b"} {
		all[`authgateway_condition{namespace="system",pod="`+pod+
			`",gateway_namespace="shop",gateway_name="auth",type="`+kind+`",status="`+status+`"}`] = values
	}
	return all
}

// of returns a series of a gateway as one operator reports it.
func of(metric, values string) map[string]string {
	return map[string]string{metric + `{namespace="system",pod="a",gateway_namespace="shop",gateway_name="auth"}`: values}
}

// pod returns a series of one replica of a server.
func pod(metric, name, more, values string) map[string]string {
	if more != "" {
		more = "," + more
	}
	return map[string]string{metric + `{namespace="shop",service="auth",pod="` + name + `"` + more + `}`: values}
}

func leads(namespace, pod, values string) map[string]string {
	return map[string]string{
		`leader_election_master_status{name="auth-gateway-operator",namespace="` + namespace + `",pod="` + pod + `"}`: values,
	}
}

func all(series ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, s := range series {
		maps.Copy(merged, s)
	}
	return merged
}

func with(l labels, more ...string) labels {
	l = maps.Clone(l)
	for i := 0; i < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	return l
}

func one(l labels, summary string) []firing { return []firing{{l, summary}} }

var scenarios = slices.Concat(sloScenarios, []scenario{
	{"a gateway that is not Ready for long", "AuthGatewayNotReady", condition("Ready", "False", "1x60"),
		[]string{"14m"}, "16m", one(gateway, "AuthGateway shop/auth is not Ready")},
	{"a gateway that becomes Ready in time", "AuthGatewayNotReady", condition("Ready", "False", "1x10 0x50"), []string{"16m", "40m"}, "", nil},
	{"a gateway that waits for a person", "AuthGatewayStalled", condition("Stalled", "True", "1x60"),
		[]string{"4m"}, "6m", one(gateway, "AuthGateway shop/auth is stalled and needs a person")},
	{"no replica", "AuthGatewayUnavailable", all(condition("Available", "False", "1x60"), condition("Ready", "True", "0x60")),
		[]string{"4m"}, "6m", one(gateway, "users cannot sign in at AuthGateway shop/auth")},
	{"no replica, as it is wanted", "AuthGatewayUnavailable", all(condition("Available", "False", "1x60"),
		condition("Ready", "True", "1x60")), []string{"30m"}, "", nil},
	{"no keys", "AuthGatewayKeysNotReady", condition("KeysReady", "False", "1x60"),
		[]string{"9m"}, "11m", one(gateway, "AuthGateway shop/auth has no usable signing keys, or still trusts a revoked key")},
	{"suspended", "AuthGatewaySuspended", of("authgateway_suspended", "1x3000"),
		[]string{"23h"}, "25h", one(gateway, "AuthGateway shop/auth is suspended, and its keys do not rotate")},

	{"a rotation that is late", "AuthGatewayRotationOverdue", all(of("authgateway_next_rotation_timestamp_seconds",
		"600x200"), of("authgateway_key_publish_lead_seconds", "600x200")),
		[]string{"60m"}, "66m", one(gateway, "the keys of AuthGateway shop/auth should have rotated 56m 0s ago")},
	{"a rotation with a long lead", "AuthGatewayRotationOverdue", all(of("authgateway_next_rotation_timestamp_seconds",
		"600x1000"), of("authgateway_key_publish_lead_seconds", "21600x1000")),
		[]string{"66m", "12h"}, "13h", one(gateway, "the keys of AuthGateway shop/auth should have rotated 12h 50m 0s ago")},

	{"a replica that is awaited", "AuthGatewayReplicasAwaited", of("authgateway_keys_awaiting_replicas", "0x10 1x90"),
		[]string{"39m"}, "45m", one(gateway, "a key of AuthGateway shop/auth waits for a replica that has not loaded it")},
	{"a copy without the present keys", "AuthGatewayPublicKeysNotReady",
		map[string]string{`authgateway_public_keys_ready{public_keys_namespace="orders",public_keys_name="auth"}`: "0x60"},
		[]string{"29m"}, "31m", one(labels{"public_keys_namespace": "orders", "public_keys_name": "auth"},
			"PublicKeys orders/auth does not have the present keys of its AuthGateway")},
	{"replicas that are awaited as after every change of the keys", "AuthGatewayReplicasAwaited",
		of("authgateway_keys_awaiting_replicas", "0x10 1x18 0x60"), []string{"20m", "60m"}, "", nil},

	{"a clock that goes back for the first time", "AuthGatewayClockJumped",
		map[string]string{`authgateway_key_steps_total{namespace="system",pod="a",action="Rebase",reason="ClockWentBack"}`: "_x30 1x60"},
		[]string{"20m", "60m"}, "32m", one(labels{"namespace": "system"},
			"the clock of the Auth Gateway operator in namespace system went back")},
	{"a clock that goes back again", "AuthGatewayClockJumped",
		map[string]string{`authgateway_key_steps_total{namespace="system",pod="a",action="Rebase",reason="ClockWentBack"}`: "1x30 2x60"},
		[]string{"28m", "60m"}, "35m", one(labels{"namespace": "system"},
			"the clock of the Auth Gateway operator in namespace system went back")},

	{"an operator that works, beside one that does not", "AuthGatewayOperatorDown", all(leads("works", "a", "1x60"),
		leads("works", "b", "0x60"), leads("fails", "a", "1x20 0x40"), leads("fails", "b", "0x60")),
		[]string{"20m"}, "28m", one(labels{"namespace": "fails"},
			"no replica of the Auth Gateway operator leads in namespace fails, so no keys rotate")},
	{"an operator that works, beside one that is gone", "AuthGatewayOperatorDown", all(leads("works", "a", "1x200"),
		leads("gone", "a", "1x20")),
		[]string{"20m"}, "3h", one(labels{"namespace": "gone"},
			"no replica of the Auth Gateway operator leads in namespace gone, so no keys rotate")},
	{"an operator whose lead goes from one to the other", "AuthGatewayOperatorDown", all(leads("system", "a",
		"1x20 0x40"), leads("system", "b", "0x22 1x38")), []string{"30m", "60m"}, "", nil},
	{"no operator at all", "AuthGatewayOperatorDown", map[string]string{"up": "1x60"},
		[]string{"4m"}, "6m", one(labels{"name": "auth-gateway-operator"}, "no replica of the Auth Gateway operator leads, so no keys rotate")},

	{"errors", "AuthGatewayOperatorErrors",
		map[string]string{`controller_runtime_reconcile_errors_total{controller="authgateway",namespace="system",pod="a"}`: "0+1.5x60"},
		[]string{"5m"}, "25m", one(labels{"namespace": "system"}, "the Auth Gateway operator in namespace system repeatedly fails to reconcile")},
	{"an error now and then", "AuthGatewayOperatorErrors",
		map[string]string{`controller_runtime_reconcile_errors_total{controller="authgateway",namespace="system",pod="a"}`: "0+1x60"},
		[]string{"55m"}, "", nil},
	{"a namespace that may not be watched", "AuthGatewayOperatorWatchDenied",
		map[string]string{`authgateway_operator_watch_denied{namespace="system",pod="a",kind="Secret",watched_namespace="shop"}`: "1x60"},
		[]string{"14m"}, "16m", one(labels{"namespace": "system", "kind": "Secret", "watched_namespace": "shop"},
			"the Auth Gateway operator in namespace system may not watch Secret in namespace shop")},
	{"a kind that may not be watched anywhere", "AuthGatewayOperatorWatchDenied",
		map[string]string{`authgateway_operator_watch_denied{namespace="system",pod="a",kind="Ingress",watched_namespace=""}`: "1x60"},
		nil, "16m", one(labels{"namespace": "system", "kind": "Ingress"},
			"the Auth Gateway operator in namespace system may not watch Ingress in any namespace")},
	{"an upgrade that stops", "AuthGatewayUpgradeStopped", of("authgateway_operator_upgrade_failing", "1x60"),
		[]string{"4m"}, "6m", one(with(gateway, "namespace", "system"),
			"AuthGateway shop/auth is not Ready after its upgrade, which stops all further upgrades")},
	{"a server of another version", "AuthGatewayVersionUnsupported", condition("VersionSupported", "False", "1x90"),
		[]string{"59m"}, "61m", one(gateway, "AuthGateway shop/auth runs servers of a version that its operator does not support")},
	{"a queue", "AuthGatewayOperatorBehind", map[string]string{
		`workqueue_depth{name="authgateway",namespace="system",pod="a",priority="0"}`: "51x60",
		`workqueue_depth{name="authgateway",namespace="other",pod="a",priority="0"}`:  "50x60",
	}, []string{"9m"}, "11m", one(labels{"namespace": "system"}, "51 AuthGateways wait for the operator in namespace system")},

	{"sign-ins that are turned away", "AuthGatewaySignInsShed", pod("authgateway_hashing_jobs_total", "a", `outcome="shed"`, "0+1x60"),
		[]string{"4m"}, "10m", one(server, "Auth Gateway shop/auth rejects sign-ins because it cannot hash passwords fast enough")},
	{"many requests over a limit", "AuthGatewayManyLimited", all(
		pod("authgateway_limited_requests_total", "a", `limit="signin"`, "0+90x60"),
		pod("authgateway_limited_requests_total", "a", `limit="signup"`, "0+54x60"),
	), []string{"15m"}, "30m", one(with(server, "limit", "signin"),
		"1.5 requests a second are over the limit signin of Auth Gateway shop/auth")},
	{"mails that wait", "AuthGatewayMailWaits", pod("authgateway_mails_oldest_seconds", "a", "", "0+60x60"),
		[]string{"10m"}, "11m", one(server, "a mail of Auth Gateway shop/auth has been waiting for 11m 0s")},
	{"mails that were given up", "AuthGatewayMailsGivenUp", pod("authgateway_mails_given_up_total", "a", `purpose="reset"`, "0+0.2x90"),
		[]string{"40m"}, "80m", one(server, "Auth Gateway shop/auth gave up 12 mails within an hour")},
	{"events that wait", "AuthGatewayEventsWait", pod("authgateway_events_oldest_seconds", "a", "", "0+60x60"),
		[]string{"20m"}, "21m", one(server, "an event of Auth Gateway shop/auth has been waiting for its receiver for 21m 0s")},
	{"events that were given up", "AuthGatewayEventsGivenUp", pod("authgateway_events_given_up_total", "a", "", "0x10 1+1x80"),
		[]string{"5m"}, "80m", one(server, "Auth Gateway shop/auth gave up 60 events within an hour")},
	{"keys that cannot be reloaded", "AuthGatewayKeysNotReloaded", pod("authgateway_key_ring_reload_failures_total", "a", "", "0+1x60"),
		[]string{"4m"}, "20m", one(with(server, "pod", "a"), "replica shop/a of an Auth Gateway cannot reload its keys and uses old ones")},
	{"rings that differ", "AuthGatewayRingsDiffer", all(pod("authgateway_key_ring_generation", "a", "", "7x60"),
		pod("authgateway_key_ring_generation", "b", "", "8x60")),
		[]string{"9m"}, "11m", one(server, "replicas of Auth Gateway shop/auth use different keys")},
	{"refresh tokens that are used twice", "AuthGatewayRefreshTokensReused", pod("authgateway_sessions_total", "a",
		`event="ended_by_reuse"`, "0+0.2x90"),
		[]string{"40m"}, "80m", one(server,
			"12 sessions of Auth Gateway shop/auth ended within an hour because two clients used one refresh token")},

	{"no database", "AuthGatewayDatabaseDown", all(pod("authgateway_database_up", "a", "", "1x10 0x50"),
		pod("authgateway_database_up", "b", "", "1x10 0x50")),
		[]string{"10m", "12m"}, "14m", one(server, "2 replicas of Auth Gateway shop/auth have no writable database")},
	{"no database for one of two", "AuthGatewayDatabaseDown", all(pod("authgateway_database_up", "a", "", "1x60"),
		pod("authgateway_database_up", "b", "", "1x10 0x50")),
		nil, "14m", one(server, "1 replicas of Auth Gateway shop/auth have no writable database")},
	{"a failover", "AuthGatewayDatabaseDown", pod("authgateway_database_up", "a", "", "1x10 0 1x50"), []string{"11m", "12m", "30m"}, "", nil},
	{"endings that are not read", "AuthGatewayEndingsNotRead", all(pod("authgateway_endings_age_seconds", "a", "", "1x10 31x50"),
		pod("authgateway_endings_age_seconds", "b", "", "30x60")),
		[]string{"10m", "11m"}, "13m", one(server, "1 replicas of Auth Gateway shop/auth cannot read which sessions have ended")},
	{"endings that are read after a failover", "AuthGatewayEndingsNotRead", pod("authgateway_endings_age_seconds", "a", "", "1x10 45 1x50"),
		[]string{"11m", "12m", "30m"}, "", nil},
	{"no free connections", "AuthGatewayDatabaseConnectionsShort", pod("authgateway_database_connection_timeouts_total", "a", "", "0+1x60"),
		[]string{"4m"}, "10m", one(server, "requests to Auth Gateway shop/auth get no connection to the database")},

	{"a key that signs for long", "AuthGatewaySigningKeyOld", all(pod("authgateway_signing_key_phase_seconds", "a",
		`phase="Signing",use="access"`, "0+60x300"), pod("authgateway_key_rotation_interval_seconds", "a", `use="access"`, "7200x300")),
		[]string{"150m"}, "200m", one(with(server, "use", "access"), "a key of Auth Gateway shop/auth has signed access tokens for 3h 20m 0s")},
	{"a key that has to sign for long", "AuthGatewaySigningKeyOld", all(pod("authgateway_signing_key_phase_seconds", "a",
		`phase="Signing",use="access"`, "4000000x300"), pod("authgateway_key_rotation_interval_seconds", "a", `use="access"`, "7776000x300")), []string{"200m"}, "", nil},
	{"a key that the operator rotates", "AuthGatewaySigningKeyOld", pod("authgateway_signing_key_phase_seconds", "a",
		`phase="Signing",use="access"`, "40000000x300"), []string{"200m"}, "", nil},
})

// pages are the alerts for which a person on call is woken; see the severities in docs/monitoring.md.
var pages = []string{
	fast, "AuthGatewayUnavailable", "AuthGatewayKeysNotReady", "AuthGatewayMailWaits", "AuthGatewayDatabaseDown",
	"AuthGatewayEndingsNotRead",
}

func TestAlertsThatPageAreMeantTo(t *testing.T) {
	var critical []string
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Labels["severity"] == "critical" {
				critical = append(critical, r.Alert)
			}
		}
	}
	if !slices.Equal(critical, pages) {
		t.Errorf("the critical alerts are %q; want %q", critical, pages)
	}
}

type rules struct {
	Groups []group `json:"groups"`
}

type group struct {
	Name     string `json:"name"`
	Interval string `json:"interval,omitempty"`
	Rules    []rule `json:"rules"`
}

type rule struct {
	Alert       string            `json:"alert,omitempty"`
	Record      string            `json:"record,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func readRules(t *testing.T) rules {
	t.Helper()
	var file rules
	testenv.NoError(t, yaml.UnmarshalStrict(testenv.Must(os.ReadFile(rulesFile))(t), &file))
	return file
}

// promtool runs promtool, and reports its output if it fails.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: install the package prometheus")
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, strings.TrimSpace(string(out)))
	}
}

func TestRulesAreValid(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
}

// batch is a set of scenarios that promtool runs together.
type batch struct {
	slo   bool   // with the groups of the SLOs, or with the others
	every string // the interval of evaluation, which is longer for long scenarios
}

func TestAlertsFireWhenTheyHaveTo(t *testing.T) {
	file := readRules(t)
	of := map[string]rule{}
	groups := map[bool]rules{} // by whether they are of SLOs, whose long windows would make all scenarios slow
	ofSLO := map[string]bool{}
	for _, g := range file.Groups {
		slo := g.Name == "auth-gateway-objectives" || g.Name == "auth-gateway-slo"
		groups[slo] = rules{append(groups[slo].Groups, g)}
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			of[r.Alert], ofSLO[r.Alert] = r, slo
			if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.alert == r.Alert && s.at != "" }) ||
				!slices.ContainsFunc(scenarios, func(s scenario) bool { return s.alert == r.Alert && len(s.quiet) > 0 }) {
				t.Errorf("%s needs a scenario in which it fires, and a time at which it does not", r.Alert)
			}
		}
	}
	tests := map[batch][]any{}
	for _, s := range scenarios {
		r, ok := of[s.alert]
		if !ok {
			t.Errorf("%s: there is no alert %s", s.name, s.alert)
		}
		var series, moments []any
		for _, name := range slices.Sorted(maps.Keys(s.series)) {
			series = append(series, map[string]any{"series": name, "values": s.series[name]})
		}
		for _, at := range s.quiet {
			moments = append(moments, map[string]any{"eval_time": at, "alertname": s.alert})
		}
		if s.at != "" {
			var fires []any
			for _, f := range s.fires {
				fires = append(fires, map[string]any{
					"exp_labels":      with(f.labels, "severity", r.Labels["severity"]),
					"exp_annotations": labels{"summary": f.summary, "runbook_url": r.Annotations["runbook_url"]},
				})
			}
			moments = append(moments, map[string]any{"eval_time": s.at, "alertname": s.alert, "exp_alerts": fires})
		}
		b := batch{slo: ofSLO[s.alert], every: "1m"}
		if strings.Contains(s.at, "h") {
			b.every = "10m"
		}
		if b.slo && b.every != "1m" {
			t.Errorf("%s: the rules of SLOs need a sample a minute: write the times in minutes", s.name)
		}
		tests[b] = append(tests[b], map[string]any{"name": s.name, "interval": "1m", "input_series": series, "alert_rule_test": moments})
	}
	dir := t.TempDir()
	write := func(name string, content any) string {
		path := filepath.Join(dir, name)
		testenv.NoError(t, os.WriteFile(path, testenv.Must(yaml.Marshal(content))(t), 0o600))
		return path
	}
	paths := map[bool]string{true: write("slo.yaml", groups[true]), false: write("others.yaml", groups[false])}
	for b, tests := range tests {
		promtool(t, "test", "rules", write("tests.yaml", map[string]any{
			"rule_files": []string{paths[b.slo]}, "evaluation_interval": b.every, "tests": tests,
		}))
	}
}

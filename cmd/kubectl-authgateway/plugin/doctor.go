package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

// The verdicts of a check.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "fail"
	verdictSkip = "skip" // it cannot be checked
)

// finding is the result of a check.
type finding struct {
	Verdict string `json:"verdict"`
	Check   string `json:"check"`
	Text    string `json:"text"`
	Do      string `json:"do,omitempty"`
}

// examination collects findings about one gateway.
type examination struct {
	*Plugin

	c        *cluster
	g        *gateway // nil without a gateway, or with several
	findings []finding
}

func (e *examination) add(verdict, check, text, do string) {
	e.findings = append(e.findings, finding{verdict, check, text, do})
}

func (p *Plugin) doctor() *cobra.Command {
	var out admincli.Output
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find out what is wrong with a gateway, or missing for one",
		Long: `Checks the cluster, your rights and a gateway, and says what to do about each
problem: whether the kinds are installed, what the spec refers to exists, the
conditions hold, the pods run, administrators are served, the gateway answers
with the issuer and the keys that are published, and the clocks agree.

It changes nothing, and reads no Secret: of those it asks only whether they
exist. It exits with 1 if a check fails. Before there is a gateway, it checks
what the installation of one needs.`,
		Args: admincli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			findings := p.examine(cmd.Context(), c)
			if out.ForPeople() {
				printFindings(cmd.OutOrStdout(), findings)
			} else if err := out.Print(cmd.OutOrStdout(), findings); err != nil {
				return err
			}
			failed := 0
			for _, f := range findings {
				if f.Verdict == verdictFail {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(findings))
			}
			return nil
		},
	}
	p.addAccount(cmd)
	out.AddFlag(cmd)
	return cmd
}

func printFindings(w io.Writer, findings []finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%-5s %-15s %s\n", f.Verdict, f.Check, admincli.Printable(f.Text))
		for line := range strings.Lines(f.Do) {
			fmt.Fprintf(w, "%21s %s\n", "", admincli.Printable(strings.TrimRight(line, "\n")))
		}
	}
}

// examine makes all checks. Later ones need what the earlier ones found.
func (p *Plugin) examine(ctx context.Context, c *cluster) []finding {
	e := &examination{Plugin: p, c: c}
	if !e.checkAPIServer(ctx) {
		return e.findings
	}
	if !e.checkKinds() || !e.findGateway(ctx) {
		e.checkRights(ctx)
		return e.findings
	}
	e.checkRights(ctx)
	e.checkReferences(ctx)
	e.checkConditions()
	e.checkPods(ctx)
	e.checkServer(ctx)
	e.checkAdministration(ctx)
	return e.findings
}

// maxSkew is the difference of clocks that tokens tolerate.
const maxSkew = 30 * time.Second

func (e *examination) checkClock(of string, a answer) {
	at, err := http.ParseTime(a.date)
	if err != nil {
		e.add(verdictSkip, "clock", "the "+of+" does not say what time it is", "")
		return
	}
	if skew := e.Now().Sub(at); skew.Abs() > maxSkew {
		relation := "ahead of"
		if skew < 0 {
			relation = "behind"
		}
		e.add(verdictWarn, "clock", fmt.Sprintf("this machine is %v %s the %s", skew.Abs().Round(time.Second), relation, of),
			"Synchronise the clocks: tokens are refused when these differ too much.")
		return
	}
	e.add(verdictOK, "clock", "that of the "+of+" agrees with this machine", "")
}

// answer is a reply to a request.
type answer struct {
	code   int
	status string
	date   string
	text   []byte
}

// getURL sends a request. Without a transport it has no credential.
func getURL(ctx context.Context, transport http.RoundTripper, address string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, err
	}
	client := http.Client{Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err
		}
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return answer{response.StatusCode, response.Status, response.Header.Get("Date"), text}, err
}

const correctCluster = "Correct the kubeconfig file, or name another context with --context."

func (e *examination) checkAPIServer(ctx context.Context) bool {
	transport, err := rest.TransportFor(e.c.config)
	if err != nil {
		e.add(verdictFail, "cluster", err.Error(), correctCluster)
		return false
	}
	server, _, err := rest.DefaultServerUrlFor(e.c.config)
	if err != nil {
		e.add(verdictFail, "cluster", err.Error(), correctCluster)
		return false
	}
	a, err := getURL(ctx, transport, server.JoinPath("version").String())
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	switch {
	case err != nil:
		e.add(verdictFail, "cluster", "the API server does not answer: "+err.Error(), correctCluster)
		return false
	case a.code == http.StatusUnauthorized:
		e.add(verdictFail, "cluster", "the API server does not accept your credential", "Sign in to the cluster again.")
		return false
	case json.Unmarshal(a.text, &version) != nil:
		e.add(verdictWarn, "cluster", "the API server does not say its version: "+a.status, "")
	default:
		e.add(verdictOK, "cluster", "the API server answers: Kubernetes "+version.GitVersion, "")
	}
	e.checkClock("API server", a)
	return true
}

func (e *examination) checkKinds() bool {
	resources, err := e.c.api.Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	if apierrors.IsNotFound(err) {
		e.add(verdictFail, "kinds", "the cluster has no AuthGateways",
			"Install the operator: helm install auth-gateway charts/auth-gateway --namespace auth-gateway-system --create-namespace")
		return false
	}
	if err != nil {
		e.add(verdictFail, "kinds", err.Error(), "")
		return false
	}
	for _, name := range []string{"authgateways", "publickeys"} {
		if !slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == name }) {
			e.add(verdictFail, "kinds", "the cluster lacks the kind "+name,
				"Upgrade the chart, which contains both kinds (docs/upgrade.md).")
			return false
		}
	}
	e.add(verdictOK, "kinds", "AuthGateway and PublicKeys are installed", "")
	return true
}

func (e *examination) findGateway(ctx context.Context) bool {
	if e.name == "" {
		if all, err := e.c.list(ctx, e.c.namespace); err == nil && len(all) == 0 {
			e.add(verdictSkip, "gateway", "namespace "+e.c.namespace+" has no AuthGateway yet",
				"Create one (docs/install.md), or name another namespace with --namespace.")
			return false
		}
	}
	g, err := e.c.get(ctx, e.name)
	if err != nil {
		e.add(verdictFail, "gateway", err.Error(), "")
		return false
	}
	e.g = g
	switch {
	case g.Status.ObservedGeneration != g.Generation:
		e.add(verdictFail, "operator", fmt.Sprintf("it has not seen generation %d of %s", g.Generation, g.Name),
			"Check that the operator runs: kubectl get pods --all-namespaces --selector app.kubernetes.io/name=auth-gateway-operator")
	case g.Spec.Suspend:
		e.add(verdictWarn, "operator", "spec.suspend is true: it changes nothing",
			"Remove spec.suspend when you are done (docs/runbooks.md#suspended).")
	default:
		e.add(verdictOK, "operator", "it has seen generation "+fmt.Sprint(g.Generation)+" of "+g.Name, "")
	}
	return true
}

// need is a right of the caller, and the commands that need it.
type need struct {
	verb, group, resource, subresource string
	use                                string
}

var needs = []need{
	{"list", v1alpha1.GroupVersion.Group, "authgateways", "", "status, and all others without --gateway"},
	{"get", v1alpha1.GroupVersion.Group, "authgateways", "", "status NAME, and all others with --gateway"},
	{"patch", v1alpha1.GroupVersion.Group, "authgateways", "", "rotate and revoke"},
	{"get", "", "configmaps", "", "verify"},
	{"list", "", "pods", "", "users, sessions, events, console and report"},
	{"create", "", "pods", "portforward", "users, sessions, events and console"},
	{"create", "", "serviceaccounts", "token", "users, sessions, events and console"},
	{"list", "rbac.authorization.k8s.io", "rolebindings", "", "users, sessions, events and console without --service-account"},
	{"list", "", "events", "", "report"},
	{"get", "", "pods", "log", "report"},
}

func (n need) String() string {
	if n.subresource != "" {
		return n.verb + " " + n.resource + "/" + n.subresource
	}
	return n.verb + " " + n.resource
}

func (e *examination) checkRights(ctx context.Context) {
	var missing, unknown []string
	for _, n := range needs {
		namespace, name := e.c.namespace, ""
		if n.resource == "serviceaccounts" && e.g != nil {
			// A person may have the right for the one that is used, and for no other.
			if of, err := e.serviceAccount(ctx, e.c, e.g); err == nil {
				namespace, name = of.namespace, of.name
			}
		}
		review, err := e.c.api.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: n.verb, Group: n.group, Resource: n.resource, Subresource: n.subresource, Name: name,
			}},
		}, metav1.CreateOptions{})
		switch {
		case err != nil:
			unknown = append(unknown, err.Error())
		case !review.Status.Allowed:
			missing = append(missing, n.String()+", for "+n.use)
		}
	}
	switch {
	case len(unknown) > 0:
		e.add(verdictSkip, "your rights", "they cannot be asked: "+unknown[0], "")
	case len(missing) > 0:
		e.add(verdictWarn, "your rights", "you lack some in namespace "+e.c.namespace, strings.Join(missing, "\n"))
	default:
		e.add(verdictOK, "your rights", "they are enough for all commands in namespace "+e.c.namespace, "")
	}
}

// reference is an object that the spec refers to by name.
type reference struct{ field, kind, name string }

// references finds the references of a spec by the names of their fields.
func references(spec map[string]any) (all []reference) {
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				kind := ""
				switch {
				case strings.HasSuffix(name, "SecretRef") || name == "secretRef":
					kind = "Secret"
				case strings.HasSuffix(name, "ConfigMapRef"):
					kind = "ConfigMap"
				}
				if object, ok := v[name].(map[string]any); ok && kind != "" {
					if to, ok := object["name"].(string); ok {
						all = append(all, reference{path + "." + name, kind, to})
					}
					continue
				}
				walk(path+"."+name, v[name])
			}
		case []any:
			for i, item := range v {
				if object, ok := item.(map[string]any); ok && path == "spec.imagePullSecrets" {
					if to, ok := object["name"].(string); ok {
						all = append(all, reference{fmt.Sprintf("%s[%d]", path, i), "Secret", to})
					}
					continue
				}
				walk(fmt.Sprintf("%s[%d]", path, i), item)
			}
		}
	}
	walk("spec", spec)
	return all
}

// checkReferences asks only for metadata, so that no Secret leaves the cluster.
func (e *examination) checkReferences(ctx context.Context) {
	spec, _ := e.g.object.Object["spec"].(map[string]any)
	all := references(spec)
	client, err := metadata.NewForConfig(e.c.config)
	if err != nil {
		e.add(verdictSkip, "references", err.Error(), "")
		return
	}
	resources := map[string]schema.GroupVersionResource{
		"Secret": corev1.SchemeGroupVersion.WithResource("secrets"), "ConfigMap": corev1.SchemeGroupVersion.WithResource("configmaps"),
	}
	found := 0
	for _, r := range all {
		_, err := client.Resource(resources[r.kind]).Namespace(e.g.Namespace).Get(ctx, r.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			e.add(verdictFail, "references", fmt.Sprintf("there is no %s %s, which %s names", r.kind, r.name, r.field),
				"Create it with the keys that this shows: kubectl explain authgateway."+strings.TrimSuffix(r.field, "[0]"))
		case err != nil:
			e.add(verdictSkip, "references", fmt.Sprintf("the %s %s, which %s names: %v", r.kind, r.name, r.field, err), "")
		default:
			found++
		}
	}
	if found == len(all) {
		e.add(verdictOK, "references", fmt.Sprintf("objects that the spec names: %d, none missing", found), "")
	}
}

func (e *examination) checkConditions() {
	good := 0
	for _, c := range e.g.Status.Conditions {
		do := "Read docs/runbooks.md#" + strings.ToLower(c.Reason) + "."
		text := fmt.Sprintf("%s is %s (%s): %s", c.Type, c.Status, c.Reason, c.Message)
		switch {
		case c.Type == v1alpha1.ConditionReconciling && c.Status == metav1.ConditionTrue:
			e.add(verdictWarn, "conditions", text, "")
		case c.Type == v1alpha1.ConditionStalled && c.Status == metav1.ConditionTrue:
			e.add(verdictFail, "conditions", text, do)
		case c.Type == v1alpha1.ConditionReconciling || c.Type == v1alpha1.ConditionStalled || c.Status == metav1.ConditionTrue:
			good++
		case c.Status == metav1.ConditionUnknown:
			e.add(verdictWarn, "conditions", text, do)
		default:
			e.add(verdictFail, "conditions", text, do)
		}
	}
	switch {
	case len(e.g.Status.Conditions) == 0:
		e.add(verdictFail, "conditions", "there are none", "Check that the operator runs and watches this namespace.")
	case good == len(e.g.Status.Conditions):
		e.add(verdictOK, "conditions", fmt.Sprintf("all %d are as they should be", good), "")
	}
}

func (e *examination) checkPods(ctx context.Context) {
	groups := []map[string]string{serverPods(e.g)}
	if e.g.Spec.Admin.Enabled {
		groups = append(groups, adminPods(e.g))
	}
	for _, labels := range groups {
		pods, err := e.c.api.CoreV1().Pods(e.g.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(labels)})
		if err != nil {
			e.add(verdictSkip, "pods", err.Error(), "")
			return
		}
		what := "pods of the API"
		if labels["app.kubernetes.io/name"] == "authserver-admin" {
			what = "pods for administrators"
		}
		ready := 0
		for i := range pods.Items {
			if isReady(pods.Items[i]) {
				ready++
				continue
			}
			text, do := trouble(&pods.Items[i])
			e.add(verdictFail, "pods", pods.Items[i].Name+" is not ready: "+text, do)
		}
		if len(pods.Items) == 0 {
			e.add(verdictFail, "pods", "there are no "+what,
				"kubectl describe deployment --namespace "+e.g.Namespace+" --selector "+selector(labels))
		} else if ready == len(pods.Items) {
			e.add(verdictOK, "pods", fmt.Sprintf("%s: %d, all ready", what, ready), "")
		}
	}
}

// trouble returns why a pod is not ready.
func trouble(pod *corev1.Pod) (text, do string) {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		last := s.LastTerminationState.Terminated
		if s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
			last = s.State.Terminated
		}
		do = "kubectl logs --namespace " + pod.Namespace + " " + pod.Name + " --container " + s.Name
		switch {
		case last != nil && last.Message != "":
			return fmt.Sprintf("%s ended with %d: %s", s.Name, last.ExitCode, strings.TrimSpace(last.Message)), do + " --previous"
		case s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" && s.State.Waiting.Reason != "PodInitializing":
			return fmt.Sprintf("%s waits: %s %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message), do
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			return string(c.Type) + ": " + c.Message, "kubectl describe pod --namespace " + pod.Namespace + " " + pod.Name
		}
	}
	return "phase " + string(pod.Status.Phase), "kubectl describe pod --namespace " + pod.Namespace + " " + pod.Name
}

// checkServer asks a pod of the API for its issuer, its keys and the time, and the issuer itself if others can reach
// it.
func (e *examination) checkServer(ctx context.Context) {
	t, err := e.c.forward(ctx, e.g.Namespace, serverPods(e.g), "http", 0)
	if err != nil {
		e.add(verdictFail, "gateway", err.Error(), "")
		return
	}
	defer t.close()
	issuer := cmp.Or(e.g.Status.Issuer, e.g.Spec.Issuer)
	a, err := getURL(ctx, nil, t.url+"/.well-known/openid-configuration")
	if err != nil {
		e.add(verdictFail, "gateway", "the pod "+t.pod+" does not answer: "+err.Error(), "")
		return
	}
	e.checkClock("pod "+t.pod, a)
	e.compareIssuer("the pod "+t.pod, issuer, a)
	e.compareKeys(ctx, t)
	if strings.HasPrefix(issuer, "https://") {
		a, err := getURL(ctx, nil, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
		if err != nil {
			e.add(verdictWarn, "issuer", "this machine cannot reach "+issuer+": "+err.Error(),
				"If services outside the cluster verify tokens, check the DNS name, the certificate and the proxy.")
			return
		}
		e.compareIssuer(issuer, issuer, a)
	}
}

func (e *examination) compareIssuer(who, want string, a answer) {
	var document struct {
		Issuer string `json:"issuer"`
	}
	switch {
	case a.code != http.StatusOK || json.Unmarshal(a.text, &document) != nil || document.Issuer == "":
		e.add(verdictFail, "issuer", who+" does not answer as Auth Gateway does: "+a.status,
			"Check which service is behind this URL, and that its proxy does not change the path (docs/proxies.md).")
	case document.Issuer != want:
		e.add(verdictFail, "issuer", fmt.Sprintf("%s says that its issuer is %s; the AuthGateway has %s", who, document.Issuer, want),
			"A new issuer takes effect with the annotation authgateway.io/accept-issuer (docs/runbooks.md#changenotaccepted).")
	default:
		e.add(verdictOK, "issuer", who+" has the issuer "+want, "")
	}
}

// compareKeys compares the keys that a pod publishes with those of the ConfigMap.
func (e *examination) compareKeys(ctx context.Context, t *tunnel) {
	document, err := e.c.published(ctx, e.g)
	if err != nil {
		e.add(verdictFail, "keys", err.Error(), "")
		return
	}
	a, err := getURL(ctx, nil, t.url+"/.well-known/jwks.json")
	if err != nil {
		e.add(verdictFail, "keys", "the pod "+t.pod+" does not answer: "+err.Error(), "")
		return
	}
	pod, published := kids(a.text), kids(document.JWKS)
	switch {
	case len(published) == 0:
		e.add(verdictFail, "keys", "no key is published", "Read docs/runbooks.md#keyslost.")
	case !slices.Equal(pod, published):
		e.add(verdictWarn, "keys", fmt.Sprintf("the pod %s has %d keys, and the ConfigMap %d, which are others", t.pod, len(pod), len(published)),
			"Wait for two minutes, which a new key takes to reach the pods. If it stays so, read docs/runbooks.md#awaitingreplicas.")
	default:
		e.add(verdictOK, "keys", fmt.Sprintf("published keys: %d, all in the pod %s", len(pod), t.pod), "")
	}
}

func kids(jwks []byte) (all []string) {
	var set struct {
		Keys []struct {
			KID string `json:"kid"`
		} `json:"keys"`
	}
	if json.Unmarshal(jwks, &set) != nil {
		return nil
	}
	for _, k := range set.Keys {
		all = append(all, k.KID)
	}
	slices.Sort(all)
	return all
}

// checkAdministration lists one account, which needs all that the commands for accounts need.
func (e *examination) checkAdministration(ctx context.Context) {
	if !e.g.Spec.Admin.Enabled {
		e.add(verdictSkip, "administration", "spec.admin.enabled is not set", "")
		return
	}
	a, err := e.reach(ctx, e.c, e.g, 10*time.Minute, 0)
	if err != nil {
		first, rest, _ := strings.Cut(err.Error(), "\n")
		e.add(verdictFail, "administration", first, rest)
		return
	}
	defer a.tunnel.close()
	if _, err := a.client.Users(ctx, url.Values{"limit": {"1"}}); err != nil {
		e.add(verdictFail, "administration", "as the ServiceAccount "+a.account.String()+": "+err.Error(), "Read docs/administration.md.")
		return
	}
	e.add(verdictOK, "administration", "the ServiceAccount "+a.account.String()+" may list accounts", "")
}

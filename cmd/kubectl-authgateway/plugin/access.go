package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

// connect returns a client of the administration of the gateway.
func (p *Plugin) connect(ctx context.Context) (*adminapi.Client, func(), error) {
	c, g, err := p.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	a, err := p.reach(ctx, c, g, time.Hour, 0)
	if err != nil {
		return nil, nil, err
	}
	return a.client, a.tunnel.close, nil
}

// access is a connection to a pod for administrators.
type access struct {
	client  *adminapi.Client
	tunnel  *tunnel
	account account
}

// reach connects to a pod for administrators, with a token that lives as long as said. local is the port of this
// machine, or 0 for any.
func (p *Plugin) reach(ctx context.Context, c *cluster, g *gateway, life time.Duration, local int) (*access, error) {
	if !g.Spec.Admin.Enabled {
		return nil, fmt.Errorf("the AuthGateway %s does not serve administrators; to turn it on: "+
			`kubectl patch agw %s --namespace %s --type=merge -p '{"spec":{"admin":{"enabled":true}}}'`, g.Name, g.Name, g.Namespace)
	}
	of, err := p.serviceAccount(ctx, c, g)
	if err != nil {
		return nil, err
	}
	token, err := c.token(ctx, g, of, life)
	if err != nil {
		return nil, err
	}
	t, err := c.forward(ctx, g.Namespace, adminPods(g), "admin", local)
	if err != nil {
		return nil, err
	}
	client, err := adminapi.NewClient(t.url, token)
	if err != nil {
		t.close()
		return nil, err
	}
	return &access{client, t, of}, nil
}

// account is a ServiceAccount.
type account struct{ namespace, name string }

func (a account) String() string { return a.namespace + "/" + a.name }

// serviceAccount returns the ServiceAccount whose token is used: the one of the flag, the caller if it is one itself,
// or the only one that is bound to a Role of the gateway.
func (p *Plugin) serviceAccount(ctx context.Context, c *cluster, g *gateway) (account, error) {
	if namespace, name, both := strings.Cut(p.account, "/"); both {
		return account{namespace, name}, nil
	} else if p.account != "" {
		return account{g.Namespace, p.account}, nil
	}
	self, err := c.api.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err == nil {
		if of, is := strings.CutPrefix(self.Status.UserInfo.Username, "system:serviceaccount:"); is {
			namespace, name, _ := strings.Cut(of, ":")
			return account{namespace, name}, nil
		}
	}
	bindings, err := c.api.RbacV1().RoleBindings(g.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return account{}, fmt.Errorf("name the ServiceAccount that has the rights with --service-account, because it cannot be found: %w", err)
	}
	for _, role := range []string{g.Name + "-user-editor", g.Name + "-user-viewer"} {
		switch bound := boundTo(bindings.Items, role); len(bound) {
		case 0:
		case 1:
			return bound[0], nil
		default:
			var names []string
			for _, a := range bound {
				names = append(names, a.String())
			}
			return account{}, fmt.Errorf("several ServiceAccounts have the Role %s: name one with --service-account: %s",
				role, strings.Join(names, ", "))
		}
	}
	return account{}, fmt.Errorf(`no ServiceAccount has a Role of the AuthGateway %[1]s.
Name another one with --service-account, or create one and bind it:
  kubectl create serviceaccount helpdesk --namespace %[2]s
  kubectl create rolebinding helpdesk --namespace %[2]s --role=%[1]s-user-editor --serviceaccount=%[2]s:helpdesk`, g.Name, g.Namespace)
}

// boundTo returns the ServiceAccounts that are bound to a Role, each once.
func boundTo(bindings []rbacv1.RoleBinding, role string) (bound []account) {
	for _, b := range bindings {
		if b.RoleRef.Kind != "Role" || b.RoleRef.Name != role {
			continue
		}
		for _, s := range b.Subjects {
			if s.Kind != rbacv1.ServiceAccountKind {
				continue
			}
			a := account{s.Namespace, s.Name}
			if !slices.Contains(bound, a) {
				bound = append(bound, a)
			}
		}
	}
	return bound
}

// audience is that of the tokens that the gateway accepts.
func audience(g *gateway) string {
	return v1alpha1.GroupVersion.Group + "/" + g.Namespace + "/" + g.Name
}

// token returns a token of a ServiceAccount for the gateway.
func (c *cluster) token(ctx context.Context, g *gateway, of account, life time.Duration) (string, error) {
	seconds := int64(life.Seconds())
	request, err := c.api.CoreV1().ServiceAccounts(of.namespace).CreateToken(ctx, of.name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience(g)}, ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return "", fmt.Errorf("you may not create a token of the ServiceAccount %s, which needs create of serviceaccounts/token; "+
			"name another one with --service-account: %w", of, err)
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("there is no ServiceAccount %s: name another one with --service-account", of)
	case err != nil:
		return "", fmt.Errorf("create a token of the ServiceAccount %s: %w", of, err)
	}
	return request.Status.Token, nil
}

// adminPods are the labels of the pods for administrators, and serverPods those of the pods of the API.
func adminPods(g *gateway) map[string]string  { return podLabels(g, "authserver-admin") }
func serverPods(g *gateway) map[string]string { return podLabels(g, "authserver") }

func podLabels(g *gateway, name string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/instance": g.Name}
}

// selector returns labels in the form of a label selector.
func selector(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return strings.Join(parts, ",")
}

// tunnel is a port of this machine that leads to a pod.
type tunnel struct {
	url   string
	pod   string
	ended <-chan error // has the reason when the connection is lost
	close func()
}

// forward forwards a port of this machine, or any if it is 0, to a port of a ready pod. Ctx does not end the tunnel.
func (c *cluster) forward(ctx context.Context, namespace string, labels map[string]string, port string, local int) (*tunnel, error) {
	pods, err := c.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(labels)})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(pods.Items, isReady)
	if i < 0 {
		return nil, fmt.Errorf("no pod with the labels %s is ready in namespace %s; kubectl authgateway doctor says why",
			selector(labels), namespace)
	}
	pod := &pods.Items[i]
	remote := containerPort(pod, port)
	if remote == 0 {
		return nil, fmt.Errorf("the pod %s has no port named %s", pod.Name, port)
	}
	dialer, err := c.dialer(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan struct{})
	forwarder, err := portforward.NewOnAddressesForStreamingWithContext(ctx, dialer, []string{"127.0.0.1"},
		[]string{fmt.Sprintf("%d:%d", local, remote)}, ready, io.Discard, io.Discard)
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		cancel()
		return nil, fmt.Errorf("forward a port to the pod %s: %w", pod.Name, err)
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		cancel()
		return nil, err
	}
	return &tunnel{fmt.Sprintf("http://127.0.0.1:%d", ports[0].Local), pod.Name, ended, cancel}, nil
}

// dialer connects as kubectl port-forward does: with a WebSocket, or if something between does not know that, with
// SPDY.
func (c *cluster) dialer(pod *corev1.Pod) (httpstream.Dialer, error) {
	to := c.api.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	tunneling, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, c.config)
	if err != nil {
		return nil, err
	}
	second := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	return portforward.NewFallbackDialerForStreaming(tunneling, second, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

func isReady(pod corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func containerPort(pod *corev1.Pod, name string) int32 {
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}
	return 0
}

// errLost is the reason for the end of a tunnel that gave none.
var errLost = errors.New("the connection to the pod is lost")

package plugin

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

// Plugin is kubectl authgateway.
type Plugin struct {
	genericiooptions.IOStreams

	Version string
	Browse  func(ctx context.Context, url string) error // opens a browser
	Now     func() time.Time

	flags   *genericclioptions.ConfigFlags
	name    string // of the gateway; empty: the only one
	account string // the ServiceAccount whose token is used; empty: found
}

// New returns the plugin.
func New(streams genericiooptions.IOStreams, version string) *Plugin {
	flags := genericclioptions.NewConfigFlags(true)
	// The others belong in a kubeconfig file.
	flags.CacheDir, flags.TLSServerName, flags.Insecure, flags.CertFile, flags.KeyFile, flags.CAFile = nil, nil, nil, nil, nil, nil
	flags.BearerToken, flags.ImpersonateUID, flags.ImpersonateUserExtra, flags.DisableCompression, flags.ProxyURL = nil, nil, nil, nil, nil
	return &Plugin{IOStreams: streams, Version: version, Browse: browse, Now: time.Now, flags: flags}
}

// Run runs a command line and returns the exit code.
func (p *Plugin) Run(ctx context.Context, args []string) int {
	root := p.Command() //nolint:contextcheck // admincli.Run gives the commands the context
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	return admincli.Run(ctx, root, args)
}

const about = `Shows the gateways of a cluster and their keys, and administers their accounts.

users, sessions, events and console reach the pods for administrators: they
create a token of a ServiceAccount, for this gateway only, and forward a port.
What they may do are the rights of that ServiceAccount, and its name is in the
audit trail. Without --service-account it is the one that a RoleBinding binds to
the Role NAME-user-editor or NAME-user-viewer, if there is only one.

Exit codes: 0 for success, 1 for an error, 2 for wrong arguments.`

// Command returns the commands.
func (p *Plugin) Command() *cobra.Command {
	root := &cobra.Command{
		Use: "kubectl-authgateway", Short: "Show and administer Auth Gateways", Long: about, Version: p.Version,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl authgateway"},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	flags := root.PersistentFlags()
	p.flags.AddFlags(flags)
	flags.StringVarP(&p.name, "gateway", "g", "", "the name of the AuthGateway (default: the only one in the namespace)")
	_ = root.RegisterFlagCompletionFunc("gateway", p.completeGateways)
	users, sessions, events := admincli.Commands(admincli.Options{Program: "kubectl authgateway", Connect: p.connect, AddFlags: p.addAccount})
	root.AddCommand(
		p.status(), users, sessions, events, p.keys(), p.rotate(), p.revoke(), p.verify(), p.doctor(), p.report(), p.console(),
	)
	return root
}

// addAccount adds the flag of the commands that administer accounts.
func (p *Plugin) addAccount(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.account, "service-account", "",
		"the ServiceAccount with the rights, as NAME or NAMESPACE/NAME (default: the one that is bound to a Role of the gateway)")
}

// cluster is the access to a cluster.
type cluster struct {
	config    *rest.Config
	namespace string
	api       kubernetes.Interface
	objects   dynamic.Interface
}

func (p *Plugin) cluster() (*cluster, error) {
	config, err := p.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = "kubectl-authgateway/" + p.Version
	namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	c := &cluster{config: config, namespace: namespace}
	if c.api, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	c.objects, err = dynamic.NewForConfig(config)
	return c, err
}

var gateways = v1alpha1.GroupVersion.WithResource("authgateways")

// gateway is an AuthGateway, and the object that the API server returned.
type gateway struct {
	v1alpha1.AuthGateway

	object *unstructured.Unstructured
}

func parseGateway(object *unstructured.Unstructured) (*gateway, error) {
	g := &gateway{object: object}
	if err := apiruntime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &g.AuthGateway); err != nil {
		return nil, fmt.Errorf("the AuthGateway %s is of another version than this program: %w", object.GetName(), err)
	}
	return g, nil
}

// list returns the gateways of a namespace, or of all if it is empty.
func (c *cluster) list(ctx context.Context, namespace string) ([]*gateway, error) {
	list, err := c.objects.Resource(gateways).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, explain(err)
	}
	all := make([]*gateway, len(list.Items))
	for i := range list.Items {
		if all[i], err = parseGateway(&list.Items[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// get returns a gateway of the namespace; without a name, the only one.
func (c *cluster) get(ctx context.Context, name string) (*gateway, error) {
	if name != "" {
		object, err := c.objects.Resource(gateways).Namespace(c.namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isObject(err) {
			return nil, fmt.Errorf("namespace %s has no AuthGateway %s; kubectl authgateway status -A lists all", c.namespace, name)
		}
		if err != nil {
			return nil, explain(err)
		}
		return parseGateway(object)
	}
	all, err := c.list(ctx, c.namespace)
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		return nil, fmt.Errorf("namespace %s has no AuthGateway: name another one with --namespace; kubectl authgateway status -A lists all",
			c.namespace)
	case len(all) > 1:
		var names []string
		for _, g := range all {
			names = append(names, g.Name)
		}
		return nil, fmt.Errorf("namespace %s has several AuthGateways: name one with --gateway: %s", c.namespace, strings.Join(names, ", "))
	}
	return all[0], nil
}

// isObject reports whether an error is about an object, and not about its kind.
func isObject(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name != ""
}

// explain adds to an error what to do, if the kind does not exist.
func explain(err error) error {
	if apierrors.IsNotFound(err) && !isObject(err) {
		return errors.New("the cluster has no AuthGateways: install the operator (docs/install.md), or name another cluster with --context")
	}
	return err
}

// start returns the access to the cluster, and the gateway.
func (p *Plugin) start(ctx context.Context) (*cluster, *gateway, error) {
	c, err := p.cluster()
	if err != nil {
		return nil, nil, err
	}
	g, err := c.get(ctx, p.name)
	return c, g, err
}

// completeGateways completes the names of the gateways of the namespace.
func (p *Plugin) completeGateways(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := p.cluster()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := c.list(cmd.Context(), c.namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, g := range all {
		names = append(names, g.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// browse opens a URL in the browser of the desktop.
func browse(ctx context.Context, url string) error {
	command := []string{"xdg-open", url}
	switch runtime.GOOS {
	case "darwin":
		command = []string{"open", url}
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", url}
	}
	return exec.CommandContext(ctx, command[0], command[1:]...).Run() //nolint:gosec // one of these three, without a shell
}

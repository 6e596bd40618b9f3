package plugin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
	"github.com/auth-gateway/auth-gateway/internal/config"
)

// redacted replaces a value that may be a secret.
const redacted = "REDACTED"

func (p *Plugin) report() *cobra.Command {
	var file string
	var lines int64
	cmd := &cobra.Command{
		Use: "report", Short: "Write what is needed to diagnose a gateway to a file, without secrets",
		Long: `Writes an archive (tar.gz) with the AuthGateway, the objects that belong to it,
their events, the logs of the pods, and what "doctor" finds.

It reads no Secret: of those it has only the names. It leaves out annotations,
the values of environment variables except harmless settings of the server, the
arguments and logs of sidecars, and what looks like a token, a key or a password
in a URL. The logs contain IDs of accounts and addresses of clients. Look through
the archive before you give it to others.`,
		Args: admincli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, g, err := p.start(ctx)
			if err != nil {
				return err
			}
			if file == "" {
				file = fmt.Sprintf("authgateway-%s-%s-%s.tar.gz", g.Namespace, g.Name, p.Now().UTC().Format("20060102T150405Z"))
			}
			b := &bundle{c: c, g: g, files: map[string][]byte{}}
			b.collect(ctx, lines)
			var findings bytes.Buffer
			printFindings(&findings, p.examine(ctx, c))
			b.files["doctor.txt"] = findings.Bytes()
			b.files["versions.txt"] = fmt.Appendf(nil, "kubectl-authgateway %s\nserver %s\n", p.Version, g.Status.Image)
			if len(b.problems) > 0 {
				b.files["problems.txt"] = []byte(strings.Join(b.problems, "\n") + "\n")
			}
			for name, text := range b.files {
				b.files[name] = scrub(text)
			}
			if err := b.write(file); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has %d files and no Secrets.\n"+
				"The logs have IDs and addresses: look through it before you give it to others.\n", file, len(b.files))
			for _, problem := range b.problems {
				fmt.Fprintln(cmd.ErrOrStderr(), "left out: "+problem)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the file to write, which must not exist (default: a name with the gateway and the time)")
	cmd.Flags().Int64Var(&lines, "log-lines", 2000, "how many lines of each log")
	p.addAccount(cmd)
	return cmd
}

// bundle is what a report has.
type bundle struct {
	c        *cluster
	g        *gateway
	files    map[string][]byte
	problems []string
}

func (b *bundle) problem(what string, err error) {
	b.problems = append(b.problems, fmt.Sprintf("%s: %v", what, err))
}

// kinds are the kinds of objects that belong to a gateway. Secrets are not among them.
var kinds = []schema.GroupVersionResource{
	{Version: "v1", Resource: "services"}, {Version: "v1", Resource: "serviceaccounts"}, {Version: "v1", Resource: "pods"},
	{Version: "v1", Resource: "configmaps"}, {Group: "apps", Version: "v1", Resource: "deployments"},
	{Group: "apps", Version: "v1", Resource: "replicasets"}, {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
	{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
}

// ours selects the objects of a gateway.
func ours(g *gateway) metav1.ListOptions {
	return metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/instance=" + g.Name + ",app.kubernetes.io/name in (authserver,authserver-admin)",
	}
}

func (b *bundle) collect(ctx context.Context, lines int64) {
	b.object("authgateway.yaml", b.g.object)
	for _, kind := range kinds {
		list, err := b.c.objects.Resource(kind).Namespace(b.g.Namespace).List(ctx, ours(b.g))
		if err != nil {
			b.problem(kind.Resource, err)
			continue
		}
		for i := range list.Items {
			b.object(kind.Resource+"/"+list.Items[i].GetName()+".yaml", &list.Items[i])
		}
	}
	b.secrets(ctx)
	b.events(ctx)
	b.logs(ctx, lines)
}

// secrets lists the names of the Secrets that belong to the gateway or that it refers to, by their metadata.
func (b *bundle) secrets(ctx context.Context) {
	client, err := metadata.NewForConfig(b.c.config)
	if err != nil {
		b.problem("names of Secrets", err)
		return
	}
	list, err := client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(b.g.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.problem("names of Secrets", err)
		return
	}
	var names strings.Builder
	spec, _ := b.g.object.Object["spec"].(map[string]any)
	referred := references(spec)
	for _, s := range list.Items {
		if strings.HasPrefix(s.Name, b.g.Name+"-") || slices.ContainsFunc(referred, func(r reference) bool { return r.name == s.Name }) {
			fmt.Fprintln(&names, s.Name)
		}
	}
	b.files["secrets.txt"] = []byte(names.String())
}

func (b *bundle) events(ctx context.Context) {
	list, err := b.c.api.CoreV1().Events(b.g.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.problem("events", err)
		return
	}
	slices.SortFunc(list.Items, func(x, y corev1.Event) int { return x.LastTimestamp.Compare(y.LastTimestamp.Time) })
	var text bytes.Buffer
	t := admincli.NewTable(&text)
	t.Row("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE")
	for _, e := range list.Items {
		if name := e.InvolvedObject.Name; name == b.g.Name || strings.HasPrefix(name, b.g.Name+"-") {
			t.Row(admincli.Time(e.LastTimestamp.Time), e.Type, e.Reason, e.InvolvedObject.Kind+"/"+name, e.Message)
		}
	}
	if err := t.Flush(); err != nil {
		b.problem("events", err)
		return
	}
	b.files["events.txt"] = text.Bytes()
}

func (b *bundle) logs(ctx context.Context, lines int64) {
	pods, err := b.c.api.CoreV1().Pods(b.g.Namespace).List(ctx, ours(b.g))
	if err != nil {
		b.problem("logs", err)
		return
	}
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if s.Name != "authserver" {
				continue // the log of a sidecar may contain anything
			}
			for _, previous := range []bool{false, true} {
				if previous && s.RestartCount == 0 {
					continue
				}
				name := "logs/" + pod.Name
				if previous {
					name += ".previous"
				}
				text, err := b.c.api.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
					Container: s.Name, TailLines: &lines, Previous: previous,
				}).DoRaw(ctx)
				if err != nil {
					b.problem(name, err)
					continue
				}
				b.files[name+".log"] = text
			}
		}
	}
}

// object adds an object without what may be secret.
func (b *bundle) object(name string, object *unstructured.Unstructured) {
	object = object.DeepCopy()
	object.SetManagedFields(nil)
	redact(object.Object)
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		b.problem(name, err)
		return
	}
	b.files[name] = text
}

// redact removes what may be secret: annotations, among which kubectl keeps whole manifests, and values that people
// give to containers. It works at any depth, because pod templates and AuthGateways have them in different places.
func redact(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			redact(item)
		}
	case map[string]any:
		if annotations, ok := v["annotations"].(map[string]any); ok {
			for name := range annotations {
				if !strings.HasPrefix(name, v1alpha1.GroupVersion.Group+"/") {
					annotations[name] = redacted
				}
			}
		}
		for _, list := range []string{"containers", "initContainers", "ephemeralContainers", "sidecars"} {
			containers, _ := v[list].([]any)
			for _, c := range containers {
				if container, ok := c.(map[string]any); ok {
					redactContainer(container)
				}
			}
		}
		for _, member := range v {
			redact(member)
		}
	}
}

// redactContainer removes the values of variables that are not settings without secrets, and the commands of sidecars.
func redactContainer(container map[string]any) {
	switch env := container["env"].(type) {
	case []any:
		for _, e := range env {
			if variable, ok := e.(map[string]any); ok && variable["value"] != nil && !mayShow(fmt.Sprint(variable["name"])) {
				variable["value"] = redacted
			}
		}
	case map[string]any: // of a sidecar of an AuthGateway
		for name := range env {
			env[name] = redacted
		}
	}
	if container["name"] != "authserver" {
		for _, field := range []string{"command", "args"} {
			if container[field] != nil {
				container[field] = []any{redacted}
			}
		}
	}
}

// mayShow reports whether a variable is a setting of the server that is no secret, or the path of a file with one.
func mayShow(name string) bool {
	of, isFile := strings.CutSuffix(name, config.FileSuffix)
	return slices.ContainsFunc(config.Settings(), func(s config.Setting) bool {
		return s.Name == name && !s.Secret || isFile && s.Name == of && s.Secret
	})
}

// secretForms match what is a secret anywhere: the user and password of a URL, signed tokens, and keys of
// administrators.
var secretForms = regexp.MustCompile(`(://)[^/\s@]+@|\beyJ[\w-]+\.[\w-]+\.[\w-]+|\bagadmin_\w+`)

// scrub replaces secrets in a text.
func scrub(text []byte) []byte { return secretForms.ReplaceAll(text, []byte("${1}"+redacted)) }

// write writes the archive. Only its owner may read it.
func (b *bundle) write(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already; name a new file with --file", path)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return archive(f, b.files)
}

func archive(w io.Writer, files map[string][]byte) error {
	compressed := gzip.NewWriter(w)
	t := tar.NewWriter(compressed)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: "authgateway-report/" + name, Mode: 0o600, Size: int64(len(files[name]))}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(files[name]); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), compressed.Close())
}

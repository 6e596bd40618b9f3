package plugin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

// summary is what status shows of a gateway.
type summary struct {
	Namespace    string               `json:"namespace"`
	Name         string               `json:"name"`
	Ready        string               `json:"ready"` // True, False or Unknown
	Reason       string               `json:"reason,omitempty"`
	Message      string               `json:"message,omitempty"`
	Replicas     string               `json:"replicas,omitempty"`
	Admin        string               `json:"admin"` // on, off, or the reason why it is not available
	URL          string               `json:"url,omitempty"`
	Issuer       string               `json:"issuer,omitempty"`
	Image        string               `json:"image,omitempty"`
	NextRotation *metav1.Time         `json:"nextRotation,omitempty"`
	Created      metav1.Time          `json:"created"`
	Conditions   []metav1.Condition   `json:"conditions,omitempty"`
	Keys         *v1alpha1.KeysStatus `json:"keys,omitempty"`
}

func summarize(g *gateway) summary {
	s := summary{
		Namespace: g.Namespace, Name: g.Name, Ready: "Unknown", Replicas: g.Status.ReplicaSummary, Admin: "off", URL: g.Status.URL,
		Issuer: cmp.Or(g.Status.Issuer, g.Spec.Issuer), Image: g.Status.Image, Created: g.CreationTimestamp,
		Conditions: g.Status.Conditions, Keys: g.Status.Keys,
	}
	if ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		s.Ready, s.Reason, s.Message = string(ready.Status), ready.Reason, ready.Message
	}
	if g.Status.ObservedGeneration != g.Generation {
		s.Ready, s.Reason, s.Message = "Unknown", "NotObserved", "the operator has not seen this version of the AuthGateway yet"
	}
	if g.Spec.Admin.Enabled {
		s.Admin = "on"
		if c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionAdminAvailable); c == nil || c.Status != metav1.ConditionTrue {
			s.Admin = "starting"
			if c != nil {
				s.Admin = c.Reason
			}
		}
	}
	if g.Status.Keys != nil {
		s.NextRotation = g.Status.Keys.NextRotationTime
	}
	return s
}

func (p *Plugin) status() *cobra.Command {
	var out admincli.Output
	var everywhere bool
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show the gateways, or one of them",
		Long: `Lists the gateways of the namespace and their problems. With NAME it shows one
gateway with its conditions and keys.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && everywhere {
				return admincli.Misused("write one NAME, or --all-namespaces, or neither")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			if name := cmp.Or(strings.Join(args, ""), p.name); name != "" {
				g, err := c.get(cmd.Context(), name)
				if err != nil {
					return err
				}
				return p.describe(cmd.OutOrStdout(), &out, summarize(g))
			}
			return p.overview(cmd, c, &out, everywhere)
		},
		ValidArgsFunction: p.completeGateways,
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "list the gateways of all namespaces")
	out.AddFlag(cmd)
	return cmd
}

func (p *Plugin) overview(cmd *cobra.Command, c *cluster, out *admincli.Output, everywhere bool) error {
	namespace := c.namespace
	if everywhere {
		namespace = metav1.NamespaceAll
	}
	all, err := c.list(cmd.Context(), namespace)
	if err != nil {
		return err
	}
	list := make([]summary, len(all))
	for i, g := range all {
		list[i] = summarize(g)
	}
	if !out.ForPeople() {
		return out.Print(cmd.OutOrStdout(), list)
	}
	if len(list) == 0 {
		where := "namespace " + namespace + " has"
		if everywhere {
			where = "the cluster has"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s no AuthGateways\n", where)
		return nil
	}
	t := admincli.NewTable(cmd.OutOrStdout())
	header := []string{"NAME", "READY", "STATUS", "REPLICAS", "ADMIN", "NEXT ROTATION", "AGE"}
	if everywhere {
		header = append([]string{"NAMESPACE"}, header...)
	}
	t.Row(header...)
	for _, s := range list {
		row := []string{s.Name, s.Ready, s.Reason, s.Replicas, s.Admin, timeOf(s.NextRotation), p.age(s)}
		if everywhere {
			row = append([]string{s.Namespace}, row...)
		}
		t.Row(row...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range list {
		if s.Ready != string(metav1.ConditionTrue) && s.Message != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s/%s: %s\n", s.Namespace, s.Name, admincli.Printable(s.Message))
		}
	}
	return nil
}

func (p *Plugin) describe(w io.Writer, out *admincli.Output, s summary) error {
	if !out.ForPeople() {
		return out.Print(w, s)
	}
	t := admincli.NewTable(w)
	t.Field("Name", s.Name)
	t.Field("Namespace", s.Namespace)
	t.Field("Ready", strings.TrimSpace(s.Ready+" "+s.Reason))
	t.Field("Replicas", s.Replicas)
	t.Field("URL", s.URL)
	t.Field("Issuer", s.Issuer)
	t.Field("Image", s.Image)
	t.Field("Admin", s.Admin)
	t.Field("Next rotation", timeOf(s.NextRotation))
	t.Field("Age", p.age(s))
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Conditions) > 0 {
		fmt.Fprintln(w)
		t = admincli.NewTable(w)
		t.Row("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
		for _, c := range s.Conditions {
			t.Row(c.Type, string(c.Status), c.Reason, admincli.Time(c.LastTransitionTime.Time), c.Message)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if s.Keys == nil {
		return nil
	}
	fmt.Fprintln(w)
	return listKeys(w, s.Keys)
}

// age is the age of a gateway, as kubectl shows it.
func (p *Plugin) age(s summary) string { return duration.HumanDuration(p.Now().Sub(s.Created.Time)) }

func timeOf(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return admincli.Time(t.Time)
}

// key is a key as the command keys shows it.
type key struct {
	v1alpha1.KeyStatus

	Use string `json:"use"` // access or refresh
}

func keysOf(k *v1alpha1.KeysStatus) []key {
	all := []key{}
	for _, s := range k.Access {
		all = append(all, key{s, "access"})
	}
	for _, s := range k.Refresh {
		all = append(all, key{s, "refresh"})
	}
	return all
}

func (p *Plugin) keys() *cobra.Command {
	var out admincli.Output
	cmd := &cobra.Command{
		Use: "keys", Short: "List the signing keys of a gateway",
		Long: `Lists the signing keys of a gateway and their phases. Published: verifiers get
the key, and it does not sign yet. Signing: it signs. Retiring: it verifies the
tokens that it has signed. Revoked: nothing trusts it.`,
		Args: admincli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, g, err := p.start(cmd.Context())
			if err != nil {
				return err
			}
			if g.Status.Keys == nil {
				return fmt.Errorf("the AuthGateway %s has no keys yet; kubectl authgateway status %s says why", g.Name, g.Name)
			}
			if !out.ForPeople() {
				return out.Print(cmd.OutOrStdout(), keysOf(g.Status.Keys))
			}
			if err := listKeys(cmd.OutOrStdout(), g.Status.Keys); err != nil {
				return err
			}
			if next := g.Status.Keys.NextRotationTime; next != nil {
				fmt.Fprintf(cmd.OutOrStdout(), "\nThe next rotation begins at %s.\n", timeOf(next))
			}
			return nil
		},
	}
	out.AddFlag(cmd)
	return cmd
}

func listKeys(w io.Writer, k *v1alpha1.KeysStatus) error {
	t := admincli.NewTable(w)
	t.Row("KID", "USE", "ALGORITHM", "PHASE", "SINCE", "REMOVED")
	for _, k := range keysOf(k) {
		t.Row(k.KID, k.Use, string(k.Algorithm), string(k.Phase), admincli.Time(k.LastTransitionTime.Time), timeOf(k.RemovalTime))
	}
	return t.Flush()
}

// inProgress returns the uses with a key that is published and does not sign yet.
func inProgress(k *v1alpha1.KeysStatus) (uses []string) {
	if k == nil {
		return nil
	}
	for _, key := range keysOf(k) {
		if key.Phase == v1alpha1.KeyPhasePublished && !slices.Contains(uses, key.Use) {
			uses = append(uses, key.Use)
		}
	}
	return uses
}

// patch changes an AuthGateway with a merge patch.
func (c *cluster) patch(ctx context.Context, g *gateway, patch []byte) error {
	_, err := c.objects.Resource(gateways).Namespace(g.Namespace).Patch(ctx, g.Name, mergePatch, patch, metav1.PatchOptions{
		FieldManager: "kubectl-authgateway", FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}

func (p *Plugin) rotate() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Start a rotation of both signing keys",
		Long: `Starts a rotation of both signing keys. New keys are published at once, and sign
after twice spec.keys.publishLead. All tokens stay valid.`,
		Args: admincli.Exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, g, err := p.start(cmd.Context())
			if err != nil {
				return err
			}
			if uses := inProgress(g.Status.Keys); len(uses) == 2 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to do: a rotation is already in progress; kubectl authgateway keys shows it")
				return nil
			}
			patch, err := annotation(v1alpha1.AnnotationRotate, p.Now().UTC().Format(time.RFC3339Nano))
			if err != nil {
				return err
			}
			if err := c.patch(cmd.Context(), g, patch); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "a rotation of the keys of %s/%s is ordered; kubectl authgateway keys shows it\n", g.Namespace, g.Name)
			if g.Spec.Suspend {
				fmt.Fprintln(cmd.ErrOrStderr(), "spec.suspend is true: the rotation begins when the operator may work again")
			}
			return nil
		},
	}
}

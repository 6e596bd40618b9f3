package plugin

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admincli"
)

const mergePatch = types.MergePatchType

// annotation returns a patch that sets an annotation.
func annotation(name, value string) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{name: value}}})
}

func (p *Plugin) revoke() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke KID", Short: "Revoke a key; every token signed with it becomes invalid",
		Long: `Revokes a key that was stolen: adds its kid to spec.keys.revoked. Every token
that it signed becomes invalid; if it is a refresh key, the users of its sessions
have to sign in again. Another key signs at once. It asks first.

If a person or a tool applies the AuthGateway from a file, add the kid to that
file too: otherwise the field may be removed. The key stays revoked even so.`,
		Args: admincli.Exactly("KID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, g, err := p.start(ctx)
			if err != nil {
				return err
			}
			var known []key
			if g.Status.Keys != nil {
				known = keysOf(g.Status.Keys)
			}
			i := slices.IndexFunc(known, func(k key) bool { return k.KID == args[0] })
			switch {
			case slices.Contains(g.Spec.Keys.Revoked, args[0]):
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to do: the key is already in spec.keys.revoked")
				return nil
			case i < 0:
				return fmt.Errorf("no key of %s/%s has the kid %q; kubectl authgateway keys lists all", g.Namespace, g.Name, args[0])
			}
			if !yes {
				question := fmt.Sprintf("Every token that this %s key of %s/%s has signed becomes invalid. Revoke it?",
					known[i].Use, g.Namespace, g.Name)
				if err := admincli.Confirm(ctx, cmd, question); err != nil {
					return err
				}
			}
			// The resourceVersion refuses the patch if the list changes in the meantime.
			patch, err := json.Marshal(map[string]any{
				"metadata": map[string]any{"resourceVersion": g.ResourceVersion},
				"spec":     map[string]any{"keys": map[string]any{"revoked": append(slices.Clone(g.Spec.Keys.Revoked), args[0])}},
			})
			if err != nil {
				return err
			}
			if err := c.patch(ctx, g, patch); apierrors.IsConflict(err) {
				return fmt.Errorf("the AuthGateway has changed in the meantime: revoke the key again: %w", err)
			} else if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), `the key %[1]s is revoked; the condition KeysReady of %[3]s is False until all of the gateway has followed
pods follow in a minute or two; to make them follow at once:
  kubectl rollout restart deployment %[3]s --namespace %[2]s
`, args[0], g.Namespace, g.Name)
			return nil
		},
		ValidArgsFunction: p.completeKeys,
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// completeKeys completes the kids of the keys that can be revoked.
func (p *Plugin) completeKeys(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	_, g, err := p.start(cmd.Context())
	if err != nil || g.Status.Keys == nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var kids []string
	for _, k := range keysOf(g.Status.Keys) {
		if k.Phase != v1alpha1.KeyPhaseRevoked {
			kids = append(kids, fmt.Sprintf("%s\t%s, %s", k.KID, k.Use, k.Phase))
		}
	}
	return kids, cobra.ShellCompDirectiveNoFileComp
}

package admincli

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

func (o Options) sessions() *cobra.Command {
	var out Output
	cmd := &cobra.Command{
		Use: "list USER", Short: "List the live sessions of an account", Long: "Lists the live sessions of an account.\n\n" + userHelp,
		Args: Exactly("USER"),
	}
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		page, err := c.Sessions(ctx, u.ID)
		if err != nil {
			return err
		}
		if !out.ForPeople() {
			return out.Print(c.out, page)
		}
		if len(page.Items) == 0 {
			fmt.Fprintf(c.note, "%s has no sessions\n", named(u))
			return nil
		}
		t := NewTable(c.out)
		t.Row("ID", "OPENED", "REFRESHED", "EXPIRES", "USER AGENT")
		for _, s := range page.Items {
			t.Row(s.ID, Time(s.OpenedAt), Time(s.RefreshedAt), Time(s.ExpiresAt), s.UserAgent)
		}
		return t.Flush()
	})
}

func (o Options) endSession() *cobra.Command {
	cmd := &cobra.Command{
		Use: "end USER SESSION", Short: "End a session of an account",
		Long: "Ends a session of an account. SESSION is an ID that \"sessions list\" shows.\n\n" + userHelp, Args: Exactly("USER", "SESSION"),
	}
	ch := withReason(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		if !uuid.MatchString(args[1]) {
			return Misused("SESSION is not an ID: write one that sessions list shows")
		}
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		if err := c.EndSession(ctx, u.ID, strings.ToLower(args[1]), *ch); err != nil {
			return err
		}
		fmt.Fprintf(c.out, "a session of %s has ended\n", named(u))
		return nil
	})
}

func (o Options) events() *cobra.Command {
	var out Output
	var p paging
	var event, actor string
	cmd := &cobra.Command{
		Use: "events [USER]", Short: "List the audit trail, or the events of an account",
		Long:    "Lists the audit trail, the newest event first.\n\n" + userHelp + " An ID can be that of an account that was deleted.",
		Example: o.examples("events ada@example.com", `events --event "account suspended" --actor key:ada`),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return Misused("there are %d arguments: write one USER", len(args))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&event, "event", "", "only events of this name, such as \"account suspended\"")
	cmd.Flags().StringVar(&actor, "actor", "", "only changes by this administrator, such as key:ada or system:serviceaccount:shop:helpdesk")
	p.addFlags(cmd)
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		query := url.Values{}
		if len(args) == 1 {
			id := strings.ToLower(args[0])
			if !uuid.MatchString(id) {
				u, err := resolve(ctx, c, args[0])
				if err != nil {
					return err
				}
				id = u.ID
			}
			query.Set("user", id)
		}
		if event != "" {
			query.Set("event", event)
		}
		if actor != "" {
			query.Set("actor", actor)
		}
		header := []string{"TIME", "EVENT", "USER", "ACTOR", "ADDRESS", "DETAILS"}
		return list(ctx, c, &out, p, query, c.Events, header, func(e adminapi.Event) []string {
			actor, _ := e.Details["actor"].(string)
			return []string{Time(e.At), e.Event, e.UserID, actor, e.Address, details(e)}
		})
	})
}

// details returns what an event says beyond the other columns. Earlier releases recorded some details without a value.
func details(e adminapi.Event) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(e.Details)) {
		if name != "actor" && e.Details[name] != "" {
			all = append(all, fmt.Sprintf("%s=%v", name, e.Details[name]))
		}
	}
	return strings.Join(all, " ")
}

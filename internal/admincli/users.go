package admincli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

const userHelp = "USER is an ID, an email address or a username."

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// resolve returns the account that a person means.
func resolve(ctx context.Context, c call, user string) (adminapi.User, error) {
	by := "username"
	switch {
	case uuid.MatchString(user):
		u, _, err := c.User(ctx, strings.ToLower(user))
		if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusNotFound && refused.Reason != "path_not_found" {
			err = fmt.Errorf("no account has the ID %s", user)
		}
		return u, err
	case strings.Contains(user, "@"):
		by = "email"
	case user == "":
		return adminapi.User{}, Misused("USER is empty")
	}
	page, err := c.Users(ctx, url.Values{by: {user}})
	switch {
	case err != nil:
		return adminapi.User{}, err
	case len(page.Items) == 0:
		what := map[string]string{"username": "username", "email": "address"}[by]
		return adminapi.User{}, fmt.Errorf("no account has the %s %q; users find lists those that begin with something", what, user)
	}
	return page.Items[0], nil
}

// named returns how messages name an account.
func named(u adminapi.User) string {
	switch {
	case u.Username != "" && u.Username != u.ID:
		return Printable(u.Username) + " (" + u.ID + ")"
	case u.Email != "":
		return Printable(u.Email) + " (" + u.ID + ")"
	}
	return u.ID
}

func fullName(u adminapi.User) string { return strings.TrimSpace(u.FirstName + " " + u.LastName) }

func (o Options) find() *cobra.Command {
	var out Output
	var p paging
	var email, username, emailPrefix, usernamePrefix, createdAfter string
	var suspended bool
	cmd := &cobra.Command{
		Use: "find [TEXT]", Short: "List accounts, or find some",
		Long: `Lists accounts, the newest first.

TEXT is an ID, or the beginning of an email address or of a username. Without
an @ it is looked for among the usernames, and then among the addresses.
Upper and lower case are the same. There is no search within names.`,
		Example: o.examples("users find ada", "users find ada@example.com",
			"users find --suspended --created-after 2026-01-31T00:00:00Z --all"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return Misused("there are %d texts: write one", len(args))
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&email, "email", "", "the account with this email address")
	flags.StringVar(&username, "username", "", "the account with this username")
	flags.StringVar(&emailPrefix, "email-prefix", "", "accounts whose email address begins with this")
	flags.StringVar(&usernamePrefix, "username-prefix", "", "accounts whose username begins with this")
	flags.BoolVar(&suspended, "suspended", false, "only suspended accounts")
	flags.StringVar(&createdAfter, "created-after", "", "only accounts that are newer than this time, such as 2026-01-31T00:00:00Z")
	p.addFlags(cmd)
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		query := url.Values{}
		for name, value := range map[string]string{
			"email": email, "username": username, "email_prefix": emailPrefix, "username_prefix": usernamePrefix,
			"created_after": createdAfter,
		} {
			if value != "" {
				query.Set(name, value)
			}
		}
		if suspended {
			query.Set("state", adminapi.StateSuspended)
		}
		if len(args) == 1 {
			if len(query) > 0 {
				return Misused("TEXT and flags that select accounts exclude each other")
			}
			var err error
			if query, err = meaning(ctx, c, args[0]); err != nil {
				return err
			}
		}
		header := []string{"ID", "USERNAME", "EMAIL", "NAME", "STATE", "CREATED"}
		return list(ctx, c, &out, p, query, c.Users, header, func(u adminapi.User) []string {
			email := u.Email
			if email != "" && !u.IsVerified {
				email += " (not verified)"
			}
			return []string{u.ID, u.Username, email, fullName(u), u.State, Time(u.CreatedAt)}
		})
	})
}

// meaning returns the query for a text.
func meaning(ctx context.Context, c call, text string) (url.Values, error) {
	switch {
	case text == "":
		return nil, Misused("TEXT is empty")
	case uuid.MatchString(text):
		return url.Values{"id": {strings.ToLower(text)}}, nil
	case strings.Contains(text, "@"):
		return url.Values{"email_prefix": {text}}, nil
	}
	page, err := c.Users(ctx, url.Values{"username_prefix": {text}, "limit": {"1"}})
	if err == nil && len(page.Items) == 0 {
		return url.Values{"email_prefix": {text}}, nil
	}
	return url.Values{"username_prefix": {text}}, err
}

func (o Options) show() *cobra.Command {
	var out Output
	cmd := &cobra.Command{
		Use: "show USER", Short: "Show an account", Long: "Shows an account.\n\n" + userHelp, Args: Exactly("USER"),
	}
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		return showUser(c, &out, u)
	})
}

func showUser(c call, out *Output, u adminapi.User) error {
	if !out.ForPeople() {
		return out.Print(c.out, u)
	}
	verified := "verified"
	if !u.IsVerified {
		verified = "not verified"
	}
	t := NewTable(c.out)
	t.Field("ID", u.ID)
	t.Field("Username", u.Username)
	if u.Email != "" {
		t.Field("Email", u.Email+" ("+verified+")")
	}
	t.Field("Name", fullName(u))
	t.Field("State", u.State)
	if u.SuspendedAt != nil {
		t.Field("Suspended", Time(*u.SuspendedAt))
	}
	t.Field("Scope", u.Scope)
	t.Field("Roles", strings.Join(u.Roles, " "))
	if string(u.Metadata) != "{}" {
		t.Field("Metadata", string(u.Metadata))
	}
	t.Field("Created", Time(u.CreatedAt))
	t.Field("Changed", Time(u.UpdatedAt))
	return t.Flush()
}

// newUser are the flags of create and invite.
type newUser struct {
	adminapi.NewUser

	roles         []string
	metadata, key string
	out           Output
}

func (n *newUser) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&n.Email, "email", "", "the email address (required)")
	flags.StringVar(&n.Username, "username", "", "the username")
	flags.StringVar(&n.FirstName, "first-name", "", "the first name")
	flags.StringVar(&n.LastName, "last-name", "", "the last name")
	flags.StringVar(&n.Scope, "scope", "", "the scopes, separated by spaces (default: SIGNUP_SCOPES of the server)")
	flags.StringArrayVar(&n.roles, "role", nil, "a role; can be given several times")
	flags.StringVar(&n.metadata, "metadata", "", `a JSON object, such as '{"plan": "gold"}'`)
	flags.StringVar(&n.Reason, "reason", "", "why, for the audit trail: one line of up to 200 characters")
	flags.StringVar(&n.key, "idempotency-key", "",
		"a text of your choice: a command that is repeated with it within a day makes no second account")
	_ = cmd.MarkFlagRequired("email")
	n.out.AddFlag(cmd)
}

func (n *newUser) create(ctx context.Context, c call) error {
	if len(n.roles) > 0 {
		roles, err := json.Marshal(n.roles)
		if err != nil {
			return Misused("--role: %v", err)
		}
		n.Roles = roles
	}
	if n.metadata != "" {
		n.Metadata = jsontext.Value(n.metadata)
		if !n.Metadata.IsValid() || n.Metadata.Kind() != '{' {
			return Misused(`--metadata is not a JSON object: write one such as '{"plan": "gold"}'`)
		}
	}
	u, err := c.CreateUser(ctx, n.NewUser, n.key)
	if err != nil {
		return err
	}
	if !n.out.ForPeople() {
		return n.out.Print(c.out, u)
	}
	if err := showUser(c, &n.out, u); err != nil {
		return err
	}
	switch {
	case u.Code != "":
		fmt.Fprintf(c.out, "\nThe code with which the person sets a password, within %v: %s\n",
			time.Duration(u.ExpiresIn)*time.Second, Printable(u.Code))
	case u.State == adminapi.StateInvited:
		fmt.Fprintln(c.out, "\nThe person gets a mail, and sets a password with it.")
	}
	return nil
}

func (o Options) create() *cobra.Command {
	n := newUser{NewUser: adminapi.NewUser{State: adminapi.StateVerified}}
	var passwordFile string
	cmd := &cobra.Command{
		Use: "create --email ADDRESS --password-file FILE", Short: "Make an account with a password",
		Long: `Makes an account with a password, which can sign in at once. You vouch for the
email address. Use "users invite" to let the person choose the password.

The password is the first line of a file, or of the standard input if FILE is -.`,
		Args: Exactly(),
	}
	n.addFlags(cmd)
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "a file with the password (required)")
	_ = cmd.MarkFlagRequired("password-file")
	return o.leaf(cmd, func(ctx context.Context, c call, _ []string) (err error) {
		if n.Password, err = firstLine(passwordFile, c.cmd.InOrStdin()); err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		return n.create(ctx, c)
	})
}

// firstLine returns the first line of a file, or of the input if the name is a dash.
func firstLine(path string, input io.Reader) (string, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close() //nolint:errcheck // it was only read
		input = f
	}
	line, err := bufio.NewReader(io.LimitReader(input, 64<<10)).ReadString('\n')
	line = strings.TrimPrefix(line, "\ufeff") // the byte order mark of editors on Windows
	if !utf8.ValidString(line) {
		return "", errors.New("the first line is not UTF-8: convert the file first, for example with iconv -t UTF-8 -f UTF-16")
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the first line is empty")
		}
		return "", err
	}
	return line, nil
}

func (o Options) invite() *cobra.Command {
	n := newUser{NewUser: adminapi.NewUser{State: adminapi.StateInvited}}
	cmd := &cobra.Command{
		Use: "invite --email ADDRESS", Short: "Invite a person",
		Long: `Makes an account without a password. The person sets one with a code. With
EXPOSURE=public the server mails the code; otherwise this command prints it, for
you to send.`,
		Args: Exactly(),
	}
	n.addFlags(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, _ []string) error { return n.create(ctx, c) })
}

// changing is a command that changes one account.
func (o Options) changing(name, short, long, done string,
	change func(ctx context.Context, c call, id string, ch adminapi.Change) (adminapi.User, error),
) *cobra.Command {
	var out Output
	cmd := &cobra.Command{Use: name + " USER", Short: short, Long: long + "\n\n" + userHelp, Args: Exactly("USER")}
	ch := withReason(cmd)
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		if u, err = change(ctx, c, u.ID, *ch); err != nil {
			return err
		}
		if !out.ForPeople() {
			return out.Print(c.out, u)
		}
		fmt.Fprintf(c.out, "%s %s\n", named(u), done)
		return nil
	})
}

func (o Options) suspend() *cobra.Command {
	return o.changing("suspend", "Suspend an account and end its sessions",
		"Suspends an account: it cannot sign in, and its sessions and codes end at once.", "is suspended",
		func(ctx context.Context, c call, id string, ch adminapi.Change) (adminapi.User, error) {
			return c.Suspend(ctx, id, ch)
		})
}

func (o Options) unsuspend() *cobra.Command {
	return o.changing("unsuspend", "Lift the suspension of an account",
		"Lifts the suspension of an account. Its sessions stay ended.", "can sign in again",
		func(ctx context.Context, c call, id string, ch adminapi.Change) (adminapi.User, error) {
			return c.Unsuspend(ctx, id, ch)
		})
}

func (o Options) signOut() *cobra.Command {
	var out Output
	cmd := &cobra.Command{
		Use: "sign-out USER", Short: "End all sessions of an account", Long: "Ends all sessions of an account.\n\n" + userHelp,
		Args: Exactly("USER"),
	}
	ch := withReason(cmd)
	out.AddFlag(cmd)
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		ended, err := c.SignOut(ctx, u.ID, *ch)
		if err != nil {
			return err
		}
		if !out.ForPeople() {
			return out.Print(c.out, ended)
		}
		fmt.Fprintf(c.out, "%s is signed out: %d sessions have ended\n", named(u), ended.Ended)
		return nil
	})
}

func (o Options) deleteUser() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete USER", Short: "Delete an account and all its data except the audit trail",
		Long: `Deletes an account and all its data except the audit trail.

It shows the account and asks first. If the account changes in the meantime, it
is not deleted.

` + userHelp,
		Args: Exactly("USER"),
	}
	ch := withReason(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return o.leaf(cmd, func(ctx context.Context, c call, args []string) error {
		u, err := resolve(ctx, c, args[0])
		if err != nil {
			return err
		}
		u, tag, err := c.User(ctx, u.ID)
		if err != nil {
			return err
		}
		if !yes {
			if err := showUser(call{out: c.note}, &Output{format: "table"}, u); err != nil {
				return err
			}
			if err := Confirm(ctx, c.cmd, "Delete this account?"); err != nil {
				return err
			}
		}
		if err := c.DeleteUser(ctx, u.ID, tag, *ch); err != nil {
			return err
		}
		fmt.Fprintf(c.out, "%s is deleted\n", named(u))
		return nil
	})
}

// Confirm asks a question, and returns an error unless the answer is yes.
func Confirm(ctx context.Context, cmd *cobra.Command, question string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [yes/no] ", question)
	answer := make(chan string, 1)
	go func() { // a read from a terminal does not end with the context
		line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case said := <-answer:
		switch said {
		case "y", "yes":
			return nil
		case "":
			return errors.New("nothing was changed; add --yes to go on without a question")
		}
		return errors.New("nothing was changed")
	}
}

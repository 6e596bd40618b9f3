package admincli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
)

const defaultLimit = 50

// paging is what a person wants of a list.
type paging struct {
	limit  int
	all    bool
	cursor string
}

func (p *paging) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&p.limit, "limit", defaultLimit, "how many to list")
	flags.BoolVar(&p.all, "all", false, "list all, however many there are")
	flags.StringVar(&p.cursor, "cursor", "", "continue a list where it ended")
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if p.limit < 1 {
			return Misused("--limit must be at least 1")
		}
		if p.all && cmd.Flags().Changed("limit") {
			return Misused("--all and --limit exclude each other")
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// read calls each with the pages of a list until it has as many entries as wanted, and returns the cursor of what
// follows.
func read[T any](ctx context.Context, p paging, query url.Values,
	fetch func(context.Context, url.Values) (adminapi.Page[T], error), each func([]T) error,
) (next string, err error) {
	query = maps.Clone(query)
	next = p.cursor
	for left := p.limit; ; {
		size := adminapi.MaxLimit
		if !p.all {
			size = min(size, left)
		}
		query.Set("limit", strconv.Itoa(size))
		if next != "" {
			query.Set("cursor", next)
		}
		page, err := fetch(ctx, query)
		if err != nil {
			return next, err
		}
		if err := each(page.Items); err != nil {
			return next, err
		}
		next, left = page.Next, left-len(page.Items)
		if next == "" || (!p.all && left <= 0) {
			return next, nil
		}
	}
}

// list prints the pages of a list.
func list[T any](ctx context.Context, c call, o *Output, p paging, query url.Values,
	fetch func(context.Context, url.Values) (adminapi.Page[T], error), header []string, row func(T) []string,
) error {
	if !o.ForPeople() {
		all := adminapi.Page[T]{Items: []T{}}
		next, err := read(ctx, p, query, fetch, func(items []T) error {
			all.Items = append(all.Items, items...)
			return nil
		})
		if err != nil {
			return err
		}
		all.Next = next
		if err := o.Print(c.out, all); err != nil {
			return err
		}
		announce(c.note, query, next)
		return nil
	}
	shown := 0
	next, err := read(ctx, p, query, fetch, func(items []T) error {
		table := NewTable(c.out)
		if shown == 0 && len(items) > 0 {
			table.Row(header...)
		}
		for _, item := range items {
			table.Row(row(item)...)
		}
		shown += len(items)
		return table.Flush()
	})
	if err != nil {
		return err
	}
	if shown == 0 {
		fmt.Fprintln(c.note, "nothing found")
	}
	announce(c.note, query, next)
	return nil
}

// announce says that a list has more entries, and how to get them.
func announce(w io.Writer, query url.Values, next string) {
	if next == "" {
		return
	}
	var flags []string
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if name == "user" { // an argument
			flags = append(flags, query.Get(name))
		} else if flag := flagOf[name]; flag != "" {
			flags = append(flags, strings.TrimSpace("--"+flag+" "+quote(query.Get(name), flag)))
		}
	}
	flags = append(flags, "--cursor "+next)
	fmt.Fprintf(w, "There are more. The next ones: %s. All of them: --all.\n", strings.Join(flags, " "))
}

// flagOf has the flags of the parameters of a query that are not arguments.
var flagOf = map[string]string{
	"email": "email", "username": "username", "email_prefix": "email-prefix", "username_prefix": "username-prefix",
	"state": "suspended", "created_after": "created-after", "event": "event", "actor": "actor",
}

func quote(value, flag string) string {
	switch {
	case flag == "suspended":
		return ""
	case strings.ContainsFunc(value, func(r rune) bool { return !strings.ContainsRune("-._@:+/", r) && !isAlphanumeric(r) }):
		return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return value
}

func isAlphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

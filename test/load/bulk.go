package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const (
	signInPace = 8     // a second
	slowPace   = 1_000 // accounts a second
)

// bulk measures sign-ins while accounts are imported or exported, in turn with quiet phases.
func (b *bench) bulk(ctx context.Context, r *env) error {
	dir, err := os.MkdirTemp("", "load-bulk-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	count, phases, d := 1_000_000, 3, 40*b.slice
	if b.users < 10_000 {
		count, phases = 20_000, 1
	}
	file, exported := filepath.Join(dir, "accounts"), filepath.Join(dir, "exported")
	if err := writeAccounts(file, 0, count); err != nil {
		return err
	}
	server, err := r.startServer(ctx, nil)
	if err != nil {
		return err
	}
	defer server.stop()
	signIns := func() paced { return pace(server.address, signInPace, d, r.signIn()) }
	signIns() // opens connections
	export := func(rate ...string) ([]string, error) {
		_ = errors.Join(os.Remove(exported), os.Remove(exported+".manifest")) // an export overwrites nothing
		return append([]string{"users", "export", exported}, rate...), nil
	}
	// A file of its own for each phase, because an import that continues first reads what it has imported.
	next := count
	slowly := func() ([]string, error) {
		path := filepath.Join(dir, fmt.Sprint("accounts from ", next))
		err := writeAccounts(path, next, next+slowPace*int(2*d.Seconds()+1))
		next += slowPace * int(2*d.Seconds()+1)
		return []string{"users", "import", path, "--from", "native", "--rate", fmt.Sprint(slowPace)}, err
	}
	// An import that is stopped at the end of a phase continues in the next one.
	kinds := []struct {
		name string
		args func() ([]string, error)
		seen paced
	}{
		{"nothing else", nil, paced{}},
		{"an import", func() ([]string, error) {
			return []string{"users", "import", file, "--from", "native", "--resume"}, nil
		}, paced{}},
		{"an export", func() ([]string, error) { return export() }, paced{}},
		{"an import of 1,000 a second", slowly, paced{}},
		{"an export of 10,000 a second", func() ([]string, error) { return export("--rate", "10000") }, paced{}},
	}
	for range phases {
		for i := range kinds {
			k := &kinds[i]
			var args []string
			var failed error
			if k.args != nil {
				if args, failed = k.args(); failed != nil {
					return failed
				}
			}
			beside, stop := context.WithCancel(ctx)
			var running sync.WaitGroup
			if k.args != nil {
				running.Go(func() {
					for beside.Err() == nil { // again, if it ends before the phase does
						if _, err := r.command(beside, args...); err != nil && beside.Err() == nil {
							failed = err
							return
						}
						if args, failed = k.args(); failed != nil {
							return
						}
					}
				})
			}
			p := signIns()
			stop()
			running.Wait()
			if failed != nil {
				return failed
			}
			k.seen.latencies = append(k.seen.latencies, p.latencies...)
			k.seen.failed += p.failed
			if p.reason != "" {
				k.seen.reason = p.reason
			}
		}
	}
	b.table("Sign-ins beside bulk work", "figure", "measured", "target", "", "remarks")
	for i := range kinds {
		slices.Sort(kinds[i].seen.latencies)
	}
	quiet := percentile(kinds[0].seen.latencies, 0.99)
	for _, k := range kinds {
		all := k.seen.latencies
		b.atMost("beside "+k.name+", failed", float64(k.seen.failed), "", 1, k.seen.reason)
		b.atMost("beside "+k.name+", p99 of that beside nothing", 100*float64(percentile(all, 0.99))/float64(quiet), "%", 110,
			fmt.Sprintf("p99 %.1f ms, p50 %.1f ms of %d", milliseconds(percentile(all, 0.99)), milliseconds(percentile(all, 0.5)), len(all)))
	}
	return nil
}

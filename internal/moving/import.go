package moving

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	batchSize   = 10_000
	batchHashes = 64 // digests that are hashed once more, which takes long
	batchesRate = 20 // a second, of an import or export with a rate
)

// pace returns the size of a batch for a rate, and a limiter that each batch waits for. A batch is so small that the
// database works on it for some milliseconds only, so that the queries of others hardly wait.
func pace(perSecond int) (size int, limiter *rate.Limiter) {
	if perSecond == 0 {
		return batchSize, rate.NewLimiter(rate.Inf, 0)
	}
	size = min(max(1, perSecond/batchesRate), batchSize)
	return size, rate.NewLimiter(rate.Limit(perSecond), size)
}

// Entry is an account of a file, or why it cannot be one.
type Entry struct {
	File    string
	Number  int // of its line; in a file that is not read by lines: how many accounts are before it, plus one
	Account identity.MovedAccount
	Foreign bool // the hash is of another system, so a $2a$ is not an own one
	Refused error

	scheme hashes.Scheme // of the hash
}

// Progress is how far an import is.
type Progress struct {
	Read, Imported, Refused int64
	RefusedBytes            int64 // the length of the file of refused accounts
	Finished                bool
}

// Taken says which unique values of an entry another account has. All false: an earlier entry has them.
type Taken struct {
	Index               int // of the account in the batch
	ID, Username, Email bool
}

// Batch is a part of an import that is stored in one transaction.
type Batch struct {
	Import   string   // which import it belongs to
	Before   Progress // as it was recorded; ErrInterfered if it is not
	Accounts []identity.MovedAccount
	Staged   Staged // of these accounts; nil: they are not sent yet
	// Exclude is called with the schemes of the hashes that are stored, while no other import adds one. It returns which
	// accounts are not stored because of theirs, by their index. Nil: all may be.
	Exclude func(schemes []string) map[int]bool
	// Refuse is called with the other accounts that are not stored, because their values are taken. It returns what is
	// recorded when the batch is stored.
	Refuse func([]Taken) (Progress, error)
	DryRun bool // store nothing
}

// Staged are accounts that the database has but that are not stored. A batch takes it over.
type Staged interface {
	// Discard removes them.
	Discard()
}

// ErrInterfered is the error of a batch if the import is not as far as the process knows.
var ErrInterfered = errors.New("another process continues the same import, or the database lost changes in a failover")

// Store stores what is imported.
type Store interface {
	// BeginImport returns how far an import is, after it has waited for a transaction of it that is under way. found is
	// false if there was none.
	BeginImport(ctx context.Context, id string) (p Progress, found bool, err error)
	// RestartImport records that an import is at its beginning.
	RestartImport(ctx context.Context, id string) error
	// Stage sends the accounts of a batch to the database while it stores the batch before.
	Stage(ctx context.Context, accounts []identity.MovedAccount) (Staged, error)
	// ImportBatch stores a batch: the accounts whose values are free, and the progress, or nothing.
	ImportBatch(ctx context.Context, b Batch) error
	// FinishImport records that an import is complete. ErrInterfered if it is not as far as the caller knows.
	FinishImport(ctx context.Context, id string, before Progress) error
}

// Import is one run of an import.
type Import struct {
	Store   Store
	Check   func(*identity.MovedAccount) error
	Cost    int    // of bcrypt, for digests
	Refused string // the path of the file of refused accounts; empty: none is written
	DryRun  bool
	Resume  bool
	Rate    int            // accounts a second at most; 0: as fast as they are stored
	Report  func(Progress) // called after each batch
	Explain func(Entry)    // called for each refused entry, after its batch; nil: not

	planned []hashes.Scheme // of a dry run
}

// ID names the import of these files. It is a digest of their content, so that a file that has changed is another
// import.
func ID(from string, paths []string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, from)
	for _, path := range paths {
		digest, err := digestOf(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, digest)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Run imports entries. An entry that cannot be an account is refused; an error ends the import, and Resume continues it.
func (i *Import) Run(ctx context.Context, id string, entries iter.Seq2[Entry, error]) (p Progress, err error) {
	if p, err = i.begin(ctx, id); err != nil || p.Finished {
		return p, err
	}
	var refused *os.File
	if i.Refused != "" {
		if refused, err = openRefused(i.Refused, p.RefusedBytes); err != nil {
			return p, err
		}
		defer func() { err = errors.Join(err, refused.Close()) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := p.Read
	batches, reading := make(chan *batch), make(chan error, 1)
	go func() {
		defer close(batches)
		reading <- i.prepare(ctx, entries, begun, batches)
	}()
	_, limiter := pace(i.Rate)
	for b := range batches {
		if err = limiter.WaitN(ctx, len(b.entries)); err != nil {
			b.discard()
			break
		}
		if p, err = i.store(ctx, id, p, b, refused); err != nil {
			break
		}
		if i.Report != nil {
			i.Report(p)
		}
	}
	if err != nil {
		cancel()
	}
	for b := range batches { // the reader ends before the caller closes its files
		b.discard()
	}
	if read := <-reading; err == nil {
		err = read
	}
	if err == nil && !i.DryRun {
		err = i.Store.FinishImport(ctx, id, p)
	}
	return p, err
}

// begin finds out where to begin.
func (i *Import) begin(ctx context.Context, id string) (Progress, error) {
	if i.DryRun {
		return Progress{}, nil
	}
	p, found, err := i.Store.BeginImport(ctx, id)
	switch {
	case err != nil:
		return p, err
	case found && i.Resume:
		return p, nil
	case found && !p.Finished:
		return Progress{}, fmt.Errorf("an import of these files stopped after %d accounts; continue it with --resume", p.Read)
	}
	return Progress{}, i.Store.RestartImport(ctx, id)
}

// openRefused opens the file of refused accounts, and cuts it to what was recorded.
func openRefused(path string, length int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.Size() < length {
		return nil, errors.Join(err, f.Close(),
			fmt.Errorf("%s is shorter than the import has left it; put it back, or name the right file with --refused", path))
	}
	return f, nil
}

// prepare reads entries after the first skip ones, checks them, and sends them in batches.
func (i *Import) prepare(ctx context.Context, entries iter.Seq2[Entry, error], skip int64, batches chan<- *batch) error {
	seen := newNames()
	var read []Entry
	var slow int
	size, _ := pace(i.Rate)
	send := func() error {
		i.check(read)
		b := &batch{entries: read}
		for k := range read {
			if read[k].Refused == nil {
				read[k].Refused = seen.add(&read[k].Account)
			}
			if read[k].Refused == nil {
				b.accounts, b.indexes = append(b.accounts, read[k].Account), append(b.indexes, k)
			}
		}
		if !i.DryRun { // the store knows those of former batches
			seen = newNames()
		}
		if i.Rate == 0 { // with a rate nothing is gained
			var err error
			if b.staged, err = i.Store.Stage(ctx, b.accounts); err != nil {
				return err
			}
		}
		select {
		case batches <- b:
			read, slow = nil, 0
			return nil
		case <-ctx.Done():
			b.discard()
			return ctx.Err()
		}
	}
	for entry, err := range entries {
		if err != nil {
			return err
		}
		if skip > 0 {
			skip--
			continue
		}
		if hashes.IsDigest(entry.Account.PasswordHash) {
			slow++
		}
		if read = append(read, entry); len(read) == size || slow == batchHashes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if len(read) > 0 {
		return send()
	}
	return nil
}

// batch is what prepare has read, and which of it can be stored.
type batch struct {
	entries  []Entry
	accounts []identity.MovedAccount
	indexes  []int // of the accounts in entries
	staged   Staged
}

func (b *batch) discard() {
	if b.staged != nil {
		b.staged.Discard()
	}
}

// check checks entries with all processors.
func (i *Import) check(batch []Entry) {
	var workers sync.WaitGroup
	next := make(chan *Entry)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for e := range next {
				if e.Refused == nil {
					e.Refused = i.checkOne(e)
				}
			}
		})
	}
	for k := range batch {
		next <- &batch[k]
	}
	close(next)
	workers.Wait()
}

func (i *Import) checkOne(e *Entry) error {
	read := hashes.Import
	if e.Foreign {
		read = hashes.ImportForeign
	}
	imported, err := read(e.Account.PasswordHash)
	if err != nil {
		return fmt.Errorf("password_hash: %w", err)
	}
	e.scheme = imported.Scheme
	if err := i.Check(&e.Account); err != nil {
		if failed, ok := errors.AsType[*identity.Error](err); ok {
			return errors.New(failed.Message)
		}
		return err
	}
	if i.DryRun {
		e.Account.PasswordHash = hashes.None
		return nil
	}
	e.Account.PasswordHash, err = imported.Stored(i.Cost)
	return err
}

// names are the unique values of accounts, by a hash of 64 bits.
type names struct {
	seed maphash.Seed
	has  map[uint64]struct{}
}

func newNames() *names { return &names{maphash.MakeSeed(), map[uint64]struct{}{}} }

// add returns an error if an account has a value of another one.
func (n *names) add(m *identity.MovedAccount) error {
	var keys []uint64
	for _, v := range []struct{ name, value string }{{"id", m.ID}, {"username", m.CanonicalUsername}, {"email", m.CanonicalEmail}} {
		if v.value == "" {
			continue
		}
		key := maphash.String(n.seed, v.name+" "+v.value)
		if _, twice := n.has[key]; twice {
			return fmt.Errorf("%s: is twice in the files", v.name)
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		n.has[key] = struct{}{}
	}
	return nil
}

// store stores a batch, and writes down which of its entries are refused.
func (i *Import) store(ctx context.Context, id string, before Progress, prepared *batch, refused *os.File) (after Progress, err error) {
	entries, indexes := prepared.entries, prepared.indexes
	b := Batch{Import: id, Before: before, DryRun: i.DryRun, Accounts: prepared.accounts, Staged: prepared.staged}
	var excluded map[int]bool
	if slices.ContainsFunc(indexes, func(k int) bool { _, foreign := entries[k].scheme.Foreign(); return foreign }) {
		b.Exclude = func(schemes []string) map[int]bool {
			excluded = i.exclude(schemes, entries, indexes)
			return excluded
		}
	}
	b.Refuse = func(taken []Taken) (Progress, error) {
		for _, t := range taken {
			e := &entries[indexes[t.Index]]
			e.Refused = t.reason(e.Account)
		}
		after = before
		after.Read += int64(len(entries))
		after.Imported += int64(len(b.Accounts) - len(excluded) - len(taken))
		after.Refused += int64(len(entries)-len(b.Accounts)) + int64(len(excluded)+len(taken))
		var err error
		if refused != nil {
			after.RefusedBytes, err = writeRefused(refused, before.RefusedBytes, entries)
		}
		return after, err
	}
	if err := i.Store.ImportBatch(ctx, b); err != nil {
		return before, err
	}
	for _, e := range entries {
		if e.Refused != nil && i.Explain != nil {
			i.Explain(e)
		}
	}
	return after, nil
}

// exclude refuses accounts whose hashes would bring too many kinds of work. The first kinds are admitted.
func (i *Import) exclude(stored []string, entries []Entry, indexes []int) map[int]bool {
	kinds := map[hashes.Scheme]string{} // with the first scheme of each
	add := func(s hashes.Scheme) (admitted bool) {
		kind, foreign := s.Foreign()
		if _, has := kinds[kind]; !foreign || has {
			return true
		}
		if len(kinds) >= hashes.MaxForeignKinds {
			return false
		}
		kinds[kind] = s.String()
		return true
	}
	for _, text := range stored {
		if scheme, err := hashes.ParseScheme(text); err == nil {
			if kind, foreign := scheme.Foreign(); foreign {
				kinds[kind] = scheme.String()
			}
		}
	}
	for _, scheme := range i.planned {
		add(scheme)
	}
	excluded := map[int]bool{}
	for n, k := range indexes {
		e := &entries[k]
		if add(e.scheme) {
			continue
		}
		excluded[n] = true
		e.Refused = fmt.Errorf("password_hash: %s would be one kind too many: each failed sign-in takes the work of all kinds, "+
			"and those of %s are in use; import the account without a hash", e.scheme, strings.Join(slices.Sorted(maps.Values(kinds)), ", "))
	}
	if i.DryRun { // nothing is stored, so the next batch would not know
		for k := range entries {
			if _, foreign := entries[k].scheme.Foreign(); foreign && entries[k].Refused == nil && !slices.Contains(i.planned, entries[k].scheme) {
				i.planned = append(i.planned, entries[k].scheme)
			}
		}
	}
	return excluded
}

func (t Taken) reason(m identity.MovedAccount) error {
	// An account without a username has its id in that column.
	t.Username = t.Username && m.Username != ""
	var taken []string
	for _, v := range []struct {
		name string
		is   bool
	}{{"id", t.ID}, {"username", t.Username}, {"email", t.Email}} {
		if v.is {
			taken = append(taken, v.name+": another account has it")
		}
	}
	if taken == nil {
		return errors.New("another account has its id, username or email")
	}
	return errors.New(strings.Join(taken, "; "))
}

// writeRefused writes the refused entries at an offset of the file, and returns the offset after them.
func writeRefused(f *os.File, offset int64, entries []Entry) (int64, error) {
	if err := f.Truncate(offset); err != nil {
		return 0, err
	}
	var lines strings.Builder
	for _, e := range entries {
		if e.Refused == nil {
			continue
		}
		line, err := json.Marshal(struct {
			File   string `json:"file"`
			Number int    `json:"number"`
			Reason string `json:"reason"`
		}{e.File, e.Number, e.Refused.Error()})
		if err != nil {
			return 0, err
		}
		lines.Write(append(line, '\n'))
	}
	if lines.Len() == 0 {
		return offset, nil
	}
	if _, err := f.WriteAt([]byte(lines.String()), offset); err != nil {
		return 0, err
	}
	return offset + int64(lines.Len()), f.Sync()
}

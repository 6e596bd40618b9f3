package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/keys"
)

// keyChangeTimeout bounds a change of the keys. It is shorter than the WriteTimeout of the server for administrators.
const keyChangeTimeout = 10 * time.Second

// adminKeys is the key ring for administrators. It implements admin.Keyring.
type adminKeys struct {
	keyring   *keyring.Keyring
	published string // the file with the published keys, if this process reads no others; otherwise empty
	instead   string // see admin.Ring
	recorded  func(context.Context, keys.Ring) bool
}

// adminKeys returns the key ring for administrators. A process for administrators only has no passphrases, so it reads
// what others have written.
func (s *Server) adminKeys(o Options) *adminKeys {
	c := s.config
	k := &adminKeys{keyring: s.keyring, instead: changedElsewhere(c), recorded: s.recordRevoked}
	if k.keyring == nil {
		k.published, k.keyring = c.KeysPublished, newKeyring(c, s.store, nil, o.Log, o.Now)
	}
	return k
}

// changedElsewhere returns where the keys are changed, or "" if they are changed here.
func changedElsewhere(c config.Config) string {
	namespace, name, of := strings.Cut(c.AdminKubernetes, "/")
	switch {
	case !c.AdminOnly && c.KeysDir == "":
		return ""
	case of:
		return fmt.Sprintf("the operator changes the keys of this gateway: to rotate them, "+
			`run kubectl annotate agw %[1]s --namespace %[2]s --overwrite authgateway.io/rotate="$(date +%%s)"; `+
			"to revoke one, add its kid to spec.keys.revoked; kubectl authgateway rotate and revoke do both", name, namespace)
	case c.KeysDir != "" || c.KeysPublished != "":
		return "another program writes the keys: rotate and revoke them there"
	}
	return "this process has no passphrases of keys: run authserver keys rotate or authserver keys revoke KID, " +
		"or send the request to a server that serves the API too"
}

// Ring implements admin.Keyring.
func (k *adminKeys) Ring(ctx context.Context) (admin.Ring, error) {
	ring, err := k.load(ctx)
	if err != nil {
		return admin.Ring{}, err
	}
	out := admin.Ring{Generation: ring.Generation, Instead: k.instead}
	for _, key := range ring.Keys {
		one := admin.SigningKey{
			ID: key.ID, Use: key.Use, Algorithm: key.Algorithm, Phase: key.Phase.Public(),
			Created: key.Created, Since: key.PhaseSince, Until: key.RemoveAfter,
		}
		one.Next, one.NextAt = k.keyring.Policy.NextChange(ring, key)
		out.Keys = append(out.Keys, one)
	}
	return out, nil
}

// load returns the stored ring. Of a ring in a directory, which may be written right now, it returns the one in use.
func (k *adminKeys) load(ctx context.Context) (keys.Ring, error) {
	switch used := k.keyring.Ring(); {
	case k.published != "":
		return readPublished(k.published)
	case k.keyring.Directory != "" && used.Generation > 0:
		return *used, nil
	}
	return k.keyring.Load(ctx)
}

// readPublished returns the published keys as a ring. It lacks what is not published, such as when a key was created.
func readPublished(file string) (ring keys.Ring, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return ring, nil // nothing is published yet
	}
	var document keys.PublicDocument
	if err == nil {
		err = json.Unmarshal(text, &document)
	}
	if err != nil {
		return ring, fmt.Errorf("%s: %w", config.EnvKeysPublished, err)
	}
	ring.Generation = document.Generation
	for _, state := range document.Keys {
		key := keys.Key{ID: state.ID, Use: state.Use, Algorithm: state.Algorithm, Phase: state.Phase, PhaseSince: state.Since}
		if state.Until != nil {
			key.RemoveAfter = *state.Until
		}
		key.DeadlineSeen = true // it may be, so NextChange returns the earliest time
		ring.Keys = append(ring.Keys, key)
	}
	return ring, nil
}

// Rotate implements admin.Keyring.
func (k *adminKeys) Rotate(ctx context.Context, e identity.Event) (bool, error) {
	policy := k.keyring.Policy
	policy.Rotate = k.keyring.Now().UTC().Format(time.RFC3339Nano)
	return k.change(ctx, policy, e)
}

// RevokeKey implements admin.Keyring.
func (k *adminKeys) RevokeKey(ctx context.Context, id string, e identity.Event) (bool, error) {
	policy := k.keyring.Policy
	policy.Revoked = []string{id}
	return k.change(ctx, policy, e)
}

// change finishes even if the client goes away: half a rotation would be confusing.
func (k *adminKeys) change(ctx context.Context, policy keys.Policy, e identity.Event) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyChangeTimeout)
	defer cancel()
	caused, err := k.keyring.Change(ctx, policy, e)
	if errors.Is(err, keyring.ErrBusy) {
		return false, &identity.Error{
			Kind: identity.Unavailable, Reason: admin.ReasonKeysBusy, RetryAfter: 5 * time.Second, Cause: err,
			Message: "another replica is changing the keys; try again",
		}
	}
	if err == nil {
		k.recorded(ctx, *k.keyring.Ring()) // a replica would do so a second later
	}
	return caused > 0, err
}

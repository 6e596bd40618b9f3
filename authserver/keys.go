package authserver

import (
	"log/slog"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/keys"
)

// newKeyring returns a Keyring. use is called with each ring that comes into use; it may be nil if Start is not called.
func newKeyring(
	c config.Config, store keyring.Store, use func(*keys.Opened), log *slog.Logger, now func() time.Time,
) *keyring.Keyring {
	return keyring.New(keyring.Config{
		Directory: c.KeysDir, Published: c.KeysPublished, Audit: c.KeepsEvents(),
		Passphrases: keys.PassphraseState{
			Current: map[keys.Use]string{
				keys.Access: c.AccessPassphrase.Reveal(), keys.Refresh: c.RefreshPassphrase.Reveal(),
			},
			Former: map[keys.Use]string{
				keys.Access: c.FormerAccessPassphrase.Reveal(), keys.Refresh: c.FormerRefreshPassphrase.Reveal(),
			},
			Distributed: map[keys.Use]bool{keys.Access: true, keys.Refresh: true},
		},
		Policy: keys.Policy{
			Algorithm: keys.Algorithm(c.SigningAlgorithm), PublishLead: c.KeyPublishLead,
			RotationInterval: c.KeyRotationInterval, ClockSkew: 2 * clockLeeway,
			Lifetimes: map[keys.Use]time.Duration{keys.Access: c.AccessTokenExpiry, keys.Refresh: c.RefreshTokenExpiry},
		},
		Store: store, Use: use, Log: log, Now: now,
	})
}

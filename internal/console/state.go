package console

import (
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
)

// State is what this server knows about itself, its database and the outbox.
type State struct {
	Version   string
	Started   time.Time
	ServesAPI bool
	Reason    string // why it is not ready; empty: it is

	Database Database

	KeysInUse int64 // the generation of the ring in use; 0: it uses none
	Endings   *Endings

	SendsMail bool
	Paused    bool      // no mail is accepted
	LastError string    // of this server's attempts to send; empty: none
	FailedAt  time.Time // when that was
}

// Database is what the database says, if Problem is empty.
type Database struct {
	Problem string
	admin.Database

	Ahead     time.Duration // of the clock of the database before that of this server
	Uncertain time.Duration // the most by which that can be wrong
}

// Endings are the ended sessions that this server reports to consumers.
type Endings struct {
	Held int
	Age  time.Duration // since they were last read
}

func (o *Console) state(v *visit) error {
	state := o.State(v.r.Context())
	return v.show("state", "State", map[string]any{"State": state, "Now": o.Now()})
}

package mail

import (
	"fmt"
	"time"
)

// Reply is the part of a server's reply that may be logged. Its text may not: servers
// put the recipient, and sometimes what they were sent, into it.
type Reply struct {
	Code     int    // of SMTP or HTTP; 0: no reply
	Enhanced string // RFC 3463, such as 5.1.1; empty: none
}

func (r Reply) String() string {
	switch {
	case r.Code == 0:
		return ""
	case r.Enhanced == "":
		return fmt.Sprintf("%d", r.Code)
	}
	return fmt.Sprintf("%d %s", r.Code, r.Enhanced)
}

// TransportError means that no mail can be sent now, whichever it is.
type TransportError struct {
	Transport  string // host and port
	Step       string // what failed, in words
	Reply      Reply
	RetryAfter time.Duration // as the server asked; 0: it did not
	Err        error         // contains no recipient, code or password; nil if Reply says it
}

func (e *TransportError) Error() string { return describe(e.Transport, e.Step, e.Reply, e.Err) }

func (e *TransportError) Unwrap() error { return e.Err }

// MailError means that this mail was not accepted.
type MailError struct {
	Transport string
	Step      string
	Reply     Reply
	Permanent bool  // another attempt is useless
	Err       error // contains no recipient, code or password; nil if Reply says it
}

func (e *MailError) Error() string { return describe(e.Transport, e.Step, e.Reply, e.Err) }

func (e *MailError) Unwrap() error { return e.Err }

func describe(transport, step string, reply Reply, err error) string {
	text := transport + ": " + step
	if r := reply.String(); r != "" {
		text += ": it replied " + r
	}
	if err != nil {
		text += ": " + err.Error()
	}
	return text
}

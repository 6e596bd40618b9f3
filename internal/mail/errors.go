package mail

import (
	"fmt"
	"time"
)

// Reply is what a carrier said, as far as it may be repeated: servers write the
// recipient, and sometimes what they were sent, into the text of a reply.
type Reply struct {
	Code     int    // of SMTP, or of HTTP; 0: no reply
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

// CarrierError says that no mail can be handed over now, whichever it is.
type CarrierError struct {
	Carrier    string // which one: host and port
	Step       string // what was being done, in words
	Reply      Reply
	RetryAfter time.Duration // what the carrier asked for; 0: nothing
	Err        error         // holds no recipient, code or password; nil where Reply says it
}

func (e *CarrierError) Error() string { return describe(e.Carrier, e.Step, e.Reply, e.Err) }

func (e *CarrierError) Unwrap() error { return e.Err }

// MailError says that this one mail was not taken.
type MailError struct {
	Carrier   string
	Step      string
	Reply     Reply
	Permanent bool  // to try again is no use
	Err       error // holds no recipient, code or password; nil where Reply says it
}

func (e *MailError) Error() string { return describe(e.Carrier, e.Step, e.Reply, e.Err) }

func (e *MailError) Unwrap() error { return e.Err }

func describe(carrier, step string, reply Reply, err error) string {
	text := carrier + ": " + step
	if r := reply.String(); r != "" {
		text += ": it replied " + r
	}
	if err != nil {
		text += ": " + err.Error()
	}
	return text
}

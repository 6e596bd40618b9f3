// Package mail empties the outbox: it takes one mail after the other, puts it into
// words, and hands it to a carrier, which is an SMTP server or a webhook.
//
//	                 Deliverer                                        Carrier
//	outbox ──take──▶ [worker] ─ Templates.Render ─▶ Letter ── send ──▶ SMTP │ Webhook
//	   ▲                │                                               │
//	   └─ sent, postponed, returned, given up ◀── *MailError, *CarrierError ─┘
//
// # A mail is taken for a while
//
// Taking a mail is a lease. Who has taken it says what became of it; where nobody
// does, because the process is gone, the mail is due again when the lease ends, in
// half a minute. A sender renews its lease while it sends, and stops sending before
// the lease ends where it cannot, so two senders never have one mail at
// the same time. What is lost with a process is therefore sent again: a mail may
// come twice, and is never lost. The code in it is made when it is taken, so of two
// mails the newer one has the code that holds.
//
// # Whose trouble it is
//
//	CarrierError  nobody's mail would be taken now (away, TLS, sign-in, our sender,
//	              421): all workers pause, and the mail goes back as if it had never
//	              been taken. One worker looks again, after 1 s … 30 s.
//	MailError     this mail is not taken: postponed, 30 s … 30 min, or given up at
//	              once where the refusal is for good.
//
// A line that breaks while a mail is handed over is both: nobody knows whether the
// mail was taken, nor which of the two was the reason. So the mail is postponed, as
// one that kills the line each time must not be the first in the queue for ever; and
// the workers pause, as it may be the server that is going away.
//
// # Who takes
//
// One worker at a time has the turn. It polls while there is nothing, about every
// second, and passes the turn on as soon as it has a mail. So an idle
// replica asks once a second, however many workers it has, and a busy one sends with
// all of them. While the carrier is in trouble, whoever has the turn keeps it until a
// mail is through: that is the one worker that looks.
package mail

// Package mail sends what is in the outbox: it claims one mail after the other, renders it from a template, and sends
// it over a transport, which is an SMTP server or a webhook.
//
//	                 Deliverer                                        Transport
//	outbox ──claim─▶ [worker] ─ Templates.Render ─▶ Letter ── send ──▶ SMTP │ Webhook
//	   ▲                │                                               │
//	   └─ sent, postponed, returned, given up ◀── *MailError, *TransportError ─┘
//
// # A claim is a lease
//
// A worker that claims a mail reports its outcome. If it does not, because its process died, the mail is due again when
// the lease ends, after half a minute. A worker renews the lease while it sends, and stops sending before the lease
// ends if it cannot, so two workers never have the same mail at the same time. A mail that is lost with a process is
// therefore sent again: it may arrive twice, but it is never lost. Its code is made when it is claimed, so of two
// copies only the later one has a valid code.
//
// # Two kinds of failure
//
//	TransportError  no mail can be sent now (unreachable, TLS, authentication, our
//	                sender, 421): all workers pause, and the mail is returned as if it
//	                had never been claimed. One worker tries again, after 1 s … 30 s.
//	MailError       this mail was not accepted: it is postponed, by 30 s … 30 min, or
//	                given up at once if the refusal is permanent.
//
// A connection that breaks while a mail is sent is both, because no one knows whether the mail was accepted, nor which
// of the two caused it. The mail is postponed, so that one that breaks the connection every time does not stay first in
// the queue; and the workers pause, because the server may be going away.
//
// # Who claims
//
// One worker at a time has the turn. It polls about every second while no mail is due, and passes the turn on as soon
// as it has a mail. An idle replica therefore polls once a second, however many workers it has, and a busy one sends
// with all of them. While the transport fails, the worker that has the turn keeps it until a mail was sent: it is the
// one worker that tries.
package mail

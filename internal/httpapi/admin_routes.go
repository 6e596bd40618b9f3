package httpapi

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/adminapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

func replyOf(u admin.User) adminapi.User {
	reply := adminapi.User{
		ID: u.ID, Username: u.Username, Email: u.Email, FirstName: u.FirstName, LastName: u.LastName, Scope: u.Scope,
		Roles: strings.Fields(u.Roles), Metadata: jsontext.Value(cmp.Or(u.Metadata, "{}")),
		IsVerified: u.EmailVerified, State: adminapi.StateActive, CreatedAt: u.CreatedAt.UTC(), UpdatedAt: u.UpdatedAt.UTC(),
	}
	if !u.Activated {
		reply.State = adminapi.StateInvited
	}
	if !u.SuspendedAt.IsZero() {
		at := u.SuspendedAt.UTC()
		reply.State, reply.SuspendedAt = adminapi.StateSuspended, &at
	}
	return reply
}

func (x *adminExchange) replyUser(u admin.User, err error) error {
	if err != nil {
		return err
	}
	x.w.Header().Set("ETag", strconv.Quote(u.Version))
	return x.reply(http.StatusOK, replyOf(u))
}

func replyPage[T, R any](x *adminExchange, p admin.Page[T], err error, of func(T) R) error {
	if err != nil {
		return err
	}
	reply := adminapi.Page[R]{Items: make([]R, len(p.Items)), Next: string(p.Next)}
	for i, item := range p.Items {
		reply.Items[i] = of(item)
	}
	return x.reply(http.StatusOK, reply)
}

// openAPI replies with the document of these routes.
func (a *Admin) openAPI(x *adminExchange) error {
	x.status = http.StatusOK
	x.w.Header().Set("Content-Type", "application/json")
	_, err := x.w.Write(adminOpenAPIDocument)
	return err
}

func (a *Admin) users(x *adminExchange) error {
	q := x.query
	f := admin.Filter{
		ID: q.Get("id"), Email: q.Get("email"), Username: q.Get("username"),
		EmailPrefix: q.Get("email_prefix"), UsernamePrefix: q.Get("username_prefix"),
	}
	if text := q.Get("state"); text != "" {
		if text != adminapi.StateSuspended {
			return wrong("state", "must be suspended")
		}
		f.Suspended = true
	}
	if text := q.Get("created_after"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return wrong("created_after", "must be a time such as 2026-01-31T12:00:00Z")
		}
		f.CreatedAfter = at
	}
	limit, err := limitOf(q)
	if err != nil {
		return err
	}
	page, err := a.service.Users(x.r.Context(), f, admin.Cursor(q.Get("cursor")), limit)
	return replyPage(x, page, err, replyOf)
}

func limitOf(q url.Values) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > admin.MaxLimit {
		return 0, wrong("limit", fmt.Sprintf("must be a number from 1 to %d", admin.MaxLimit))
	}
	return limit, nil
}

func wrong(name, text string) error {
	return invalidFields([]identity.Problem{{Parameter: name, Fault: identity.Fault{Reason: identity.FieldMalformed, Text: text}}})
}

func (a *Admin) user(x *adminExchange) error {
	return x.replyUser(a.service.User(x.r.Context(), x.r.PathValue("id")))
}

// entityTag matches an ETag of an account. A proxy that compresses marks it as weak.
var entityTag = regexp.MustCompile(`^(?:W/)?"([0-9]+)"$`)

// ref returns the account of the path, with the condition of If-Match (RFC 9110 section 13.1.1).
func (x *adminExchange) ref() (admin.Ref, error) {
	ref := admin.Ref{ID: x.r.PathValue("id")}
	field := strings.TrimSpace(x.r.Header.Get("If-Match"))
	if field == "" || field == "*" {
		return ref, nil
	}
	tag := entityTag.FindStringSubmatch(field)
	if tag == nil {
		return ref, invalid(http.StatusBadRequest, reasonRequestMalformed, "If-Match must be the ETag of the account, or *")
	}
	ref.Version = tag[1]
	return ref, nil
}

// readBody reads a JSON object into to, and reports whether there was one. shape is an example of it.
func (x *adminExchange) readBody(to any, shape string) (there bool, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, bodyLimit))
	if err != nil {
		return false, invalid(http.StatusRequestEntityTooLarge, reasonBodyTooLong, "the body is longer than 64 KiB")
	}
	if len(body) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(body, to, json.RejectUnknownMembers(true)); err != nil || jsontext.Value(body).Kind() != '{' {
		return false, invalid(http.StatusBadRequest, reasonBodyMalformed, "the body must be a JSON object such as "+shape)
	}
	return true, nil
}

// change returns what an administrator says about a change: the member reason of the body, if there is one.
func (x *adminExchange) change() (admin.Change, error) {
	var said adminapi.Change
	if _, err := x.readBody(&said, `{"reason": "spam"}, or empty`); err != nil {
		return admin.Change{}, err
	}
	return admin.NewChange(x.actor, said.Reason)
}

// patchBody is a change of an account. A value of null removes what there is (RFC 7396).
type patchBody struct {
	FirstName jsontext.Value `json:"first_name"`
	LastName  jsontext.Value `json:"last_name"`
	Scope     jsontext.Value `json:"scope"`
	Roles     jsontext.Value `json:"roles"`
	Metadata  jsontext.Value `json:"metadata"`
	Reason    string         `json:"reason"`
}

// patch checks the types of the members.
func (b patchBody) patch() (p admin.Patch, err error) {
	var problems []identity.Problem
	wrong := func(name, text string) {
		problems = append(problems, identity.Problem{Parameter: name, Fault: identity.Fault{Reason: identity.FieldMalformed, Text: text}})
	}
	for _, member := range []struct {
		name  string
		value jsontext.Value
		to    **string
	}{{"first_name", b.FirstName, &p.FirstName}, {"last_name", b.LastName, &p.LastName}, {"scope", b.Scope, &p.Scope}} {
		if member.value != nil {
			var text string // null leaves it empty
			if json.Unmarshal(member.value, &text) != nil {
				wrong(member.name, "must be a string, or null")
			}
			*member.to = &text
		}
	}
	if b.Roles != nil {
		var roles []string
		if json.Unmarshal(b.Roles, &roles) != nil {
			wrong("roles", "must be an array of strings, or null")
		}
		for _, role := range roles {
			if !identity.IsRole(role) {
				wrong("roles", "each must be printable ASCII without spaces, quotes and backslashes")
				break
			}
		}
		p.Roles = new(strings.Join(roles, " "))
	}
	p.Metadata = b.Metadata
	if kind := b.Metadata.Kind(); b.Metadata != nil && kind != '{' && kind != 'n' {
		wrong("metadata", "must be a JSON object, or null to remove all of it")
	}
	if problems != nil {
		return p, invalidFields(problems)
	}
	return p, nil
}

func (a *Admin) update(x *adminExchange) error {
	ref, err := x.ref()
	if err != nil {
		return err
	}
	const shape = `{"roles": ["support"], "metadata": {"plan": "gold"}, "reason": "…"}`
	var body patchBody
	there, err := x.readBody(&body, shape)
	switch {
	case err != nil:
		return err
	case !there:
		return invalid(http.StatusBadRequest, reasonBodyMalformed, "the body must be a JSON object such as "+shape)
	}
	patch, err := body.patch()
	if err != nil {
		return err
	}
	c, err := admin.NewChange(x.actor, body.Reason)
	if err != nil {
		return err
	}
	return x.replyUser(a.service.Update(x.r.Context(), ref, patch, c))
}

// changed makes a change of the account of the path.
func (x *adminExchange) changed(change func(admin.Ref, admin.Change) error) error {
	ref, err := x.ref()
	if err != nil {
		return err
	}
	c, err := x.change()
	if err != nil {
		return err
	}
	return change(ref, c)
}

// replyInvitation replies with an account and the code for its owner, unless that is sent by mail.
func (x *adminExchange) replyInvitation(status int, i admin.Invitation, err error) error {
	if err != nil {
		return err
	}
	x.w.Header().Set("ETag", strconv.Quote(i.User.Version))
	reply := replyOf(i.User)
	reply.Code, reply.ExpiresIn = i.Code.Text, seconds(i.Code.ExpiresIn)
	return x.reply(status, reply)
}

// maxKey is the longest Idempotency-Key, in bytes.
const maxKey = 200

func (a *Admin) create(x *adminExchange) error {
	const shape = `{"state": "invited", "email": "ada@example.com", "username": "ada", "first_name": "Ada", "last_name": "Lovelace"}`
	var body adminapi.NewUser
	there, err := x.readBody(&body, shape)
	switch {
	case err != nil:
		return err
	case !there:
		return invalid(http.StatusBadRequest, reasonBodyMalformed, "the body must be a JSON object such as "+shape)
	case body.State == adminapi.StateVerified && body.Password == "":
		return wrong("password", "is needed for a verified account; an invited person sets it themselves")
	case body.State == adminapi.StateInvited && body.Password != "":
		return wrong("password", "must be missing: an invited person sets it themselves")
	case body.State != adminapi.StateVerified && body.State != adminapi.StateInvited:
		return wrong("state", "must be verified or invited")
	}
	key := x.r.Header.Get("Idempotency-Key")
	if len(key) > maxKey || len(x.r.Header.Values("Idempotency-Key")) > 1 {
		return wrong("Idempotency-Key", "must be one field of up to 200 bytes")
	}
	patch, err := patchBody{Roles: body.Roles, Metadata: body.Metadata}.patch()
	if err != nil {
		return err
	}
	c, err := admin.NewChange(x.actor, body.Reason)
	if err != nil {
		return err
	}
	in := admin.NewUser{
		SignUp: identity.SignUp{
			Username: body.Username, Email: body.Email, FirstName: body.FirstName, LastName: body.LastName,
			Password: body.Password, Scope: body.Scope,
		},
		Metadata: patch.Metadata, Key: key,
	}
	if patch.Roles != nil {
		in.Roles = *patch.Roles
	}
	i, err := a.service.Create(x.r.Context(), in, c)
	status := http.StatusCreated
	if i.Again {
		status = http.StatusOK
	}
	return x.replyInvitation(status, i, err)
}

func (a *Admin) requirePassword(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		i, err := a.service.RequirePasswordChange(x.r.Context(), ref, c)
		return x.replyInvitation(http.StatusOK, i, err)
	})
}

func (a *Admin) resend(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		i, err := a.service.ResendVerification(x.r.Context(), ref, c)
		return x.replyInvitation(http.StatusOK, i, err)
	})
}

func (a *Admin) suspend(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		return x.replyUser(a.service.Suspend(x.r.Context(), ref, c))
	})
}

func (a *Admin) unsuspend(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		return x.replyUser(a.service.Unsuspend(x.r.Context(), ref, c))
	})
}

func (a *Admin) remove(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		if err := a.service.Remove(x.r.Context(), ref, c); err != nil {
			return err
		}
		return x.reply(http.StatusNoContent, nil)
	})
}

func (a *Admin) signOut(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		ended, err := a.service.EndSessions(x.r.Context(), ref.ID, c)
		if err != nil {
			return err
		}
		return x.reply(http.StatusOK, adminapi.SignedOut{Ended: ended})
	})
}

func (a *Admin) endSession(x *adminExchange) error {
	return x.changed(func(ref admin.Ref, c admin.Change) error {
		if err := a.service.EndSession(x.r.Context(), ref.ID, x.r.PathValue("sid"), c); err != nil {
			return err
		}
		return x.reply(http.StatusNoContent, nil)
	})
}

func (a *Admin) sessions(x *adminExchange) error {
	sessions, err := a.service.Sessions(x.r.Context(), x.r.PathValue("id"))
	return replyPage(x, admin.Page[identity.OwnSession]{Items: sessions}, err, func(s identity.OwnSession) adminapi.Session {
		return adminapi.Session{
			ID: s.ID, OpenedAt: s.OpenedAt.UTC(), RefreshedAt: s.RefreshedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC(), UserAgent: s.UserAgent,
		}
	})
}

// export replies with all that is stored about a person. It has sessions and events, so it needs the rights to these too.
func (a *Admin) export(x *adminExchange) error {
	for _, resource := range []admin.Resource{admin.Sessions, admin.Events} {
		if err := a.authorize(x, admin.Right{Resource: resource, Verb: admin.List}); err != nil {
			return err
		}
	}
	e, err := a.service.Export(x.r.Context(), x.r.PathValue("id"))
	if err != nil {
		return err
	}
	return x.reply(http.StatusOK, e)
}

func (a *Admin) events(x *adminExchange) error {
	user := x.query.Get("user")
	if user != "" && !identity.IsUUID(user) {
		return wrong("user", "must be the id of an account, a UUID in lower case")
	}
	limit, err := limitOf(x.query)
	if err != nil {
		return err
	}
	filter := admin.EventFilter{UserID: user, Event: x.query.Get("event"), Actor: x.query.Get("actor")}
	page, err := a.service.Events(x.r.Context(), filter, admin.Cursor(x.query.Get("cursor")), limit)
	return replyPage(x, page, err, func(e admin.Event) adminapi.Event {
		return adminapi.Event{
			ID: e.ID, At: e.At.UTC(), Event: string(e.Name), UserID: e.UserID, SessionID: e.SessionID, RequestID: e.RequestID,
			Address: e.Address, Details: e.Details,
		}
	})
}

// signingKeyReply is a key of the ring as administrators see it.
type signingKeyReply struct {
	ID        string         `json:"kid"`
	Use       keys.Use       `json:"use"`
	Algorithm keys.Algorithm `json:"algorithm"`
	Phase     keys.Phase     `json:"phase"`
	Created   time.Time      `json:"created_at,omitzero"`
	Since     time.Time      `json:"since"`
	Until     time.Time      `json:"until,omitzero"`
	Next      string         `json:"next,omitempty"`
	NextAt    time.Time      `json:"next_at,omitzero"`
}

// keysReply is the key ring.
type keysReply struct {
	Generation int64             `json:"generation"`
	Items      []signingKeyReply `json:"items"`
	Instead    string            `json:"instead,omitempty"`
	Changed    *bool             `json:"changed,omitzero"` // in the reply to a change
}

// nextOf is what happens to a key next, for programs.
var nextOf = map[keys.Action]string{keys.Promote: "signs", keys.Generate: "rotates", keys.Drop: "is_removed"}

func keysReplyOf(ring admin.Ring) keysReply {
	reply := keysReply{Generation: ring.Generation, Items: []signingKeyReply{}, Instead: ring.Instead}
	for _, k := range ring.Keys {
		reply.Items = append(reply.Items, signingKeyReply{
			ID: k.ID, Use: k.Use, Algorithm: k.Algorithm, Phase: k.Phase, Created: k.Created.UTC(), Since: k.Since.UTC(),
			Until: k.Until.UTC(), Next: nextOf[k.Next], NextAt: k.NextAt.UTC(),
		})
	}
	return reply
}

func (a *Admin) keys(x *adminExchange) error {
	ring, err := a.service.Ring(x.r.Context())
	if err != nil {
		return err
	}
	return x.reply(http.StatusOK, keysReplyOf(ring))
}

// changeKeys makes a change of the key ring.
func (x *adminExchange) changeKeys(change func(admin.Change) (admin.Ring, bool, error)) error {
	c, err := x.change()
	if err != nil {
		return err
	}
	ring, changed, err := change(c)
	if err != nil {
		return err
	}
	reply := keysReplyOf(ring)
	reply.Changed = &changed
	return x.reply(http.StatusOK, reply)
}

func (a *Admin) rotate(x *adminExchange) error {
	return x.changeKeys(func(c admin.Change) (admin.Ring, bool, error) { return a.service.Rotate(x.r.Context(), c) })
}

func (a *Admin) revoke(x *adminExchange) error {
	return x.changeKeys(func(c admin.Change) (admin.Ring, bool, error) {
		return a.service.RevokeKey(x.r.Context(), x.r.PathValue("kid"), c)
	})
}

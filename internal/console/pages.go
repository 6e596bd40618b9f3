package console

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mileusna/useragent"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var functions = template.FuncMap{
	"time":    when,
	"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"device":  device,
	"name":    name,
	"done":    func(what string) string { return done[what] },
	"about":   about,
}

func when(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 MST") }

// about rounds a duration for people.
func about(d time.Duration) string {
	switch size := d.Abs(); {
	case size < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case size < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case size < time.Hour:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}

// name is how a page calls an account.
func name(u admin.User) string { return cmp.Or(u.Username, u.Email, u.ID) }

// device returns what a person calls the program of a session, such as Chrome on Linux.
func device(userAgent string) string {
	if userAgent == "" {
		return "Unknown program"
	}
	ua := useragent.Parse(userAgent)
	switch {
	case ua.Name == "" || ua.Name == userAgent:
		program, _, _ := strings.Cut(userAgent, "/")
		return program
	case ua.OS == "":
		return ua.Name
	}
	return ua.Name + " on " + ua.OS
}

// listed is a part of a list on a page.
type listed struct {
	Heading string
	Users   []admin.User
	More    string // the path of the next part; empty: this is the last one
}

// users lists accounts, or finds those that a person asks for.
func (o *Console) users(v *visit) error {
	query := v.r.URL.Query()
	asked, state := strings.TrimSpace(query.Get("q")), query.Get("state")
	var lists []listed
	for _, list := range searches(asked, state) {
		if by := query.Get("by"); by != "" && by != list.by {
			continue
		}
		page, err := o.Service.Users(v.r.Context(), list.filter, admin.Cursor(query.Get("cursor")), 0)
		if err != nil {
			return err
		}
		if len(page.Items) == 0 {
			continue
		}
		part := listed{Heading: list.heading, Users: page.Items}
		if page.Next != "" {
			part.More = Path + "/users?" + url.Values{
				"q": {asked}, "state": {state}, "by": {list.by}, "cursor": {string(page.Next)},
			}.Encode()
		}
		lists = append(lists, part)
	}
	if asked != "" && query.Get("cursor") == "" {
		if u, only := onlyOne(lists); only {
			return v.redirect("/users/" + u.ID)
		}
	}
	return v.show("users", "Accounts", map[string]any{
		"Query": asked, "State": state, "Lists": lists, "Done": query.Get("done"),
		"MayCreate": v.may(admin.Users, admin.Create),
	})
}

// search is one of the lists that answer a question.
type search struct {
	by      string
	heading string
	filter  admin.Filter
}

// searches returns what a text may mean: an ID, a whole address or username, or the beginning of one.
func searches(asked, state string) []search {
	switch {
	case asked == "":
		return []search{{"", "", admin.Filter{Suspended: state == "suspended"}}}
	case identity.IsUUID(strings.ToLower(asked)):
		return []search{{"id", "With this ID", admin.Filter{ID: strings.ToLower(asked)}}}
	case strings.Contains(asked, "@"):
		return []search{{"email", "Addresses that begin with " + asked, admin.Filter{EmailPrefix: asked}}}
	}
	return []search{
		{"username", "Usernames that begin with " + asked, admin.Filter{UsernamePrefix: asked}},
		{"email", "Addresses that begin with " + asked, admin.Filter{EmailPrefix: asked}},
	}
}

// onlyOne returns the account that all lists have, if there is one and no other.
func onlyOne(lists []listed) (found admin.User, only bool) {
	for _, l := range lists {
		for _, u := range l.Users {
			if only && u.ID != found.ID {
				return admin.User{}, false
			}
			found, only = u, true
		}
	}
	return found, only
}

// done says what a change has done, on the page that follows it.
var done = map[string]string{
	"suspended": "The account is suspended, and its sessions have ended.", "unsuspended": "The account can sign in again.",
	"ended": "The session has ended.", "signed-out": "All sessions have ended.", "deleted": "The account is deleted.",
	"rotated": "A rotation has begun: the new keys are published, and sign later.", "rotating": "A rotation is in progress already.",
	"revoked": "The key is revoked. Every token that it signed is invalid.", "unchanged": "The key was revoked already.",
}

func (o *Console) user(v *visit) error {
	id := v.r.PathValue("id")
	u, err := o.Service.User(v.r.Context(), id)
	if err != nil {
		return err
	}
	data := map[string]any{
		"User": u, "Suspended": !u.SuspendedAt.IsZero(), "Done": v.r.URL.Query().Get("done"),
		"MayUpdate": v.may(admin.Users, admin.Update), "MayDelete": v.may(admin.Users, admin.Delete),
		"MayEnd": v.may(admin.Sessions, admin.Delete), "MaySeeSessions": v.may(admin.Sessions, admin.List),
		"MaySeeEvents": v.may(admin.Events, admin.List),
	}
	if data["MaySeeSessions"] == true {
		if data["Sessions"], err = o.Service.Sessions(v.r.Context(), id); err != nil {
			return err
		}
	}
	if data["MaySeeEvents"] == true {
		page, err := o.Service.Events(v.r.Context(), admin.EventFilter{UserID: id}, "", 10)
		if err != nil {
			return err
		}
		data["Events"], data["MoreEvents"] = eventsOf(page.Items), page.Next != ""
	}
	return v.show("user", name(u), data)
}

func (o *Console) askInvited(v *visit) error {
	// The key makes a form that is sent twice invite once.
	return v.show("invite", "Invite a person", map[string]any{"Key": rand.Text()})
}

// invite makes an account without a password. If the server sends mail, the person gets a code by mail. If not, the
// page shows it to the administrator.
func (o *Console) invite(v *visit) error {
	_, change, err := v.change()
	if err != nil {
		return err
	}
	field := func(name string) string { return strings.TrimSpace(v.r.PostFormValue(name)) }
	made, err := o.Service.Create(v.r.Context(), admin.NewUser{Key: field("key"), SignUp: identity.SignUp{
		Username: field("username"), Email: field("email"), FirstName: field("first_name"), LastName: field("last_name"),
	}}, change)
	if err != nil {
		return err
	}
	return v.show("invited", "Invited", map[string]any{"User": made.User, "Code": made.Code})
}

// event is an entry of the audit trail on a page.
type event struct {
	admin.Event

	Actor  string
	Reason string
	Others []string // the other details, such as "sessions: 2"
}

func eventsOf(items []admin.Event) []event {
	all := make([]event, len(items))
	for i, item := range items {
		e := event{Event: item}
		for _, k := range slices.Sorted(maps.Keys(item.Details)) {
			switch text := fmt.Sprint(item.Details[k]); k {
			case "actor":
				e.Actor = text
			case "reason":
				e.Reason = text
			default:
				if text != "" { // earlier releases recorded some details without a value
					e.Others = append(e.Others, k+": "+text)
				}
			}
		}
		all[i] = e
	}
	return all
}

func (o *Console) events(v *visit) error {
	query := v.r.URL.Query()
	user := query.Get("user")
	if user != "" && !identity.IsUUID(user) {
		return &problem{status: http.StatusNotFound, title: "There is no such account or session"}
	}
	page, err := o.Service.Events(v.r.Context(), admin.EventFilter{UserID: user}, admin.Cursor(query.Get("cursor")), 0)
	if err != nil {
		return err
	}
	more := ""
	if page.Next != "" {
		more = Path + "/events?" + url.Values{"user": {user}, "cursor": {string(page.Next)}}.Encode()
	}
	return v.show("events", "Events", map[string]any{"Events": eventsOf(page.Items), "User": user, "More": more})
}

// change reads what a form says about a change.
func (v *visit) change() (admin.Ref, admin.Change, error) {
	if err := v.r.ParseForm(); err != nil { // else the condition and the reason would be lost
		return admin.Ref{}, admin.Change{}, &problem{
			status: http.StatusBadRequest, title: "The form is malformed or too long", text: "Nothing was changed.", cause: err,
		}
	}
	change, err := admin.NewChange(v.actor, strings.TrimSpace(v.r.PostFormValue("reason")))
	return admin.Ref{ID: v.r.PathValue("id"), Version: v.r.PostFormValue("version")}, change, err
}

// changed returns to the account, and says what was done.
func (v *visit) changed(what string) error {
	return v.redirect("/users/" + v.r.PathValue("id") + "?done=" + what)
}

func (o *Console) suspend(v *visit) error {
	ref, change, err := v.change()
	if err != nil {
		return err
	}
	if _, err := o.Service.Suspend(v.r.Context(), ref, change); err != nil {
		return err
	}
	return v.changed("suspended")
}

func (o *Console) unsuspend(v *visit) error {
	ref, change, err := v.change()
	if err != nil {
		return err
	}
	if _, err := o.Service.Unsuspend(v.r.Context(), ref, change); err != nil {
		return err
	}
	return v.changed("unsuspended")
}

func (o *Console) remove(v *visit) error {
	ref, change, err := v.change()
	if err != nil {
		return err
	}
	u, err := o.Service.User(v.r.Context(), ref.ID)
	if err != nil {
		return err
	}
	if v.r.PostFormValue("confirm") != name(u) {
		return &problem{
			status: http.StatusBadRequest, title: "The account was not deleted",
			text: "The text that you typed is not the name of the account. Go back, and type " + name(u) + ".",
		}
	}
	if err := o.Service.Remove(v.r.Context(), ref, change); err != nil {
		return err
	}
	return v.redirect("/users?done=deleted")
}

func (o *Console) endSessions(v *visit) error {
	ref, change, err := v.change()
	if err != nil {
		return err
	}
	if _, err := o.Service.EndSessions(v.r.Context(), ref.ID, change); err != nil {
		return err
	}
	return v.changed("signed-out")
}

func (o *Console) endSession(v *visit) error {
	ref, change, err := v.change()
	if err != nil {
		return err
	}
	if err := o.Service.EndSession(v.r.Context(), ref.ID, v.r.PathValue("sid"), change); err != nil {
		return err
	}
	return v.changed("ended")
}

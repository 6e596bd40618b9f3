package search

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// administer performs an action of an honest administrator: they invite any address with any name on request, but create
// a verified account only for the owner of the address.
func (w *simulation) administer(r *rand.Rand) (broken string) {
	switch n := r.IntN(10); {
	case n < 3:
		p := oneOf(r, w.owner, w.strangers)
		w.adminCreates(map[string]any{"state": "invited", "username": oneOf(r, p.names...), "email": oneOf(r, p.targets...)})
	case n < 5:
		w.vouch(oneOf(r, w.owner, w.strangers), r)
	default:
		var ids []string
		w.g.row(`SELECT coalesce(array_agg(id::text ORDER BY canonical_email), '{}') FROM users WHERE canonical_email LIKE $1`,
			[]any{fmt.Sprintf("%%.%05d@%%", w.number)}, &ids)
		if len(ids) == 0 {
			return ""
		}
		id := oneOf(r, ids...)
		switch n {
		case 5, 6:
			return w.adminEndsAll(id, "/require-password-change")
		case 7:
			return w.adminEndsAll(id, "/sign-out")
		case 8:
			w.adminSends(http.MethodPost, "/admin/users/"+id+"/resend-verification", nil)
		default:
			w.adminSends(http.MethodDelete, "/admin/users/"+id, nil)
		}
	}
	return ""
}

// vouch creates a verified account for a person who asks for it, with an address of theirs.
func (w *simulation) vouch(p *person, r *rand.Rand) {
	address := oneOf(r, w.strangers.targets[:2]...)
	if p.careful {
		address = oneOf(r, p.mailboxes...)
	}
	a := w.adminCreates(map[string]any{
		"state": "verified", "username": oneOf(r, p.names...), "email": address, "password": oneOf(r, p.passwords...)})
	if a.ok() && p.careful {
		p.ask(address, w.g.clock.Now())
	}
}

func (w *simulation) adminCreates(account map[string]any) reply {
	account["first_name"], account["last_name"] = "A", "B"
	return w.adminSends(http.MethodPost, "/admin/users", account)
}

// adminEndsAll sends a request that ends every session of an account.
func (w *simulation) adminEndsAll(id, path string) (broken string) {
	if !w.adminSends(http.MethodPost, "/admin/users/"+id+path, nil).ok() {
		return ""
	}
	var left int
	w.g.row(`SELECT count(*) FROM sessions WHERE user_id = $1`, []any{id}, &left)
	if left > 0 {
		return "sessions are left after " + path
	}
	return ""
}

// adminSends sends a request of the administrator, who mails a code that the reply has.
func (w *simulation) adminSends(method, path string, body any) reply {
	w.g.passes(1e6)
	got := w.g.admin.Do(method, path, testenv.Bearer(w.g.adminKey), body)
	a := reply{got.Status, got.Header, got.Body}
	if code := a.text("code"); code != "" {
		w.g.mail.post(a.text("email"), code)
	}
	text, _ := json.Marshal(body)
	w.note("administrator: %s %s %s → %d %.120s", method, path,
		strings.ReplaceAll(string(text), fmt.Sprintf(".%05d", w.number), ""), a.status, strings.TrimSpace(string(a.body)))
	return a
}

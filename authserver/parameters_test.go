package authserver_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestEveryParameterThatIsWrongIsNamedMissingOrMalformed(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	reply := want(t, http.StatusBadRequest, n.post("/users", body{
		"username": "not a name", "email": "nobody", "password": "short", "first_name": "",
	}))
	description := reply.Text("error_description")
	for _, named := range []string{"username: may hold", "email: must be", "password: is shorter",
		"first_name: is empty", "last_name: is missing"} {
		if !strings.Contains(description, named) {
			t.Errorf("%q does not say %q", description, named)
		}
	}
}

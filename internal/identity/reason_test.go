package identity

import "testing"

func TestReasonOfASingleFaultMayBeItsOwn(t *testing.T) {
	username, email := Problem{"username", Fault{FieldTaken, "is taken"}}, Problem{"email", Fault{FieldTaken, "is taken"}}
	short := Problem{"password", Fault{FieldTooShort, "is shorter than 8 characters"}}
	for _, tc := range []struct {
		problems problems
		want     Reason
	}{
		{problems{username}, ReasonUsernameTaken},
		{problems{email}, ReasonEmailTaken},
		{problems{username, email}, ReasonInvalidFields},
		{problems{short}, ReasonInvalidFields},
		{problems{{"password", Fault{FieldTooCommon, "is common"}}}, ReasonPasswordTooCommon},
		{problems{{"code", wrongCode}}, ReasonCodeExpiredOrUsed},
		{problems{{"code", wrongCode}, short}, ReasonInvalidFields},
		{problems{{"code", Fault{FieldMissing, "is missing"}}}, ReasonInvalidFields},
	} {
		if got := tc.problems.as(Conflict); got.Reason != tc.want || len(got.Fields) != len(tc.problems) {
			t.Errorf("%s: reason %q, fields %v; want %q", got.Message, got.Reason, got.Fields, tc.want)
		}
	}
}

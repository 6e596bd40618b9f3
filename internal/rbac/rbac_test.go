package rbac_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/rbac"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The tests of authserver ask a real API server. These have answers that a real one gives rarely or never.

// apiServer answers reviews.
type apiServer struct {
	token  authenticationv1.TokenReviewStatus
	access authorizationv1.SubjectAccessReviewStatus
	asked  atomic.Int64 // TokenReviews
	judged atomic.Int64 // SubjectAccessReviews
	last   atomic.Pointer[authorizationv1.SubjectAccessReviewSpec]
	fails  atomic.Int64 // with this status; 0: it does not
}

const audience = "authgateway.io/shop/auth"

// allowing returns an API server that allows everything to ada.
func allowing() *apiServer {
	return &apiServer{
		token: authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{audience},
			User: authenticationv1.UserInfo{
				Username: "ada", UID: "7", Groups: []string{"helpdesk"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}},
			},
		},
		access: authorizationv1.SubjectAccessReviewStatus{Allowed: true},
	}
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if status := int32(a.fails.Load()); status != 0 {
		w.WriteHeader(int(status))
		reason := metav1.StatusReasonForbidden
		if status != http.StatusForbidden {
			reason = metav1.StatusReasonInternalError
		}
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: status, Reason: reason,
		})
		return
	}
	w.WriteHeader(http.StatusCreated)
	if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
		a.asked.Add(1)
		var review authenticationv1.TokenReview
		if json.NewDecoder(r.Body).Decode(&review) != nil || len(review.Spec.Audiences) != 1 || review.Spec.Audiences[0] != audience {
			panic("a TokenReview without the audience")
		}
		review.Status = a.token
		_ = json.NewEncoder(w).Encode(review)
		return
	}
	var review authorizationv1.SubjectAccessReview
	if json.NewDecoder(r.Body).Decode(&review) != nil {
		panic("no SubjectAccessReview")
	}
	a.judged.Add(1)
	a.last.Store(&review.Spec)
	review.Status = a.access
	_ = json.NewEncoder(w).Encode(review)
}

func reviewer(t *testing.T, a *apiServer, clock *testenv.Clock) *rbac.Reviewer {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return testenv.Must(rbac.New(rbac.Options{
		Cluster: &rbac.Cluster{Host: server.URL}, Gateway: rbac.Gateway{Namespace: "shop", Name: "auth"},
		Now: clock.Now, Log: slog.New(slog.DiscardHandler),
	}))(t)
}

// jwtWith returns a token with claims, whose signature is not checked here.
func jwtWith(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AA"
}

var list = admin.Right{Resource: admin.Users, Verb: admin.List}

func TestAuthorizeAsksAboutTheWholeUser(t *testing.T) {
	t.Parallel()
	a := allowing()
	actor, err := reviewer(t, a, &testenv.Clock{}).Authorize(t.Context(), "a token", list)
	testenv.NoError(t, err)
	if actor.Name != "ada" {
		t.Errorf("the actor is %+v", actor)
	}
	asked := a.last.Load()
	want := authorizationv1.ResourceAttributes{
		Namespace: "shop", Name: "auth", Verb: "list", Group: "authgateway.io", Version: "v1alpha1",
		Resource: "authgateways", Subresource: "users",
	}
	if *asked.ResourceAttributes != want || asked.User != "ada" || asked.UID != "7" || len(asked.Groups) != 1 || len(asked.Extra["k"]) != 1 {
		t.Errorf("asked about %+v", asked)
	}
}

func TestAuthorizeRefusesAnswersThatSayTooLittle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*apiServer)
		want   error
	}{
		"no audiences, as an old API server":    {func(a *apiServer) { a.token.Audiences = nil }, admin.ErrUnauthenticated},
		"other audiences":                       {func(a *apiServer) { a.token.Audiences = []string{audience + "x"} }, admin.ErrUnauthenticated},
		"not authenticated":                     {func(a *apiServer) { a.token.Authenticated = false }, admin.ErrUnauthenticated},
		"no name":                               {func(a *apiServer) { a.token.User.Username = "" }, admin.ErrUnauthenticated},
		"a name with a line break":              {func(a *apiServer) { a.token.User.Username = "ada\nroot" }, admin.ErrUnauthenticated},
		"a name that the database cannot store": {func(a *apiServer) { a.token.User.Username = "ada\x00" }, admin.ErrUnauthenticated},
		"a long name":                           {func(a *apiServer) { a.token.User.Username = strings.Repeat("a", 257) }, admin.ErrUnauthenticated},
		"not allowed":                           {func(a *apiServer) { a.access.Allowed = false }, admin.ErrForbidden},
		"allowed and denied":                    {func(a *apiServer) { a.access.Denied = true }, admin.ErrForbidden},
		"an error of the evaluation": {func(a *apiServer) {
			a.access = authorizationv1.SubjectAccessReviewStatus{EvaluationError: "x"}
		}, admin.ErrForbidden},
	} {
		a := allowing()
		c.change(a)
		if _, err := reviewer(t, a, &testenv.Clock{}).Authorize(t.Context(), "a token", list); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestAuthorizeRemembersForSecondsAndNeverBeyondTheToken(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		token string
		holds time.Duration
	}{
		"a token without an expiry":  {"a token", 5 * time.Second},
		"a token of an hour":         {jwtWith(fmt.Sprintf(`{"exp":%d}`, now.Add(time.Hour).Unix())), 5 * time.Second},
		"a token of two seconds":     {jwtWith(fmt.Sprintf(`{"exp":%d}`, now.Add(2*time.Second).Unix())), 2 * time.Second},
		"a token that has expired":   {jwtWith(fmt.Sprintf(`{"exp":%d}`, now.Unix())), 0},
		"an expiry that is no time":  {jwtWith(`{"exp":1e300}`), 5 * time.Second},
		"an expiry that is negative": {jwtWith(`{"exp":-1}`), 5 * time.Second},
	} {
		a, clock := allowing(), testenv.NewClock(now)
		r := reviewer(t, a, clock)
		asks := func() bool {
			before := a.asked.Load()
			if _, err := r.Authorize(t.Context(), c.token, list); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return a.asked.Load() > before
		}
		if !asks() {
			t.Errorf("%s: nothing was asked", name)
		}
		if c.holds > 0 {
			clock.Set(now.Add(c.holds - time.Millisecond))
			if asks() {
				t.Errorf("%s: asked again before %v", name, c.holds)
			}
		}
		clock.Set(now.Add(c.holds))
		if !asks() {
			t.Errorf("%s: not asked after %v", name, c.holds)
		}
		// Another right, or another token, is another question.
		if _, err := r.Authorize(t.Context(), c.token, admin.Right{Resource: admin.Users, Verb: admin.Delete}); err != nil {
			t.Fatal(err)
		}
		if got := a.last.Load().ResourceAttributes.Verb; got != "delete" {
			t.Errorf("%s: the last question was about %s", name, got)
		}
	}
}

func TestAuthorizeKeepsNoRefusal(t *testing.T) {
	t.Parallel()
	a := allowing()
	a.access.Allowed = false
	r := reviewer(t, a, &testenv.Clock{})
	for range 3 {
		if _, err := r.Authorize(t.Context(), "a token", list); !errors.Is(err, admin.ErrForbidden) {
			t.Fatal(err)
		}
	}
	if n := a.judged.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
	a.access.Allowed = true
	if _, err := r.Authorize(t.Context(), "a token", list); err != nil {
		t.Errorf("after a binding: %v", err)
	}
}

// A page of the console asks about several rights of one person, who is asked for once. No right holds longer than the
// answer about the person.
func TestAuthorizeAsksOnceWhoSentAToken(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	a, clock := allowing(), testenv.NewClock(now)
	r := reviewer(t, a, clock)
	asks := func(after time.Duration, users, rights int64, ask ...admin.Right) {
		t.Helper()
		clock.Set(now.Add(after))
		a.asked.Store(0)
		a.judged.Store(0)
		for _, need := range ask {
			if _, err := r.Authorize(t.Context(), "a token", need); err != nil {
				t.Fatal(err)
			}
		}
		if a.asked.Load() != users || a.judged.Load() != rights {
			t.Errorf("after %v: %d TokenReviews and %d SubjectAccessReviews, want %d and %d", after, a.asked.Load(), a.judged.Load(), users, rights)
		}
	}
	most := int64(len(admin.Rights))
	asks(0, 1, most-1, admin.Rights[1:]...)
	asks(4*time.Second, 0, 1, admin.Rights...)
	asks(5*time.Second-time.Millisecond, 0, 0, admin.Rights...)
	asks(5*time.Second, 1, 1, admin.Rights[0]) // also the one that was asked for a second ago
	asks(9*time.Second, 0, most-1, admin.Rights...)
	a.token.Authenticated = false
	clock.Set(now.Add(10 * time.Second))
	for _, need := range admin.Rights {
		if _, err := r.Authorize(t.Context(), "a token", need); !errors.Is(err, admin.ErrUnauthenticated) {
			t.Errorf("%s of a token that has ended: %v", need, err)
		}
	}
}

func TestAuthorizeExplainsTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	past := now.Add(-time.Minute).Unix()
	for token, want := range map[string]string{
		"something":            "does not know",
		jwtWith(`{`):           "does not know",
		jwtWith(`{"aud":7}`):   "does not know",
		"a.b.c.d":              "does not know",
		jwtWith(`{"aud":"x"}`): "--audience=" + audience,
		jwtWith(fmt.Sprintf(`{"aud":["x","y"],"exp":%d}`, past)):          "another audience",
		jwtWith(fmt.Sprintf(`{"aud":["x",%q],"exp":%d}`, audience, past)): "has expired",
		jwtWith(fmt.Sprintf(`{"aud":%q}`, audience)):                      "does not know",
	} {
		a := allowing()
		a.token = authenticationv1.TokenReviewStatus{Error: "a secret of the API server"}
		_, err := reviewer(t, a, testenv.NewClock(now)).Authorize(t.Context(), token, list)
		refusal, ok := errors.AsType[*admin.Refusal](err)
		if !ok || !errors.Is(err, admin.ErrUnauthenticated) || !strings.Contains(refusal.Message, want) ||
			strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v, want %q", token, err, want)
		}
	}
}

// An outage is a problem of the server until its first answer. A right that the server lacks always is.
func TestProblemsAreThoseThatAnAdministratorHasToMend(t *testing.T) {
	t.Parallel()
	a := allowing()
	r := reviewer(t, a, &testenv.Clock{})
	for i, step := range []struct {
		fails           int64
		problem, mayNot bool
	}{
		{500, true, false}, {403, true, true}, {500, true, false}, {0, false, false}, {500, false, false}, {403, true, true},
		{0, false, false},
	} {
		a.fails.Store(step.fails)
		r.Check(t.Context())
		if (r.Problem() != "") != step.problem || r.MayNotReview() != step.mayNot {
			t.Errorf("step %d: the problem is %q", i, r.Problem())
		}
	}
}

package rbac

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/internal/admin"
)

const (
	// remembered is how long a positive decision holds without asking again.
	remembered = 5 * time.Second
	// mostRemembered bounds the positive decisions in memory.
	mostRemembered = 1000

	// patience bounds both reviews of one request together.
	patience = 5 * time.Second

	// rate and burst bound the requests of each kind to the API server, because anyone who reaches the port can send
	// tokens that are not valid.
	rate, burst = 20, 40

	// maxName is the longest name of an actor, in bytes.
	maxName = 256
)

// What RBAC is asked about.
const (
	group    = "authgateway.io"
	version  = "v1alpha1"
	resource = "authgateways"
)

// Gateway names the AuthGateway that the rights are about.
type Gateway struct{ Namespace, Name string }

// Audience is the audience of the tokens that are accepted.
func (g Gateway) Audience() string { return group + "/" + g.Namespace + "/" + g.Name }

// Cluster is access to an API server.
type Cluster = rest.Config

// Options are what a Reviewer needs.
type Options struct {
	Cluster *Cluster // nil: that of the pod, by the token of its ServiceAccount
	Gateway Gateway
	Now     func() time.Time
	Log     *slog.Logger
}

// Reviewer asks the API server for decisions. It implements admin.Authorizer.
type Reviewer struct {
	gateway        Gateway
	tokens, access rest.Interface
	users          *lru.Cache[[sha256.Size]byte, knownUser] // by the digest of their token
	grants         *lru.Cache[question, grant]
	now            func() time.Time
	log            *slog.Logger
	problem        atomic.Pointer[string]
}

// A question is a credential and what its sender wants to do.
type question struct {
	token [sha256.Size]byte
	need  admin.Right
}

// A grant is a positive decision.
type grant struct {
	actor admin.Actor
	until time.Time
}

// A knownUser is the sender of a token. A page of the console asks about several rights of one.
type knownUser struct {
	authenticationv1.UserInfo

	until time.Time
}

// New returns a Reviewer. It does not connect to the API server.
//
// It uses REST clients for two kinds rather than the typed clients, whose scheme has every kind of Kubernetes; see
// docs/decisions.
func New(o Options) (*Reviewer, error) {
	kinds := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{authenticationv1.AddToScheme, authorizationv1.AddToScheme} {
		if err := add(kinds); err != nil {
			return nil, err
		}
	}
	cluster := o.Cluster
	if cluster == nil {
		var err error
		if cluster, err = rest.InClusterConfig(); err != nil {
			return nil, err
		}
	}
	cluster = rest.CopyConfig(cluster)
	cluster.APIPath, cluster.UserAgent = "/apis", "auth-gateway"
	cluster.QPS, cluster.Burst = rate, burst
	cluster.WarningHandler = rest.NoWarnings{}
	cluster.NegotiatedSerializer = serializer.NewCodecFactory(kinds).WithoutConversion()
	connections, err := rest.HTTPClientFor(cluster)
	if err != nil {
		return nil, err
	}
	clientOf := func(of schema.GroupVersion) (rest.Interface, error) {
		c := rest.CopyConfig(cluster)
		c.GroupVersion = &of
		return rest.RESTClientForConfigAndClient(c, connections)
	}
	r := &Reviewer{gateway: o.Gateway, now: o.Now, log: o.Log}
	if r.tokens, err = clientOf(authenticationv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if r.access, err = clientOf(authorizationv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if r.users, err = lru.New[[sha256.Size]byte, knownUser](mostRemembered); err != nil {
		return nil, err
	}
	if r.grants, err = lru.New[question, grant](mostRemembered); err != nil {
		return nil, err
	}
	r.problem.Store(new("waiting for an answer of the Kubernetes API server"))
	return r, nil
}

// Authorize implements admin.Authorizer. Every error is an *admin.Refusal.
func (r *Reviewer) Authorize(ctx context.Context, credential string, need admin.Right) (admin.Actor, error) {
	asked := question{sha256.Sum256([]byte(credential)), need}
	now := r.now()
	if g, found := r.grants.Get(asked); found && now.Before(g.until) {
		return g.actor, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	user, err := r.userOf(ctx, credential, asked.token, now)
	if err != nil {
		return admin.Actor{}, err
	}
	if err := r.authorize(ctx, user.UserInfo, need); err != nil {
		return admin.Actor{}, err
	}
	g := grant{admin.Actor{Name: user.Username}, user.until}
	r.grants.Add(asked, g)
	return g.actor, nil
}

// userOf returns who sent a token, for some seconds without asking. No grant holds for longer, so that it never rests on
// an answer that is older.
func (r *Reviewer) userOf(
	ctx context.Context, credential string, digest [sha256.Size]byte, now time.Time,
) (knownUser, error) {
	if user, found := r.users.Get(digest); found && now.Before(user.until) {
		return user, nil
	}
	info, err := r.authenticate(ctx, credential)
	if err != nil {
		return knownUser{}, err
	}
	user := knownUser{info, now.Add(remembered)}
	if expiry := claimsOf(credential).expiry(); !expiry.IsZero() && expiry.Before(user.until) {
		user.until = expiry
	}
	r.users.Add(digest, user)
	return user, nil
}

// authenticate asks who sent a token.
func (r *Reviewer) authenticate(ctx context.Context, credential string) (authenticationv1.UserInfo, error) {
	audience := r.gateway.Audience()
	review := &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: credential, Audiences: []string{audience}},
	}
	if err := create(ctx, r.tokens, "tokenreviews", review); err != nil {
		return authenticationv1.UserInfo{}, undecided("TokenReview", err)
	}
	status := review.Status
	unknown := func(message string) (authenticationv1.UserInfo, error) {
		return authenticationv1.UserInfo{}, &admin.Refusal{Err: admin.ErrUnauthenticated, Message: message}
	}
	name := status.User.Username
	switch {
	case !status.Authenticated:
		return unknown(claimsOf(credential).whyNot(r.now(), audience))
	case !slices.Contains(status.Audiences, audience):
		// The API server has not checked the audience, so the token may be for another service.
		return unknown("the cluster did not confirm that the token is for the audience " + audience)
	case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return unknown(fmt.Sprintf("the name of the account is empty, has control characters or more than %d bytes", maxName))
	}
	return status.User, nil
}

// authorize asks whether a user has a right.
func (r *Reviewer) authorize(ctx context.Context, user authenticationv1.UserInfo, need admin.Right) error {
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for name, values := range user.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: r.gateway.Namespace, Verb: string(need.Verb), Group: group, Version: version,
			Resource: resource, Subresource: string(need.Resource), Name: r.gateway.Name,
		},
	}}
	if err := create(ctx, r.access, "subjectaccessreviews", review); err != nil {
		return undecided("SubjectAccessReview", err)
	}
	if !review.Status.Allowed || review.Status.Denied {
		advice := "bind a Role with that right"
		if slices.Contains(admin.Roles["editor"], need) {
			advice = fmt.Sprintf("bind the Role %[1]s-user-viewer or %[1]s-user-editor", r.gateway.Name)
		}
		return &admin.Refusal{Err: admin.ErrForbidden, Message: fmt.Sprintf("%s may not %s %s/%s of %s in namespace %s: %s",
			user.Username, need.Verb, resource, need.Resource, r.gateway.Name, r.gateway.Namespace, advice)}
	}
	return nil
}

// create sends a review and reads the answer into it.
func create(ctx context.Context, to rest.Interface, kind string, review runtime.Object) error {
	return to.Post().Resource(kind).MaxRetries(0).Body(review).Do(ctx).Into(review)
}

// errMayNot means that the server itself may not create a review.
var errMayNot = errors.New("the ServiceAccount of this server may not create TokenReviews and SubjectAccessReviews: " +
	"bind it to the ClusterRole system:auth-delegator")

// undecided returns the refusal of a request that cannot be decided. Its cause never has the token: an error of the
// API server is shortened to its code and reason.
func undecided(kind string, err error) error {
	refusal := &admin.Refusal{Err: admin.ErrUndecided, Cause: err,
		Message: fmt.Sprintf("the Kubernetes API server did not answer the %s; try again", kind)}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		s := status.Status()
		refusal.Cause = fmt.Errorf("the API server answered the %s with %d %s", kind, s.Code, s.Reason)
		if s.Code == http.StatusForbidden {
			refusal.Cause = errMayNot
			refusal.Message = "this server may not create " + kind + "s; the status of the AuthGateway says what to do"
		}
	}
	return refusal
}

// How often Watch asks.
const (
	watchInterval = 30 * time.Second
	retryInterval = 5 * time.Second
)

// Problem returns why this server cannot decide what administrators may do, or "". An API server that does not answer
// is a problem only until its first answer: later, the reply to each request says so.
func (r *Reviewer) Problem() string {
	if p := r.problem.Load(); p != nil {
		return *p
	}
	return ""
}

// MayNotReview reports whether the API server does not let this server ask.
func (r *Reviewer) MayNotReview() bool { return r.Problem() == errMayNot.Error() }

// Watch keeps Problem up to date until ctx ends.
func (r *Reviewer) Watch(ctx context.Context) {
	for {
		r.check(ctx)
		wait := watchInterval
		if r.Problem() != "" {
			wait = retryInterval
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// check asks for both reviews, of a token and of a user that do not exist.
func (r *Reviewer) check(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := r.authenticate(within, "probe")
	if !errors.Is(err, admin.ErrUndecided) {
		err = r.authorize(within, authenticationv1.UserInfo{Username: "system:anonymous"}, admin.Right{Resource: admin.Users, Verb: admin.Get})
	}
	last := r.Problem()
	switch {
	case ctx.Err() != nil:
	case !errors.Is(err, admin.ErrUndecided):
		r.problem.Store(nil)
		if last != "" {
			r.log.Info("the Kubernetes API server decides what administrators may do")
		}
	case errors.Is(err, errMayNot) || last != "":
		refusal, _ := errors.AsType[*admin.Refusal](err)
		if now := refusal.Cause.Error(); now != last {
			r.log.Error("requests of administrators fail", "reason", now)
			r.problem.Store(&now)
		}
	}
}

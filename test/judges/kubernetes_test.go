package judges

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// authentication returns the configuration in docs/consumers/kubernetes.md, for an issuer and its certificate.
func authentication(t *testing.T, issuer, certificate string) string {
	t.Helper()
	text := block(t, "kubernetes.md", "# authentication.yaml")
	before, rest, found := strings.Cut(text, "      -----BEGIN")
	_, after, end := strings.Cut(rest, "END CERTIFICATE-----\n")
	if !found || !end {
		t.Fatalf("the page has no certificate:\n%s", text)
	}
	indented := "      " + strings.ReplaceAll(strings.TrimSpace(certificate), "\n", "\n      ") + "\n"
	return strings.ReplaceAll(before+indented+after, "https://auth.example.com", issuer)
}

// TestKubernetesAuthenticatesUsers has a Kubernetes API server authenticate the gateway's users: before, during and
// after a rotation and a revocation. Kubernetes does not know EdDSA.
func TestKubernetesAuthenticatesUsers(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "RS256"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			proxy := httptest.NewUnstartedServer(nil)
			proxy.StartTLS()
			t.Cleanup(proxy.Close)
			g := startGateway(t, "ISSUER="+proxy.URL, "SIGNING_ALGORITHM="+algorithm)
			target := testenv.Must(url.Parse(g.url))(t)
			proxy.Config.Handler = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}

			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
			file := filepath.Join(t.TempDir(), "authentication.yaml")
			content := authentication(t, proxy.URL, string(ca))
			testenv.NoError(t, os.WriteFile(file, []byte(content), 0o600))
			server := kubernetestest.Start(t, map[string]string{"authentication-config": file, "anonymous-auth": "true"})
			as := func(token string) (authenticationv1.UserInfo, error) {
				config := rest.AnonymousClientConfig(server)
				config.BearerToken = token
				clients, err := kubernetes.NewForConfig(config)
				if err != nil {
					return authenticationv1.UserInfo{}, err
				}
				review, err := clients.AuthenticationV1().SelfSubjectReviews().Create(t.Context(),
					&authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
				if err != nil {
					return authenticationv1.UserInfo{}, err
				}
				return review.Status.UserInfo, nil
			}

			old := g.accessToken()
			subject := part(t, old, 1, "sub").(string)
			accept := func(when, token string) error {
				user, err := as(token)
				if err == nil && (user.Username != "auth:"+subject || user.UID != subject || !slices.Contains(user.Groups, "auth:profile")) {
					err = fmt.Errorf("the user is %+v", user)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", when, err)
				}
				return nil
			}
			must := func(when, token string) {
				t.Helper()
				if err := accept(when, token); err != nil {
					t.Error(err)
				}
			}
			// The API server fetches the metadata in the background after its start.
			testenv.Eventually(t, time.Minute, "the API server knows the issuer", func() error { return accept("at first", old) })
			for _, bad := range []string{g.refresh, old[:len(old)-8] + "AAAAAAAA"} {
				if user, err := as(bad); !apierrors.IsUnauthorized(err) {
					t.Errorf("a token that is not valid authenticates %+v: %v", user, err)
				}
			}

			g.command("keys", "rotate")
			var next string
			testenv.Until(t, 5*time.Minute, "the next key signs", func() bool {
				next = g.accessToken()
				must("during the rotation", old)
				must("during the rotation", next)
				return kid(t, next) != kid(t, old)
			})
			g.command("keys", "revoke", kid(t, next))
			testenv.Until(t, time.Minute, "another key signs", func() bool { return kid(t, g.accessToken()) != kid(t, next) })
			third := g.accessToken()
			// The API server fetches the keys for an unknown kid, but not within max-age. Until then it keeps the revoked key.
			testenv.Eventually(t, 2*time.Minute, "the API server accepts tokens of the third key", func() error {
				return accept("after the revocation", third)
			})
			must("after the revocation", old)
			// It remembers the result for a valid token for ten seconds.
			testenv.Eventually(t, time.Minute, "the API server rejects tokens of the revoked key", func() error {
				if _, err := as(next); !apierrors.IsUnauthorized(err) {
					return errors.Join(errors.New("it accepts one"), err)
				}
				return nil
			})
		})
	}
}

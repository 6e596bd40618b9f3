package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestAPublicGatewayMailsItsCodesAndShowsThemNowhere(t *testing.T) {
	t.Parallel()
	const from = "Shop <no-reply@shop.example.com>"
	p := newTestNamespace(t)
	p.database(t)
	post := p.post(t)
	p.secret(t, "smtp", map[string]string{"username": "first", "password": rand.Text()})
	p.create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "mails"}, Data: map[string]string{
		"verification.txt": "Subject: Welcome to the shop\n\nIt is you: {{.Link}}\n",
	}})
	p.create(t, smallest("auth", cheapPasswords, func(s *v1alpha1.AuthGatewaySpec) {
		s.Exposure = v1alpha1.ExposurePublic
		s.Email = &v1alpha1.Email{
			SMTP: &v1alpha1.SMTP{
				Host: post.pod, From: from,
				CredentialsSecretRef: &v1alpha1.LocalReference{Name: "smtp"}, CASecretRef: &v1alpha1.LocalReference{Name: "mail-ca"},
			},
			TemplatesConfigMapRef: &v1alpha1.LocalReference{Name: "mails"},
			Links: &v1alpha1.EmailLinks{Verification: "https://shop.example.com/verify#{code}",
				PasswordReset: "https://shop.example.com/reset#{code}"},
		}
		s.Issuer, s.TrustedProxyHops = "https://auth.example.com", 1
		s.Ingress = &v1alpha1.Ingress{Host: "auth.example.com", TLS: v1alpha1.IngressTLSElsewhere}
		s.NetworkPolicy = v1alpha1.NetworkPolicy{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}
	}))
	p.ready(t, "auth", later)
	a := p.probe(t, "auth")

	u := newPerson()
	address := u.signUp()["email"]
	status, reply := a.call(t, http.MethodPost, "/users", "", "", u.signUp())
	if status != http.StatusAccepted || len(reply) > 0 {
		t.Fatalf("a sign-up is answered %d, not 202, with %v", status, slices.Sorted(maps.Keys(reply)))
	}
	welcome, verification := post.mail(t, address, "https://shop.example.com/verify#")
	if welcome.Subject != "Welcome to the shop" || welcome.From != "no-reply@shop.example.com" || welcome.User != "first" {
		t.Errorf("the mail is %q, from %s, sent by the user %s", welcome.Subject, welcome.From, welcome.User)
	}
	if status, reply := a.call(t, http.MethodPost, "/users/verify-user", "", "",
		map[string]string{"code": verification}); status != http.StatusOK {
		t.Fatalf("a verification with the mailed code is answered %d: %v", status, reply["error_description"])
	}
	a.signsIn(t, u)

	// The cluster chooses what serves external traffic; the NetworkPolicy must allow it.
	ingress := &networkingv1.Ingress{}
	p.get(t, "auth", ingress)
	if rules := ingress.Spec.Rules; len(rules) != 1 || rules[0].Host != "auth.example.com" ||
		rules[0].HTTP.Paths[0].Backend.Service.Name != "auth" {
		t.Errorf("the Ingress has the rules %+v", rules)
	}

	before := testenv.Must(p.servers(t, "auth"))(t)
	p.change(t, &corev1.Secret{}, "smtp", string(asJSON(t,
		map[string]any{"stringData": map[string]string{"username": "second", "password": rand.Text()}})))
	figure(t, "another password of the mail server: all pods replaced and ready after %.1f s", p.settled(t, "auth", 2, before...).Seconds())
	if status, reply := a.call(t, http.MethodPost, "/users/forgot-password", "", "",
		map[string]string{"email": address}); status != http.StatusAccepted || len(reply) > 0 {
		t.Fatalf("a request for a recovery code is answered %d, not 202, with %v", status, slices.Sorted(maps.Keys(reply)))
	}
	reset, recovery := post.mail(t, address, "https://shop.example.com/reset#")
	if reset.User != "second" {
		t.Errorf("after the change, mail is sent by the user %s", reset.User)
	}
	u.password = rand.Text()
	if status, reply := a.call(t, http.MethodPost, "/users/change-password", "", "", map[string]string{"code": recovery,
		"password": u.password}); status != http.StatusNoContent {
		t.Fatalf("a new password with the mailed code is answered %d: %v", status, reply["error_description"])
	}
	a.signsIn(t, u)

	for what, text := range p.everythingSaid(t) {
		for about, secret := range map[string]string{"the code of the verification": verification,
			"the code of the recovery": recovery, "the address": address} {
			if strings.Contains(text, secret) {
				t.Errorf("%s contains %s", what, about)
			}
		}
	}
}

func (a probe) signsIn(t *testing.T, u person) {
	t.Helper()
	status, tokens := a.call(t, http.MethodPost, "/tokens/signin", "", "", map[string]string{"username": u.name, "password": u.password})
	if status != http.StatusOK {
		t.Fatalf("a sign-in is answered %d: %v", status, tokens["error_description"])
	}
	access, _ := tokens["access_token"].(string)
	if err := a.verifies(t, access); err != nil {
		t.Errorf("with the mounted keys: %v", err)
	}
}

// post starts a mail server at port 587 of the Service "mail". Clients that trust the Secret mail-ca can use TLS.
func (p testNamespace) post(t *testing.T) probe {
	t.Helper()
	const name = "mail"
	certificate, key := selfSigned(t, name)
	p.secret(t, name+"-tls", map[string]string{"tls.crt": certificate, "tls.key": key})
	p.secret(t, name+"-ca", map[string]string{"ca.crt": certificate})
	p.create(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 587, TargetPort: intstr.FromInt32(1587)}},
	}})
	pod := restrictedPod(name, 65532, corev1.Container{
		Image:          p.probeImage,
		Env:            []corev1.EnvVar{{Name: "SMTP_LISTEN", Value: ":1587"}},
		Ports:          []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 1587}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1587)}}},
		VolumeMounts:   []corev1.VolumeMount{{Name: "tls", MountPath: "/tls", ReadOnly: true}},
	})
	pod.Spec.Volumes = []corev1.Volume{{Name: "tls",
		VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name + "-tls"}}}}
	p.start(t, pod)
	return probe{testNamespace: p, pod: name}
}

func selfSigned(t *testing.T, host string) (certificate, key string) {
	t.Helper()
	private := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	signed := testenv.Must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))(t)
	encoded := testenv.Must(x509.MarshalPKCS8PrivateKey(private))(t)
	in := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return in("CERTIFICATE", signed), in("PRIVATE KEY", encoded)
}

// received is a mail as the probe reports it.
type received struct {
	User, From, Subject, Text string
	To                        []string
}

var codePattern = regexp.MustCompile(`^[A-Z2-7]{26}`)

// mail waits for the mail to an address that contains a link, and returns the code at the link's end.
func (a probe) mail(t *testing.T, to, link string) (found received, code string) {
	t.Helper()
	testenv.Eventually(t, later, "a mail with a link to "+link+" has come", func() error {
		status, reply, err := a.ask(t.Context(), http.MethodGet, "/mails", nil)
		if err != nil {
			return err
		}
		var box struct{ Mails []received }
		if status != http.StatusOK || json.Unmarshal(reply, &box) != nil {
			return fmt.Errorf("the mail server answers %d", status)
		}
		count := 0
		for _, m := range box.Mails {
			_, after, linked := strings.Cut(m.Text, link)
			if linked && slices.Contains(m.To, to) {
				count++
				found, code = m, codePattern.FindString(after)
			}
		}
		if count != 1 || code == "" {
			return fmt.Errorf("the number of such mails is %d, of %d in all; the code has %d letters", count, len(box.Mails), len(code))
		}
		return nil
	})
	return found, code
}

// everythingSaid returns all that users can read in the namespace and the operator's: pods, logs, events, and the
// AuthGateway.
func (p testNamespace) everythingSaid(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, namespace := range []string{p.name, operatorNamespace} {
		pods := testenv.Must(p.clients.CoreV1().Pods(namespace).List(t.Context(), everything))(t)
		for _, pod := range pods.Items {
			all["pod "+pod.Name] = string(asJSON(t, pod))
			for _, s := range pod.Status.ContainerStatuses {
				text, err := p.clients.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: s.Name}).DoRaw(t.Context())
				if err != nil {
					t.Errorf("the log of %s in pod %s: %v", s.Name, pod.Name, err)
				}
				all["the log of "+s.Name+" in pod "+pod.Name] = string(text)
			}
		}
		events := testenv.Must(p.clients.CoreV1().Events(namespace).List(t.Context(), everything))(t)
		all["an event in "+namespace] = string(asJSON(t, events.Items))
	}
	all["the AuthGateway"] = string(asJSON(t, p.gateway(t, "auth")))
	return all
}

package localcluster

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestWhoeverIsNamedServesAndAsksWithWhatIsIssued(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := testenv.Must(newAuthority(dir))(t)
	for _, err := range []error{
		ca.issue("server", "the server", nil, "server.example", "127.0.0.1"),
		ca.issue("client", "ada", []string{"readers", "writers"}),
		ca.kubeconfig(filepath.Join(dir, "kubeconfig"), "client"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// A client has only its kubeconfig, and none of the other files.
	config := testenv.Must(clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig")))(t)
	client := testenv.Must(tls.X509KeyPair(config.CertData, config.KeyData))(t)
	server := testenv.Must(tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")))(t)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(config.CAData) {
		t.Fatal("the kubeconfig has no certificate of the authority")
	}
	handshake := func(name string, presents tls.Certificate) (x509.Certificate, error) {
		here, there := net.Pipe()
		defer func() { _, _ = here.Close(), there.Close() }()
		asks := tls.Client(here, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: name,
			Certificates: []tls.Certificate{client}})
		serves := tls.Server(there, &tls.Config{MinVersion: tls.VersionTLS12, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{presents}})
		served := make(chan error, 1)
		go func() { served <- serves.Handshake() }()
		if err := asks.Handshake(); err != nil {
			return x509.Certificate{}, err
		}
		if err := <-served; err != nil {
			return x509.Certificate{}, err
		}
		return *serves.ConnectionState().PeerCertificates[0], nil
	}
	for _, name := range []string{"server.example", "127.0.0.1"} {
		who, err := handshake(name, server)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if who.Subject.CommonName != "ada" || len(who.Subject.Organization) != 2 {
			t.Errorf("the client is identified as %v", who.Subject)
		}
	}
	if _, err := handshake("other.example", server); err == nil {
		t.Error("the server's certificate is valid for another name")
	}
	if _, err := handshake("server.example", client); err == nil {
		t.Error("a client's certificate is valid for a server")
	}
	entries := testenv.Must(os.ReadDir(dir))(t)
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: other users may read it: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
}

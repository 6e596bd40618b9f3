package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Each of several hosts must have a certificate for its own name.
func TestTLSVerifiesTheNameOfEachHost(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "authgateway-tls-") //nolint:usetesting // PostgreSQL runs as another user, which may not enter the test's folder
	testenv.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	testenv.NoError(t, os.Chmod(dir, 0o755))
	certificate, key := selfSigned(t, dir, "localhost")
	server := testenv.Must(localpostgres.Start(t.Context(), localpostgres.Options{
		Settings: map[string]string{"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key},
	}))(t)
	t.Cleanup(func() { testenv.NoError(t, server.Stop()) })
	c := configOf(server)
	c.SSLMode, c.SSLRootCert, c.AcquireTimeout = "verify-full", certificate, 5*time.Second
	for hosts, valid := range map[string]bool{
		"localhost": true, "127.0.0.1,localhost": true, "localhost,127.0.0.1": true, "127.0.0.1": false,
	} {
		c.Host = hosts
		_, err := postgrestest.Open(t, c).Version(t.Context())
		if (err == nil) != valid {
			t.Errorf("%s: %v; want valid %v", hosts, err, valid)
		}
		if err != nil && !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: the error does not name the host: %v", hosts, err)
		}
	}
}

// selfSigned writes a certificate for a name, and its key, which only PostgreSQL's user may read.
func selfSigned(t *testing.T, dir, name string) (certificate, key string) {
	t.Helper()
	private := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	signed := testenv.Must(x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private))(t)
	encoded := testenv.Must(x509.MarshalPKCS8PrivateKey(private))(t)
	certificate, key = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	testenv.NoError(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o644))
	testenv.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	if os.Geteuid() == 0 {
		account := testenv.Must(user.Lookup("postgres"))(t)
		testenv.NoError(t, os.Chown(key, testenv.Must(strconv.Atoi(account.Uid))(t), testenv.Must(strconv.Atoi(account.Gid))(t)))
	}
	return certificate, key
}

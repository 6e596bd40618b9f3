package localcluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// An authority signs the certificates of one cluster. They expire after a year: the cluster is then created again.
type authority struct {
	dir         string // for the files
	certificate *x509.Certificate
	key         crypto.Signer
}

// newAuthority writes ca.crt. The key stays in memory, because a running cluster needs no more certificates.
func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "auth-gateway local cluster"},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	a.key, a.certificate = key, template
	der, err := a.sign(template, key)
	if err != nil {
		return nil, err
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePEM(a.path("ca.crt"), "CERTIFICATE", der)
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func (a *authority) sign(template *x509.Certificate, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = template.NotBefore.AddDate(1, 0, 0)
	return x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
}

// issue writes NAME.crt and NAME.key, for a client in the groups and for a server at the addresses (names or IPs).
func (a *authority) issue(name, user string, groups []string, addresses ...string) error {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(addresses) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, address := range addresses {
		if ip := net.ParseIP(address); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, address)
		}
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	der, err := a.sign(template, key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(a.path(name+".crt"), "CERTIFICATE", der), writeKey(a.path(name+".key"), key))
}

// serviceAccounts writes the key pair with which the API server signs ServiceAccount tokens.
func (a *authority) serviceAccounts() error {
	key, err := newKey()
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(writeKey(a.path("accounts.key"), key), writePEM(a.path("accounts.pub"), "PUBLIC KEY", public))
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// kubeconfig writes a kubeconfig with the certificate NAME.crt. It refers to no other file, so it can be copied.
func (a *authority) kubeconfig(path, name string) error {
	var parts [3][]byte
	for i, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		var err error
		if parts[i], err = os.ReadFile(a.path(file)); err != nil {
			return err
		}
	}
	const local = "auth-gateway"
	return clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{local: {Server: apiServerURL, CertificateAuthorityData: parts[0]}},
		AuthInfos:      map[string]*api.AuthInfo{local: {ClientCertificateData: parts[1], ClientKeyData: parts[2]}},
		Contexts:       map[string]*api.Context{local: {Cluster: local, AuthInfo: local}},
		CurrentContext: local,
	}, path)
}

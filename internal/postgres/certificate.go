package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"time"
)

// Certificate are the files of a self-signed certificate.
type Certificate struct{ CertFile, KeyFile string }

const (
	certificateLife = 365 * 24 * time.Hour
	// certificateRenew is how long before its end a certificate is replaced.
	certificateRenew = 30 * 24 * time.Hour
)

// EnsureCertificate has a self-signed certificate for hostname in the data
// directory, and keeps one that is there and will last for another month.
func (i *Instance) EnsureCertificate(hostname string) (Certificate, error) {
	c := Certificate{CertFile: i.path("server.crt"), KeyFile: i.path("server.key")}
	if c.usable(hostname, time.Now()) {
		return c, nil
	}
	cert, key, err := selfSigned(hostname, time.Now())
	if err != nil {
		return Certificate{}, fmt.Errorf("create certificate: %w", err)
	}
	// The key first: after a kill in between the pair does not fit and is made again.
	if err := writeFile(c.KeyFile, key, 0o600); err != nil {
		return Certificate{}, fmt.Errorf("create certificate: %w", err)
	}
	if err := writeFile(c.CertFile, cert, 0o644); err != nil {
		return Certificate{}, fmt.Errorf("create certificate: %w", err)
	}
	return c, nil
}

func (c Certificate) usable(hostname string, now time.Time) bool {
	certText, errCert := os.ReadFile(c.CertFile)
	keyText, errKey := os.ReadFile(c.KeyFile)
	certBlock, _ := pem.Decode(certText)
	keyBlock, _ := pem.Decode(keyText)
	if errCert != nil || errKey != nil || certBlock == nil || keyBlock == nil {
		return false
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil || cert.Subject.CommonName != hostname || now.Before(cert.NotBefore) || now.Add(certificateRenew).After(cert.NotAfter) {
		return false
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return false
	}
	private, ok := key.(*ecdsa.PrivateKey)
	return ok && private.PublicKey.Equal(cert.PublicKey)
}

func selfSigned(hostname string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: hostname},
		// Clocks of two machines differ a little.
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if addr, err := netip.ParseAddr(hostname); err == nil {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	} else {
		template.DNSNames = append(template.DNSNames, hostname)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return cert, key, nil
}

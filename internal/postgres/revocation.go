package postgres

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrRevoked says that the certificate of a server is on the revocation list.
var ErrRevoked = errors.New("the server's certificate is revoked")

// checkRevoked has a connection refuse servers whose certificate, or whose
// issuer's, is on the revocation list in file; "" for none. The driver knows no sslcrl.
func checkRevoked(cfg *pgconn.Config, file string) error {
	if file == "" {
		return nil
	}
	verify, err := Revocations(file)
	if err != nil {
		return err
	}
	if cfg.TLSConfig != nil {
		cfg.TLSConfig.VerifyConnection = verify
	}
	for _, other := range cfg.Fallbacks {
		if other.TLSConfig != nil {
			other.TLSConfig.VerifyConnection = verify
		}
	}
	return nil
}

// Revocations reads a file of certificate revocation lists, as sslcrl names it,
// and returns what a TLS configuration asks as VerifyConnection. The file is
// trusted, as the file of the authorities is.
func Revocations(file string) (func(tls.ConnectionState) error, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own
	if err != nil {
		return nil, fmt.Errorf("read certificate revocation list: %w", err)
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificate revocation list %s: %w", file, err)
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return nil, fmt.Errorf("read certificate revocation list %s: there is none in it", file)
	}
	return func(state tls.ConnectionState) error {
		for _, cert := range state.PeerCertificates {
			if revoked(lists, cert) {
				return fmt.Errorf("%w: %s, serial number %s", ErrRevoked, cert.Subject, cert.SerialNumber)
			}
		}
		return nil
	}, nil
}

func revoked(lists []*x509.RevocationList, cert *x509.Certificate) bool {
	for _, list := range lists {
		if !bytes.Equal(list.RawIssuer, cert.RawIssuer) {
			continue
		}
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return true
			}
		}
	}
	return false
}

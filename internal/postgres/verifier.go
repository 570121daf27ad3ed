package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // PostgreSQL's own method, where its settings ask for it
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// PostgreSQL's own numbers for a SCRAM verifier.
const (
	scramIterations = 4096
	scramSaltBytes  = 16
)

// verifier is what the server shall store for a role's password, made here so
// that the password itself is in no statement: those are seen by whoever reads
// pg_stat_statements or an audit log. A password that is not plain ASCII goes as it is:
// the server normalizes it by rules of its own.
func (s *Session) verifier(ctx context.Context, role, password string) (string, error) {
	for _, c := range []byte(password) {
		if c < 0x20 || c > 0x7e {
			return password, nil
		}
	}
	var method string
	if err := s.conn.QueryRow(ctx, `SELECT current_setting('password_encryption')`).Scan(&method); err != nil {
		return "", fmt.Errorf("ask for password_encryption: %w", err)
	}
	if method == "md5" {
		return md5Verifier(role, password), nil
	}
	salt := make([]byte, scramSaltBytes)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make a salt: %w", err)
	}
	return scramVerifier(password, salt, scramIterations)
}

func md5Verifier(role, password string) string {
	sum := md5.Sum([]byte(password + role)) //nolint:gosec // see above
	return "md5" + hex.EncodeToString(sum[:])
}

// scramVerifier is RFC 5803's form, as PostgreSQL writes it.
func scramVerifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the verifier: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(stored[:]), encode(keyed(salted, "Server Key"))), nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

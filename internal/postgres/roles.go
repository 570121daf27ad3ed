package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Role is a database role that should be there.
type Role struct {
	Name        string
	Password    string // empty leaves it alone
	Login       bool
	Superuser   bool
	Replication bool
	ConnLimit   int // 0 means no limit
}

// MonitorRole is the role of the monitor's health checks.
func MonitorRole() Role {
	return Role{Name: pg.MonitorRole, Password: pg.MonitorRole, Login: true, ConnLimit: 1}
}

// ReplicationRole is the role under which the nodes of a group replicate and rewind.
func ReplicationRole(password string) Role {
	return Role{Name: pg.ReplicationRole, Password: password, Login: true, Superuser: true, Replication: true}
}

// EnsureRole creates a role or gives an existing one these attributes.
func (s *Session) EnsureRole(ctx context.Context, r Role) error {
	var exists bool
	if err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)`, r.Name).Scan(&exists); err != nil {
		return fmt.Errorf("look for role %s: %w", r.Name, err)
	}
	if !exists {
		err := s.exec(ctx, "create role "+r.Name, `CREATE ROLE `+pg.QuoteIdent(r.Name))
		if err != nil && !isCode(err, pgerrcode.DuplicateObject, pgerrcode.UniqueViolation) {
			return err
		}
	}
	words := []string{"ALTER ROLE", pg.QuoteIdent(r.Name), "WITH", not(r.Login) + "LOGIN", not(r.Superuser) + "SUPERUSER", not(r.Replication) + "REPLICATION"}
	limit := -1
	if r.ConnLimit > 0 {
		limit = r.ConnLimit
	}
	words = append(words, fmt.Sprintf("CONNECTION LIMIT %d", limit))
	return s.quietly(ctx, func() error {
		if r.Password != "" {
			secret, err := s.verifier(ctx, r.Name, r.Password)
			if err != nil {
				return err
			}
			words = append(words, "PASSWORD", pg.QuoteLiteral(secret))
		}
		return s.exec(ctx, "alter role "+r.Name, strings.Join(words, " "))
	})
}

func not(yes bool) string {
	if yes {
		return ""
	}
	return "NO"
}

// quietly keeps the statements of f, which hold what a password is checked by, out of the server's log.
func (s *Session) quietly(ctx context.Context, f func() error) error {
	const loud = `RESET log_statement; RESET log_min_error_statement; RESET log_min_duration_sample`
	const quiet = `SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_sample = -1`
	if err := s.exec(ctx, "silence the log", quiet); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, s.exec(ctx, "restore the log", loud))
}

// EnsureDatabase creates a database unless it exists.
func (s *Session) EnsureDatabase(ctx context.Context, name, owner string) error {
	var exists bool
	if err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1::text)`, name).Scan(&exists); err != nil {
		return fmt.Errorf("look for database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	query := `CREATE DATABASE ` + pg.QuoteIdent(name)
	if owner != "" {
		query += ` OWNER ` + pg.QuoteIdent(owner)
	}
	err := s.unhurried(ctx, "create database "+name, query)
	if isCode(err, pgerrcode.DuplicateDatabase, pgerrcode.UniqueViolation) {
		return nil
	}
	return err
}

// EnsureExtension creates an extension in this session's database, with what it needs.
func (s *Session) EnsureExtension(ctx context.Context, name string) error {
	// The session's search_path has no schema to create objects in.
	return s.unhurried(ctx, "create extension "+name,
		`SET search_path = public; CREATE EXTENSION IF NOT EXISTS `+pg.QuoteIdent(name)+` CASCADE; SET search_path = pg_catalog`)
}

func isCode(err error, codes ...string) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	return slices.Contains(codes, answer.Code)
}

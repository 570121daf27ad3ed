package pgautofailover

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Formation is a row of pgautofailover.formation.
type Formation struct {
	ID                 string
	Kind               string
	DBName             string
	OptSecondary       bool
	NumberSyncStandbys int
}

func scanFormation(row pgx.CollectableRow) (Formation, error) {
	var f Formation
	err := row.Scan(&f.ID, &f.Kind, &f.DBName, &f.OptSecondary, &f.NumberSyncStandbys)
	return f, err
}

const (
	formationColumns = `
SELECT formationid, kind, dbname::text, opt_secondary, number_sync_standbys FROM pgautofailover.formation `
	qFormations      = formationColumns + `ORDER BY formationid`
	qFormation       = formationColumns + `WHERE formationid = $1`
	qCreateFormation = `
SELECT formation_id, kind, dbname::text, opt_secondary, number_sync_standbys
  FROM pgautofailover.create_formation($1, $2, $3::text::name, $4, $5)`
	qDropFormation    = `SELECT pgautofailover.drop_formation($1)`
	qEnableSecondary  = `SELECT pgautofailover.enable_secondary($1)`
	qDisableSecondary = `SELECT pgautofailover.disable_secondary($1)`
)

// Formations lists all formations.
func (db *DB) Formations(ctx context.Context) ([]Formation, error) {
	return collect(ctx, db.conn, "list the formations", scanFormation, qFormations)
}

// FormationByID returns a formation, or ErrNotFound.
func (db *DB) FormationByID(ctx context.Context, formation string) (Formation, error) {
	return db.oneFormation(ctx, "find the formation", qFormation, formation)
}

// CreateFormation creates a formation and returns what is stored.
func (db *DB) CreateFormation(ctx context.Context, f Formation) (Formation, error) {
	return db.oneFormation(ctx, "create the formation", qCreateFormation,
		f.ID, f.Kind, f.DBName, f.OptSecondary, f.NumberSyncStandbys)
}

func (db *DB) oneFormation(ctx context.Context, op, sql string, args ...any) (Formation, error) {
	rows, err := db.conn.Query(ctx, sql, args...)
	if err != nil {
		return Formation{}, wrap(op, err)
	}
	f, err := pgx.CollectExactlyOneRow(rows, scanFormation)
	return f, wrap(op, err)
}

// DropFormation drops a formation without nodes.
func (db *DB) DropFormation(ctx context.Context, formation string) error {
	_, err := db.conn.Exec(ctx, qDropFormation, formation)
	return wrap("drop the formation", err)
}

// EnableSecondary lets standbys register in a formation.
func (db *DB) EnableSecondary(ctx context.Context, formation string) error {
	_, err := db.conn.Exec(ctx, qEnableSecondary, formation)
	return wrap("enable secondary nodes", err)
}

// DisableSecondary forbids standbys in a formation that has none.
func (db *DB) DisableSecondary(ctx context.Context, formation string) error {
	_, err := db.conn.Exec(ctx, qDisableSecondary, formation)
	return wrap("disable secondary nodes", err)
}

// FormationSetting is a row of pgautofailover.formation_settings().
type FormationSetting struct {
	Context  string
	Group    *int
	NodeID   *int64
	NodeName *string
	Setting  string
	Value    string
}

const qFormationSettings = `
SELECT context, group_id, node_id, nodename, setting, value FROM pgautofailover.formation_settings($1)`

// FormationSettings returns the replication settings of a formation and its nodes, in the documented order.
func (db *DB) FormationSettings(ctx context.Context, formation string) ([]FormationSetting, error) {
	scan := func(row pgx.CollectableRow) (FormationSetting, error) {
		var s FormationSetting
		err := row.Scan(&s.Context, &s.Group, &s.NodeID, &s.NodeName, &s.Setting, &s.Value)
		return s, err
	}
	return collect(ctx, db.conn, "read the formation's settings", scan, qFormationSettings, formation)
}

const (
	qFormationURI  = `SELECT coalesce(pgautofailover.formation_uri($1, $2, $3, $4, $5), '')`
	qCitusClusters = `
SELECT DISTINCT nodecluster FROM pgautofailover.node WHERE formationid = $1 ORDER BY nodecluster`
)

// FormationURI returns the connection string of a formation for applications; false when it has no node.
func (db *DB) FormationURI(
	ctx context.Context, formation, cluster, sslMode, sslRootCert, sslCRL string,
) (string, bool, error) {
	var uri string
	err := db.conn.QueryRow(ctx, qFormationURI, formation, cluster, sslMode, sslRootCert, sslCRL).Scan(&uri)
	return uri, uri != "", wrap("read the formation's connection string", err)
}

// CitusClusters lists the cluster names in use in a formation.
func (db *DB) CitusClusters(ctx context.Context, formation string) ([]string, error) {
	return collect(ctx, db.conn, "list the clusters", pgx.RowTo[string], qCitusClusters, formation)
}

package spock

import "context"

const qInstallationDirs = `
SELECT coalesce(max(setting) FILTER (WHERE name = 'SHAREDIR'), ''), coalesce(max(setting) FILTER (WHERE name = 'PKGLIBDIR'), '')
  FROM pg_catalog.pg_config`

// InstallationDirs asks a server for the directories of its own installation,
// which are paths on its host. It takes a superuser.
func (db *DB) InstallationDirs(ctx context.Context) (ExtensionDirs, error) {
	var dirs ExtensionDirs
	err := db.conn.QueryRow(ctx, qInstallationDirs).Scan(&dirs.Share, &dirs.Lib)
	return dirs, wrap("ask for the server's directories", err)
}

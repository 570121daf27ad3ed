package pgautofailover_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestInstallTwice(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.exec(t, `INSERT INTO pgautofailover.formation (formationid) VALUES ('kept')`)
	require.NoError(t, pgautofailover.Install(t.Context(), m.db))
	require.NoError(t, pgautofailover.Upgrade(t.Context(), m.db))
	version, err := pgautofailover.SchemaVersion(t.Context(), m.db)
	require.NoError(t, err)
	require.Equal(t, pgautofailover.SchemaNumber, version)
	require.Equal(t, "2", m.text(t, `SELECT count(*)::text FROM pgautofailover.formation`))
}

func TestInstallAtOnce(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	var group errgroup.Group
	for range 4 {
		db := connect(t, dsn)
		group.Go(func() error { return pgautofailover.Install(t.Context(), db) })
	}
	require.NoError(t, group.Wait())
}

func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	hint := func(err error) string {
		h, ok := err.(interface{ Hint() string })
		require.True(t, ok, "%v has no hint", err)
		return h.Hint()
	}

	dsn := pgtest.Database(t)
	db := connect(t, dsn)
	_, err := pgautofailover.SchemaVersion(t.Context(), db)
	require.ErrorIs(t, err, pgautofailover.ErrNotInstalled)
	require.ErrorIs(t, pgautofailover.Upgrade(t.Context(), db), pgautofailover.ErrNotInstalled)

	_, err = pgtest.Connect(t, dsn).Exec(t.Context(), `CREATE SCHEMA pgautofailover`)
	require.NoError(t, err)
	err = pgautofailover.Install(t.Context(), db)
	require.ErrorContains(t, err, "was not made by this program")
	require.NotEmpty(t, hint(err))

	newer := install(t)
	newer.exec(t, `UPDATE pgautofailover.schema_version SET version = 99`)
	err = pgautofailover.Install(t.Context(), newer.db)
	require.ErrorContains(t, err, "it has version 99")
	require.NotEmpty(t, hint(err))
}

package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func TestSocketDirectories(t *testing.T) {
	t.Parallel()
	dirs, err := postgres.Tools{Dir: pgtest.Bin(t)}.SocketDirectories(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	require.NotContains(t, dirs, "\t")
}

package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// ConnectForTest connects as a client does.
func ConnectForTest(ctx context.Context, dsn string) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, dsn)
}

// EarlyClientsForTest lists sessions that have not finished logging in.
func (i *Instance) EarlyClientsForTest(t *testing.T) []int {
	t.Helper()
	st, err := i.Status()
	require.NoError(t, err)
	children, err := childrenOf(st.PID)
	require.NoError(t, err)
	require.NoError(t, i.With(t.Context(), func(s *Session) error {
		children, err = s.stillLoggingIn(t.Context(), st.PID, children)
		return err
	}))
	return children
}

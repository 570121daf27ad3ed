package bench

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// BenchmarkInProcess is a scratch measurement.
func BenchmarkInProcess(b *testing.B) {
	dir := pgtest.Dir(b)
	f := monitor.DefaultFile()
	f.PGData, f.Hostname, f.ListenAddresses, f.Port = filepath.Join(dir, "monitor"), "localhost", "localhost", pgtest.FreePort(b)
	ready := make(chan struct{}, 8)
	cfg := monitor.Config{
		File: f, Tools: postgres.Tools{Dir: pgtest.Bin(b)}, SocketDir: dir,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Ready:  func() { ready <- struct{}{} },
	}
	require.NoError(b, monitor.Create(b.Context(), monitor.CreateConfig{Config: cfg, Run: true}))
	m, err := monitor.New(cfg)
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() { stop(); require.NoError(b, <-done) }()
	<-ready
	info, err := m.ConnInfo("autoctl_node")
	require.NoError(b, err)
	admin, err := pgautofailover.Connect(b.Context(), pgautofailover.ConnectConfig{ConnInfo: info, ApplicationName: "bench"})
	require.NoError(b, err)
	defer admin.Close(ctx) //nolint:errcheck // scratch
	startKeepers(b, info, admin, 6)
	time.Sleep(5 * time.Second)
	for i := range 2 {
		states, err := admin.CurrentState(b.Context(), "load"+string(rune('0'+i)), nil)
		require.NoError(b, err)
		for _, s := range states {
			b.Logf("%+v", s)
		}
	}
}

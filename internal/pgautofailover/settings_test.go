package pgautofailover_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func TestDefaultSettings(t *testing.T) {
	t.Parallel()
	s, err := pgautofailover.ParseSettings(nil)
	require.NoError(t, err)
	require.Equal(t, fsm.DefaultSettings(), s.Decision)
	require.Equal(t, pgautofailover.Settings{
		Decision: fsm.DefaultSettings(), HealthChecks: true, HealthCheckPeriod: time.Second, HealthCheckTimeout: time.Second,
		HealthCheckRetryDelay: 100 * time.Millisecond, HealthCheckMaxRetries: 2, EventRetention: 90 * 24 * time.Hour,
	}, s)
	value, ok := pgautofailover.DefaultSettings().Get("pgautofailover.node_considered_unhealthy_timeout")
	require.True(t, ok)
	require.Equal(t, "3s", value)
	value, ok = pgautofailover.DefaultSettings().Get("pgautofailover.guard_data_loss")
	require.True(t, ok)
	require.Equal(t, "on", value)
}

func TestBadSettingsTakeDefaults(t *testing.T) {
	t.Parallel()
	s, err := pgautofailover.ParseSettings(map[string]string{
		"pgautofailover.primary_demote_timeout": "soon", "health_check_period": "0", "guard_data_loss": "maybe",
		"startup_grace_period": "2min", "promote_wal_log_threshold": "1GB", "health_check_max_retries": "500",
	})
	require.ErrorContains(t, err, "primary_demote_timeout")
	require.ErrorContains(t, err, "health_check_period")
	require.ErrorContains(t, err, "guard_data_loss")
	require.ErrorContains(t, err, "health_check_max_retries")
	want := fsm.DefaultSettings()
	want.StartupGrace, want.PromoteThreshold = 2*time.Minute, 1<<30
	require.Equal(t, want, s.Decision)
	require.Equal(t, time.Second, s.HealthCheckPeriod)
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"20000": 20 * time.Second, "3s": 3 * time.Second, "3 s": 3 * time.Second, "1.5s": 1500 * time.Millisecond,
		"100ms": 100 * time.Millisecond, "2min": 2 * time.Minute, "1h": time.Hour, "2d": 48 * time.Hour, "5us": 5 * time.Microsecond,
	} {
		got, err := pgautofailover.ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "s", "1m", "1S", "-1s", "1e30d", "1.1.1s", "NaN"} {
		_, err := pgautofailover.ParseDuration(text)
		require.Error(t, err, text)
	}
	for text, want := range map[string]int64{"16777216": 1 << 24, "16MB": 1 << 24, "1 GB": 1 << 30, "8kB": 8192, "7B": 7} {
		got, err := pgautofailover.ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	_, err := pgautofailover.ParseSize("16mb")
	require.Error(t, err)
	for text, want := range map[string]bool{"on": true, "T": true, "yes": true, "1": true, "off": false, "n": false, "false": false, "0": false} {
		got, err := pgautofailover.ParseBool(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "o", "onn", "2"} {
		_, err := pgautofailover.ParseBool(text)
		require.Error(t, err, text)
	}
}

func TestSettingsOfServer(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET pgautofailover.primary_demote_timeout = ''7s''', current_database()); END $$`)
	s, err := connect(t, m.dsn).Settings(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7*time.Second, s.Decision.DemoteTimeout)
	require.Equal(t, 3*time.Second, s.Decision.UnhealthyTimeout)
}

func TestGroupKey(t *testing.T) {
	t.Parallel()
	k, err := pgautofailover.ParseGroupKey("a/b/12")
	require.NoError(t, err)
	require.Equal(t, pgautofailover.GroupKey{Formation: "a/b", Group: 12}, k)
	require.Equal(t, "a/b/12", k.String())
	for _, bad := range []string{"", "a", "a/", "a/b"} {
		_, err := pgautofailover.ParseGroupKey(bad)
		require.Error(t, err, bad)
	}
	_, err = pgautofailover.ParseStateNotification(`{"type": "log"}`)
	require.Error(t, err)
	_, err = pgautofailover.ParseStateNotification(`hello`)
	require.Error(t, err)
}

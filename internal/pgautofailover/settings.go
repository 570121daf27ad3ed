package pgautofailover

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// Settings are the settings pgautofailover.* of a monitor.
type Settings struct {
	// Decision is what fsm.Decide needs.
	Decision fsm.Settings
	// HealthChecks says whether nodes are probed at all.
	HealthChecks          bool
	HealthCheckPeriod     time.Duration
	HealthCheckTimeout    time.Duration
	HealthCheckRetryDelay time.Duration
	// HealthCheckMaxRetries counts attempts after the first.
	HealthCheckMaxRetries int
	// EventRetention is how long rows of pgautofailover.event are kept; 0 for ever.
	EventRetention time.Duration
}

// settingPrefix precedes every name below in configuration files.
const settingPrefix = "pgautofailover."

// setting binds one name to its default text and to where its value goes.
type setting struct {
	name, value string
	store       func(s *Settings, text string) error
}

// settingTable lists the settings in the order in which they are written.
func settingTable() []setting {
	duration := func(field func(s *Settings) *time.Duration, least time.Duration) func(*Settings, string) error {
		return func(s *Settings, text string) error {
			d, err := ParseDuration(text)
			if err == nil && d < least {
				err = fmt.Errorf("%s is below %s", d, least)
			}
			if err == nil {
				*field(s) = d
			}
			return err
		}
	}
	millis := func(field func(s *Settings) *time.Duration) func(*Settings, string) error {
		return duration(field, time.Millisecond)
	}
	size := func(field func(s *Settings) *int64) func(*Settings, string) error {
		return func(s *Settings, text string) error {
			n, err := ParseSize(text)
			if err == nil && n < 1 {
				err = errors.New("below 1")
			}
			if err == nil {
				*field(s) = n
			}
			return err
		}
	}
	boolean := func(field func(s *Settings) *bool) func(*Settings, string) error {
		return func(s *Settings, text string) error {
			b, err := ParseBool(text)
			if err == nil {
				*field(s) = b
			}
			return err
		}
	}
	return []setting{
		{"enable_health_checks", "on", boolean(func(s *Settings) *bool { return &s.HealthChecks })},
		{"health_check_period", "1s", millis(func(s *Settings) *time.Duration { return &s.HealthCheckPeriod })},
		{"health_check_timeout", "1s", millis(func(s *Settings) *time.Duration { return &s.HealthCheckTimeout })},
		{"health_check_max_retries", "2", func(s *Settings, text string) error {
			n, err := strconv.Atoi(text)
			if err == nil && (n < 1 || n > 100) {
				err = errors.New("outside 1 .. 100")
			}
			if err == nil {
				s.HealthCheckMaxRetries = n
			}
			return err
		}},
		{"health_check_retry_delay", "100ms", millis(func(s *Settings) *time.Duration { return &s.HealthCheckRetryDelay })},
		{"node_considered_unhealthy_timeout", "3s", millis(func(s *Settings) *time.Duration { return &s.Decision.UnhealthyTimeout })},
		{"sessionless_unhealthy_timeout", "20s", millis(func(s *Settings) *time.Duration { return &s.Decision.SessionlessTimeout })},
		{"primary_demote_timeout", "30s", millis(func(s *Settings) *time.Duration { return &s.Decision.DemoteTimeout })},
		{"startup_grace_period", "10s", millis(func(s *Settings) *time.Duration { return &s.Decision.StartupGrace })},
		{"replication_stall_timeout", "10s", millis(func(s *Settings) *time.Duration { return &s.Decision.StallTimeout })},
		{"fast_forward_timeout", "30s", millis(func(s *Settings) *time.Duration { return &s.Decision.FastForwardTimeout })},
		{"request_timeout", "60s", millis(func(s *Settings) *time.Duration { return &s.Decision.IntentTimeout })},
		{"enable_sync_wal_log_threshold", "16777216", size(func(s *Settings) *int64 { return &s.Decision.SyncThreshold })},
		{"promote_wal_log_threshold", "16777216", size(func(s *Settings) *int64 { return &s.Decision.PromoteThreshold })},
		{"guard_data_loss", "on", boolean(func(s *Settings) *bool { return &s.Decision.GuardDataLoss })},
		{"event_retention", "90d", duration(func(s *Settings) *time.Duration { return &s.EventRetention }, 0)},
		// Read by the schema itself: what old keepers must be told.
		{"enable_version_checks", "on", func(*Settings, string) error { return nil }},
		{"extension_version", CompatVersion, func(*Settings, string) error { return nil }},
	}
}

// DefaultSettings returns every setting with its default, for the monitor's
// configuration file. All of them belong there: without an extension that
// declares them, SHOW and ALTER SYSTEM know only what the file names.
func DefaultSettings() pg.Settings {
	var all pg.Settings
	for _, s := range settingTable() {
		all = append(all, pg.Setting{Name: settingPrefix + s.name, Value: s.value})
	}
	return all
}

// ParseSettings reads settings by name (with or without the prefix); missing
// or empty ones take their defaults. A value that cannot be read also takes its
// default, and is reported: a monitor must not stop over a typing error.
func ParseSettings(values map[string]string) (Settings, error) {
	var s Settings
	var bad []error
	for _, one := range settingTable() {
		if err := one.store(&s, one.value); err != nil {
			return Settings{}, fmt.Errorf("parse default of %s: %w", one.name, err)
		}
		text := values[settingPrefix+one.name]
		if text == "" {
			text = values[one.name]
		}
		if text == "" {
			continue
		}
		if err := one.store(&s, text); err != nil {
			bad = append(bad, fmt.Errorf("parse setting %s%s %q: %w", settingPrefix, one.name, text, err))
		}
	}
	return s, errors.Join(bad...)
}

const qSettings = `
SELECT n, coalesce(current_setting('pgautofailover.' || n, true), '') FROM unnest($1::text[]) AS n`

func settingNames() []string {
	var names []string
	for _, s := range settingTable() {
		names = append(names, s.name)
	}
	return names
}

func readSettings(rows pgx.Rows) (Settings, error) {
	values := make(map[string]string)
	var name, value string
	_, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		values[name] = value
		return nil
	})
	if err != nil {
		return Settings{}, wrap("read the settings", err)
	}
	return ParseSettings(values)
}

// Settings reads the monitor's settings as this session sees them. With an
// error about values that cannot be read come usable settings.
func (db *DB) Settings(ctx context.Context) (Settings, error) {
	rows, err := db.conn.Query(ctx, qSettings, settingNames())
	if err != nil {
		return Settings{}, wrap("read the settings", err)
	}
	return readSettings(rows)
}

// ParseDuration reads a time as PostgreSQL's configuration spells it: a
// number, which may have a fraction, and a unit among us, ms, s, min, h and d;
// milliseconds without a unit.
func ParseDuration(text string) (time.Duration, error) {
	number, unit := cutUnit(text)
	var scale time.Duration
	switch unit {
	case "us":
		scale = time.Microsecond
	case "", "ms":
		scale = time.Millisecond
	case "s":
		scale = time.Second
	case "min":
		scale = time.Minute
	case "h":
		scale = time.Hour
	case "d":
		scale = 24 * time.Hour
	default:
		return 0, fmt.Errorf("parse duration %q: unknown unit %q", text, unit)
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(scale) > float64(1<<62) {
		return 0, fmt.Errorf("parse duration %q: not a time", text)
	}
	return time.Duration(f * float64(scale)), nil
}

// ParseSize reads a size as PostgreSQL's configuration spells it: a number and
// a unit among B, kB, MB, GB and TB; bytes without a unit.
func ParseSize(text string) (int64, error) {
	number, unit := cutUnit(text)
	shift, ok := map[string]uint{"": 0, "B": 0, "kB": 10, "MB": 20, "GB": 30, "TB": 40}[unit]
	if !ok {
		return 0, fmt.Errorf("parse size %q: unknown unit %q", text, unit)
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(int64(1)<<shift) > float64(1<<62) {
		return 0, fmt.Errorf("parse size %q: not a size", text)
	}
	return int64(f * float64(int64(1)<<shift)), nil
}

// ParseBool reads a boolean as PostgreSQL does: on, true, yes, 1 and their
// opposites, or any beginning of these words that leaves no doubt.
func ParseBool(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "1", "on", "t", "tr", "tru", "true", "y", "ye", "yes":
		return true, nil
	case "0", "of", "off", "f", "fa", "fal", "fals", "false", "n", "no":
		return false, nil
	}
	return false, fmt.Errorf("parse boolean %q: expected on or off", text)
}

func cutUnit(text string) (number, unit string) {
	text = strings.TrimSpace(text)
	at := strings.LastIndexAny(text, "0123456789.") + 1
	return strings.TrimSpace(text[:at]), strings.TrimSpace(text[at:])
}

package postgres

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// SSL is the ssl section of a node's configuration.
type SSL struct {
	Active   bool
	Mode     string // sslmode of our own connections to other nodes
	CAFile   string
	CRLFile  string
	CertFile string
	KeyFile  string
}

// Tuning is what the settings that depend on the machine are computed from.
type Tuning struct {
	MemoryBytes int64
	CPUs        int
	// Small asks for the fixed values of test environments.
	Small bool
}

// DetectTuning looks at this machine.
func DetectTuning() (Tuning, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Tuning{}, fmt.Errorf("ask for the size of memory: %w", err)
	}
	memory := int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has 2^63 bytes
	return Tuning{MemoryBytes: memory, CPUs: runtime.NumCPU()}, nil
}

// Settings returns the basic tuning.
func (t Tuning) Settings() pg.Settings {
	const mb, gb = int64(1) << 20, int64(1) << 30
	buffers, work, maintenance, workers := t.MemoryBytes/4, 16*mb, 256*mb, 16
	switch {
	case t.MemoryBytes <= 8*gb:
	case t.MemoryBytes <= 64*gb:
		work, maintenance = 24*mb, 512*mb
	case t.MemoryBytes <= 256*gb:
		buffers, work, maintenance = 16*gb, 32*mb, gb
	default:
		buffers, work, maintenance = 32*gb, 64*mb, 2*gb
	}
	for n, limit := range []int{16, 24, 32, 48, 64} {
		if t.CPUs < limit {
			workers = []int{3, 4, 6, 8, 12}[n]
			break
		}
	}
	cache := t.MemoryBytes - buffers
	if t.Small {
		buffers, work, maintenance, cache, workers = 128*mb, 4*mb, 64*mb, 4*gb, 3
	}
	return pg.Settings{
		{Name: "track_functions", Value: "pl"},
		{Name: "shared_buffers", Value: megabytes(buffers)},
		{Name: "work_mem", Value: megabytes(work)},
		{Name: "maintenance_work_mem", Value: megabytes(maintenance)},
		{Name: "effective_cache_size", Value: megabytes(cache)},
		{Name: "autovacuum_max_workers", Value: strconv.Itoa(workers)},
		{Name: "autovacuum_vacuum_scale_factor", Value: "0.08"},
		{Name: "autovacuum_analyze_scale_factor", Value: "0.02"},
	}
}

func megabytes(n int64) string { return strconv.FormatInt(max(1, n>>20), 10) + " MB" }

// SettingsConfig is what a settings file is written from.
type SettingsConfig struct {
	ListenAddresses string
	Port            int
	AuthMethod      string
	SSL             SSL
	Tuning          Tuning
	Retention       Retention
	// Citus says that the node belongs to a Citus formation; the names below are for it.
	Citus        bool
	Hostname     string
	CitusCluster string
}

const ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:" +
	"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384"

// NodeSettings returns the settings of a data node.
func NodeSettings(cfg SettingsConfig) pg.Settings {
	s := pg.Settings{
		{Name: "shared_preload_libraries", Value: "pg_stat_statements"},
		{Name: "listen_addresses", Value: cfg.ListenAddresses},
		{Name: "port", Value: strconv.Itoa(cfg.Port)},
		{Name: "max_wal_senders", Value: "12"},
		{Name: "max_replication_slots", Value: "12"},
		{Name: "wal_level", Value: "replica"},
		{Name: "wal_log_hints", Value: "on"},
		{Name: "wal_sender_timeout", Value: "30s"},
		// A standby tries again this soon; with the default of 5 s a restarted
		// primary waits as long for its synchronous standby.
		{Name: "wal_retrieve_retry_interval", Value: "100ms"},
		// A primary knows by it that its standbys live.
		{Name: "wal_receiver_status_interval", Value: "1s"},
		// A silent peer is noticed in seconds: a standby that does not stream must say so, or commits wait for it.
		{Name: "wal_receiver_timeout", Value: "5s"},
		{Name: "hot_standby_feedback", Value: "on"},
		{Name: "hot_standby", Value: "on"},
		{Name: "synchronous_commit", Value: "on"},
	}
	s = append(s, logSettings()...)
	s = append(s, authSettings(cfg.AuthMethod)...)
	s = append(s, cfg.SSL.settings()...)
	s = append(s, cfg.Retention.settings()...)
	if cfg.Citus {
		s = append(s, citusSettings(cfg)...)
	}
	return append(s, cfg.Tuning.Settings()...)
}

// MonitorSettings returns the settings of a monitor's server. It needs no library of ours.
func MonitorSettings(cfg SettingsConfig) pg.Settings {
	s := pg.Settings{
		{Name: "cluster_name", Value: "pg_auto_failover monitor"},
		{Name: "listen_addresses", Value: cfg.ListenAddresses},
		{Name: "port", Value: strconv.Itoa(cfg.Port)},
	}
	s = append(s, logSettings()...)
	s = append(s, pg.Setting{Name: "log_statement", Value: "ddl"})
	s = append(s, authSettings(cfg.AuthMethod)...)
	s = append(s, cfg.SSL.settings()...)
	s = append(s,
		pg.Setting{Name: "tcp_keepalives_idle", Value: "30"},
		pg.Setting{Name: "tcp_keepalives_interval", Value: "10"},
		pg.Setting{Name: "tcp_keepalives_count", Value: "6"},
		pg.Setting{Name: "tcp_user_timeout", Value: "60000"})
	return append(s, cfg.Tuning.Settings()...)
}

func logSettings() pg.Settings {
	return pg.Settings{
		{Name: "logging_collector", Value: "on"},
		{Name: "log_destination", Value: "stderr"},
		{Name: "log_directory", Value: "log"},
		{Name: "log_min_messages", Value: "info"},
		{Name: "log_connections", Value: "off"},
		{Name: "log_disconnections", Value: "off"},
		{Name: "log_lock_waits", Value: "on"},
	}
}

func authSettings(method string) pg.Settings {
	switch method {
	case "md5", "scram-sha-256":
		return pg.Settings{{Name: "password_encryption", Value: method}}
	case "password":
		return pg.Settings{{Name: "password_encryption", Value: "scram-sha-256"}}
	default:
		return nil
	}
}

func (ssl SSL) settings() pg.Settings {
	s := pg.Settings{{Name: "ssl", Value: "off"}}
	if ssl.Active {
		s[0].Value = "on"
	}
	for _, file := range []pg.Setting{
		{Name: "ssl_ca_file", Value: ssl.CAFile},
		{Name: "ssl_crl_file", Value: ssl.CRLFile},
		{Name: "ssl_cert_file", Value: ssl.CertFile},
		{Name: "ssl_key_file", Value: ssl.KeyFile},
	} {
		if file.Value != "" {
			s = append(s, file)
		}
	}
	return append(s, pg.Setting{Name: "ssl_ciphers", Value: ciphers})
}

// nodeKeepalives bound how long a session waits for a node whose host is silent;
// the system's own bounds are a quarter of an hour and more, and until then the
// session holds its locks against that node's replacement.
const nodeKeepalives = " keepalives=1 keepalives_idle=2 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=6000"

func citusSettings(cfg SettingsConfig) pg.Settings {
	conninfo := "sslmode=" + cfg.SSL.Mode
	if cfg.SSL.CAFile != "" {
		conninfo += " sslrootcert=" + cfg.SSL.CAFile
	}
	if cfg.SSL.CRLFile != "" {
		conninfo += " sslcrl=" + cfg.SSL.CRLFile
	}
	s := pg.Settings{
		{Name: "shared_preload_libraries", Value: "citus,pg_stat_statements"},
		{Name: "wal_level", Value: "logical"},
		{Name: "citus.node_conninfo", Value: conninfo + nodeKeepalives},
		// A change of address that was prepared and then committed is told to the workers when the
		// extension next looks for such: nothing wakes it, and by default it looks once a minute.
		{Name: "citus.metadata_sync_interval", Value: "2s"},
		// So it is with transactions of clients that a failure has left prepared: they keep their locks until then.
		{Name: "citus.recover_2pc_interval", Value: "5s"},
	}
	if cfg.CitusCluster != "" {
		s = append(s,
			pg.Setting{Name: "citus.cluster_name", Value: cfg.CitusCluster},
			pg.Setting{Name: "citus.use_secondary_nodes", Value: "always"})
	}
	return append(s, pg.Setting{Name: "citus.local_hostname", Value: cfg.Hostname})
}

// WriteSettings writes our settings file and has postgresql.conf include it on
// top, so that what the operator writes there wins. It tells whether anything
// changed; Reload or a restart puts it in force.
func (i *Instance) WriteSettings(settings pg.Settings) (changed bool, err error) {
	image := "# Settings by pg_auto_failover\n" + settings.Render()
	wrote, err := updateFile(i.path(settingsFile), 0o600, func(string) string { return image })
	if err != nil {
		return false, fmt.Errorf("write settings: %w", err)
	}
	included, err := updateFile(i.path("postgresql.conf"), 0o600, func(image string) string {
		image, _ = pg.EnsureInclude(image, settingsFile)
		return image
	})
	if err != nil {
		return false, fmt.Errorf("write settings: %w", err)
	}
	return wrote || included, nil
}

// CheckSettings returns what keeps a running server from being a node of a
// group, one sentence each; none when it is fit.
func (s *Session) CheckSettings(ctx context.Context, citus bool) ([]string, error) {
	const query = `
SELECT current_setting('max_wal_senders')::int, current_setting('max_replication_slots')::int,
  current_setting('wal_level'), current_setting('wal_log_hints'), current_setting('shared_preload_libraries')`
	var senders, slots int
	var level, hints, libraries string
	if err := s.conn.QueryRow(ctx, query).Scan(&senders, &slots, &level, &hints, &libraries); err != nil {
		return nil, fmt.Errorf("check settings: %w", err)
	}
	var problems []string
	complain := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	complain(senders < 12, "max_wal_senders is %d, needs at least 12", senders)
	complain(slots < 12, "max_replication_slots is %d, needs at least 12", slots)
	complain(level != "replica" && level != "logical", "wal_level is %q, needs 'replica' or 'logical'", level)
	complain(hints != "on", "wal_log_hints is %q, needs 'on'", hints)
	first, _, _ := strings.Cut(libraries, ",")
	complain(citus && strings.TrimSpace(first) != "citus", "shared_preload_libraries is %q, needs citus first", libraries)
	return problems, nil
}

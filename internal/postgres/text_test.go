package postgres

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for out, want := range map[string]Version{
		"postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n": {Number: 150020, Text: "15.20", Full: "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"},
		"postgres (PostgreSQL) 19devel":                          {Number: 190000, Text: "19devel", Full: "postgres (PostgreSQL) 19devel"},
		"postgres (PostgreSQL) 18beta2 (x)":                      {Number: 180000, Text: "18beta2", Full: "postgres (PostgreSQL) 18beta2 (x)"},
	} {
		got, err := parseVersion(out)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.Equal(t, 15, Version{Number: 150020}.Major())
	for _, out := range []string{"", "psql 15", "postgres (PostgreSQL) devel"} {
		_, err := parseVersion(out)
		require.Error(t, err, out)
	}
}

// fakeInstallation makes a bin directory with a server program that tells its version.
func fakeInstallation(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pg_ctl": "#!/bin/sh\n", "pg_config": "#!/bin/sh\necho " + dir + "\n",
		"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700))
	}
	return dir
}

func TestFindTools(t *testing.T) {
	t.Parallel()
	a, b := fakeInstallation(t, "15.1"), fakeInstallation(t, "16.2")
	links := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(a, "pg_ctl"), filepath.Join(links, "pg_ctl")))
	onlyConfig := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(b, "pg_config"), filepath.Join(onlyConfig, "pg_config")))
	for _, tc := range []struct {
		cfg  FindConfig
		want string
	}{
		{FindConfig{PgCtl: filepath.Join(a, "pg_ctl"), PgConfig: filepath.Join(b, "pg_config"), Path: b}, a},
		{FindConfig{PgConfig: filepath.Join(b, "pg_config"), Path: a}, b},
		{FindConfig{Path: a + ":/nowhere:" + links}, a},
		{FindConfig{Path: onlyConfig}, b},
	} {
		got, err := FindTools(t.Context(), tc.cfg)
		require.NoError(t, err)
		require.Equal(t, tc.want, got.Dir)
		require.Equal(t, filepath.Join(tc.want, "pg_ctl"), got.PgCtl())
	}
	var hint interface{ Hint() string }
	_, err := FindTools(t.Context(), FindConfig{Path: a + ":" + b})
	require.ErrorContains(t, err, filepath.Join(a, "pg_ctl")+" (15.1)")
	require.ErrorContains(t, err, filepath.Join(b, "pg_ctl")+" (16.2)")
	require.ErrorAs(t, err, &hint)
	for _, cfg := range []FindConfig{{}, {PgCtl: "/nowhere/pg_ctl"}, {PgConfig: "/nowhere/pg_config"}, {PgCtl: links + "/pg_ctl"}} {
		_, err := FindTools(t.Context(), cfg)
		require.Error(t, err)
		require.ErrorAs(t, err, &hint)
	}
}

type fakeResolver struct {
	names map[string][]netip.Addr
	addrs map[string][]string
}

func (r fakeResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if found := r.names[host]; found != nil {
		return found, nil
	}
	return nil, errors.New("no such host")
}

func (r fakeResolver) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return r.addrs[addr], nil
}

func TestHBAAddressUsesNamesThatLeadBack(t *testing.T) {
	t.Parallel()
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	r := fakeResolver{
		names: map[string][]netip.Addr{"good": {two, one}, "bad": {two}, "six": {netip.MustParseAddr("::5")}},
		addrs: map[string][]string{"10.0.0.1": {"other.", "GOOD."}, "10.0.0.2": {"elsewhere."}},
	}
	for host, want := range map[string]string{
		"good": "good", "bad": "10.0.0.2/32", "six": "::5/128", "10.1.1.1": "10.1.1.1/32", "10.0.0.0/8": "10.0.0.0/8", "unknown": "unknown",
	} {
		got, warning := HBAAddress(t.Context(), r, host)
		require.Equal(t, want, got)
		require.Equal(t, host == "bad" || host == "six" || host == "unknown", warning != "", host)
	}
}

func TestLocalNetwork(t *testing.T) {
	t.Parallel()
	got, err := LocalNetwork(t.Context(), fakeResolver{}, "127.0.0.1")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.0/8", got.String())
	_, err = LocalNetwork(t.Context(), fakeResolver{}, "192.0.2.1")
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
}

func TestTuning(t *testing.T) {
	t.Parallel()
	for gb, want := range map[int64][4]string{
		4: {"1024 MB", "16 MB", "256 MB", "3072 MB"}, 8: {"2048 MB", "16 MB", "256 MB", "6144 MB"},
		32: {"8192 MB", "24 MB", "512 MB", "24576 MB"}, 128: {"16384 MB", "32 MB", "1024 MB", "114688 MB"},
		512: {"32768 MB", "64 MB", "2048 MB", "491520 MB"},
	} {
		s := Tuning{MemoryBytes: gb << 30, CPUs: 1}.Settings()
		for n, name := range []string{"shared_buffers", "work_mem", "maintenance_work_mem", "effective_cache_size"} {
			value, _ := s.Get(name)
			require.Equal(t, want[n], value, "%s with %d GB", name, gb)
		}
	}
	for cpus, want := range map[int]string{1: "3", 15: "3", 16: "4", 24: "6", 32: "8", 48: "12", 63: "12", 64: "16", 200: "16"} {
		value, _ := Tuning{CPUs: cpus}.Settings().Get("autovacuum_max_workers")
		require.Equal(t, want, value, "%d CPUs", cpus)
	}
	machine, err := DetectTuning()
	require.NoError(t, err)
	require.Positive(t, machine.MemoryBytes)
}

func TestNodeSettings(t *testing.T) {
	t.Parallel()
	s := NodeSettings(SettingsConfig{ListenAddresses: "*", Port: 5432, AuthMethod: "password", Tuning: Tuning{Small: true}})
	for name, want := range map[string]string{
		"listen_addresses": "*", "port": "5432", "password_encryption": "scram-sha-256", "ssl": "off", "wal_level": "replica",
		"wal_retrieve_retry_interval": "100ms", "wal_receiver_status_interval": "1s", "wal_receiver_timeout": "5s", "wal_keep_size": "8 GB", "shared_buffers": "128 MB",
	} {
		value, ok := s.Get(name)
		require.True(t, ok, name)
		require.Equal(t, want, value, name)
	}
	_, ok := s.Get("ssl_cert_file")
	require.False(t, ok)
	citus := NodeSettings(SettingsConfig{Citus: true, CitusCluster: "c", Hostname: "h", SSL: SSL{Active: true, Mode: "verify-ca", CAFile: "/ca"}})
	for name, want := range map[string]string{
		"wal_level": "logical", "citus.cluster_name": "c",
		"citus.node_conninfo":          "sslmode=verify-ca sslrootcert=/ca keepalives=1 keepalives_idle=2 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=6000",
		"citus.metadata_sync_interval": "2s", "citus.recover_2pc_interval": "5s",
		"citus.use_secondary_nodes": "always", "citus.local_hostname": "h", "shared_preload_libraries": "citus,pg_stat_statements", "ssl": "on",
	} {
		value, _ := citus.Get(name)
		require.Equal(t, want, value, name)
	}
	monitor := MonitorSettings(SettingsConfig{ListenAddresses: "*", AuthMethod: "trust"})
	_, ok = monitor.Get("shared_preload_libraries")
	require.False(t, ok)
	_, ok = monitor.Get("password_encryption")
	require.False(t, ok)
	again, err := pg.ParseSettings(citus.Render())
	require.NoError(t, err)
	require.Equal(t, citus, again)
}

func TestRelate(t *testing.T) {
	t.Parallel()
	line := func(entries ...pg.HistoryEntry) pg.History { return append(pg.History{{TLI: 1}}, entries...) }
	two := func(at pg.LSN) pg.History { return line(pg.HistoryEntry{TLI: 2, Parent: 1, Switch: at}) }
	three := func(at, next pg.LSN) pg.History {
		return append(two(at), pg.HistoryEntry{TLI: 3, Parent: 2, Switch: next})
	}
	for _, tc := range []struct {
		name     string
		local    pg.History
		end      pg.LSN
		other    pg.History
		otherLSN pg.LSN
		want     Lineage
	}{
		{"same line behind", line(), 50, line(), 100, LineageFollows},
		{"same line ahead", line(), 150, line(), 100, LineageAhead},
		{"before the switch", line(), 100, two(100), 200, LineageFollows},
		{"beyond the switch", line(), 101, two(100), 200, LineageDiverged},
		{"two timelines 2", two(100), 150, two(120), 200, LineageAmbiguous},
		{"our timeline 2 is not theirs", two(100), 150, three(120, 180), 200, LineageDiverged},
		{"we went on, they did not", three(100, 150), 160, two(100), 200, LineageDiverged},
		{"two switches later", line(), 90, three(100, 150), 200, LineageFollows},
		{"nothing in common", pg.History{{TLI: 2}}, 0, line(), 0, LineageAmbiguous},
	} {
		got := Relate(tc.local, tc.end, SystemInfo{TLI: tc.other.TLI(), LSN: tc.otherLSN, History: tc.other})
		require.Equal(t, tc.want.String(), got.String(), tc.name)
	}
}

func TestImportDebianConfig(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	data, conf := filepath.Join(root, "lib", "15", "main"), filepath.Join(root, "etc", "15", "main")
	require.NoError(t, os.MkdirAll(data, 0o700))
	i := New(Config{DataDir: data})
	var hint interface{ Hint() string }
	require.ErrorAs(t, i.ImportDebianConfig(filepath.Join(root, "etc")), &hint)
	require.NoError(t, os.MkdirAll(conf, 0o700))
	for name, text := range map[string]string{
		"pg_hba.conf": "hba", "pg_ident.conf": "ident", "start.conf": "auto\n",
		"postgresql.conf": "port = 1\ndata_directory = 'x'\n # hba_file = 'y'\n  HBA_FILE='y'\ninclude_dir 'conf.d'\nident_filex = 1\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(conf, name), []byte(text), 0o600))
	}
	for range 2 {
		require.NoError(t, i.ImportDebianConfig(filepath.Join(root, "etc")))
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
	require.Equal(t, "port = 1\n# edited by pg_auto_failover \n# data_directory = 'x'\n # hba_file = 'y'\n"+
		"# edited by pg_auto_failover \n#   HBA_FILE='y'\n# edited by pg_auto_failover \n# include_dir 'conf.d'\nident_filex = 1\n",
		read(filepath.Join(data, "postgresql.conf")))
	require.Equal(t, "hba", read(filepath.Join(data, "pg_hba.conf")))
	require.Equal(t, "ident", read(filepath.Join(data, "pg_ident.conf")))
	require.Equal(t, "auto\n", read(filepath.Join(conf, "start.conf.orig")))
	require.Equal(t, "# edited by pg_auto_failover \ndisabled\n", read(filepath.Join(conf, "start.conf")))
}

func TestExchangeMovesBothWays(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	for _, dir := range []string{a, b} {
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "name"), []byte(dir), 0o600))
	}
	require.NoError(t, os.Symlink(b, filepath.Join(root, "link")))
	require.NoError(t, exchange(a, filepath.Join(root, "link")))
	text, err := os.ReadFile(filepath.Join(b, "name"))
	require.NoError(t, err)
	require.Equal(t, a, string(text))
	target, err := os.Readlink(filepath.Join(root, "link"))
	require.NoError(t, err)
	require.Equal(t, b, target)
}

func TestWriteFileReplacesOrLeavesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	require.NoError(t, writeFile(path, []byte("one"), 0o600))
	changed, err := updateFile(path, 0o644, func(string) string { return "one" })
	require.NoError(t, err)
	require.False(t, changed)
	changed, err = updateFile(path, 0o644, func(s string) string { return s + " two" })
	require.NoError(t, err)
	require.True(t, changed)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "the mode stays")
	require.Error(t, writeFile(filepath.Join(dir, "no", "f"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	require.Error(t, writeFile(filepath.Join(dir, "d"), nil, 0o600))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file is left")
}

func TestUpstreamNames(t *testing.T) {
	t.Parallel()
	cfg := UpstreamConfig{ID: 3, Host: "h", Port: 1, DBName: "d", Password: "p", SSLMode: "verify-full", SSLRootCert: "/ca", SSLCRL: "/crl"}
	require.Equal(t, "application_name=pgautofailover_standby_3 host=h port=1 user=pgautofailover_replicator dbname=d sslmode=verify-full sslrootcert=/ca sslcrl=/crl password=p",
		StandbyOf(cfg).ConnInfo.DSN())
	require.Equal(t, "pgautofailover_standby_3", StandbyOf(cfg).Slot)
	cfg.SSLMode = "require"
	require.Equal(t, "application_name=pgautofailover_copy_3 host=h port=1 user=pgautofailover_replicator dbname=d sslmode=require password=p", CopyFrom(cfg).DSN())
}

func FuzzParsePidFile(f *testing.F) {
	f.Add("1\n/data\n1600000000\n5432\n/tmp\nlocalhost\n  5432001  12\nready   \n")
	f.Fuzz(func(t *testing.T, text string) {
		file, ok := parsePidFile(text)
		require.Equal(t, ok, file.pid != 0)
	})
}

func FuzzParseOutput(f *testing.F) {
	f.Add("12345/67890 kB (18%), 0/1 tablespace")
	f.Add("postgres (PostgreSQL) 15.20 (Debian)")
	f.Fuzz(func(t *testing.T, text string) {
		if p, ok := parseProgress(text); ok {
			require.GreaterOrEqual(t, p.Done, int64(0))
		}
		if v, err := parseVersion(text); err == nil {
			require.NotZero(t, v.Number)
		}
		require.NotContains(t, oneLine(text), "\n")
		_ = commentOutPlaces(text)
		require.LessOrEqual(t, strings.Count(segmentSuffix(pg.LSN(len(text)), 1<<24), ""), 17)
	})
}

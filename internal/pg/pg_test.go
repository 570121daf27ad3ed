package pg

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestLSN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]LSN{"0/0": 0, "0/3000060": 0x3000060, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		got, err := ParseLSN(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", "0", "/", "0/", "/0", "0/0/0", "0/123456789", "-1/0", "+1/0", "0x1/0", "1_0/0", "g/0", " 0/0"} {
		_, err := ParseLSN(text)
		require.ErrorIs(t, err, ErrSyntax, text)
	}
	require.EqualValues(t, -16, LSN(16).Sub(32))
	rapid.Check(t, func(t *rapid.T) {
		lsn := LSN(rapid.Uint64().Draw(t, "lsn"))
		text, err := json.Marshal(lsn)
		require.NoError(t, err)
		var again LSN
		require.NoError(t, json.Unmarshal(text, &again))
		require.Equal(t, lsn, again)
	})
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	id, err := ParseSystemID("18446744073709551615")
	require.NoError(t, err)
	require.Equal(t, "18446744073709551615", id.String())
	_, err = ParseSystemID("-1")
	require.ErrorIs(t, err, ErrSyntax)
	_, err = ParseTimeline("4294967296")
	require.ErrorIs(t, err, ErrSyntax)
	require.Equal(t, "0000000A.history", Timeline(10).HistoryFile())
}

func TestNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "pgautofailover_standby_12", StandbyName(12))
	require.Equal(t, "pgautofailover_copy_12", CopyName(12))
	id, ok := ParseStandbyName("pgautofailover_standby_12")
	require.True(t, ok)
	require.EqualValues(t, 12, id)
	for _, name := range []string{"pgautofailover_standby_", "pgautofailover_standby_012", "pgautofailover_copy_1", "x", "pgautofailover_standby_1x"} {
		_, ok := ParseStandbyName(name)
		require.False(t, ok, name)
	}
}

func TestQuoting(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"a""b"`, QuoteIdent(`a"b`))
	require.Equal(t, `'it''s'`, QuoteLiteral(`it's`))
	require.Equal(t, `E'a\\b''c'`, QuoteLiteral(`a\b'c`))
	require.Equal(t, `'it''s \\ \n'`, QuoteConf("it's \\ \n"))
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[ -~\n\r\t]{0,20}`).Draw(t, "value")
		settings, err := ParseSettings("name = " + QuoteConf(value))
		require.NoError(t, err)
		require.Equal(t, Settings{{"name", value}}, settings)
	})
}

func TestStandbyNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]StandbyNames{
		"":                      {},
		"  ":                    {},
		"*":                     {1, []string{"*"}},
		"ANY 1 (a)":             {1, []string{"a"}},
		" any 2(a ,\"b c\", *)": {2, []string{"a", "b c", "*"}},
	} {
		got, err := ParseStandbyNames(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		"a", "a, b", "FIRST 1 (a)", "1 (a)", "ANY (a)", "ANY 0 (a)", "ANY 1 ()", "ANY 1 (a", "ANY 1 (a) b", "ANY 1 (a,)", `ANY 1 ("a)`, "ANY 1 (1a)", "ANY1 (a)", "any",
	} {
		_, err := ParseStandbyNames(text)
		require.ErrorIs(t, err, ErrSyntax, text)
	}
	require.Equal(t, `ANY 2 (pgautofailover_standby_1, "x y", "any")`, StandbyNames{2, []string{StandbyName(1), "x y", "any"}}.String())
	require.Empty(t, StandbyNames{K: 1}.String())
	require.True(t, StandbyNames{K: 1}.Equal(StandbyNames{}))
	require.False(t, StandbyNames{1, []string{"a"}}.Equal(StandbyNames{2, []string{"a"}}))
	rapid.Check(t, func(t *rapid.T) {
		names := StandbyNames{
			K:       rapid.IntRange(1, 100).Draw(t, "k"),
			Members: rapid.SliceOfN(rapid.StringMatching(`[ -~]{1,10}`), 1, 5).Draw(t, "members"),
		}
		again, err := ParseStandbyNames(names.String())
		require.NoError(t, err)
		require.True(t, names.Equal(again), "%q %q", names, again)
	})
}

func TestHistory(t *testing.T) {
	t.Parallel()
	h, err := ParseHistory(4, "1\t0/3000\tno recovery target specified\n\n# comment\n2\t0/5000\twhy not\n")
	require.NoError(t, err)
	require.Equal(t, History{{1, 0, 0}, {2, 1, 0x3000}, {4, 2, 0x5000}}, h)
	text, err := json.Marshal(h)
	require.NoError(t, err)
	require.JSONEq(t, `[{"tli":1,"parenttli":0,"switchpoint":"0/0"},{"tli":2,"parenttli":1,"switchpoint":"0/3000"},{"tli":4,"parenttli":2,"switchpoint":"0/5000"}]`, string(text))
	require.Contains(t, string(text), `{"tli":1,"parenttli":0,"switchpoint":"0/0"}`, "the order of the keys is part of the format")
	require.EqualValues(t, 4, h.TLI())

	first, err := ParseHistory(1, "")
	require.NoError(t, err)
	require.Equal(t, History{{1, 0, 0}}, first)

	at, ok := h.SwitchFrom(2)
	require.True(t, ok)
	require.EqualValues(t, 0x5000, at)
	_, ok = h.SwitchFrom(4)
	require.False(t, ok)
	_, ok = h.SwitchFrom(3)
	require.False(t, ok)
	require.True(t, h.Contains(1, 0x3000))
	require.False(t, h.Contains(1, 0x3001))
	require.True(t, h.Contains(4, 1<<40))
	require.False(t, h.Contains(3, 0))

	for _, text := range []string{"1", "x\t0/1\ty", "1\tx\ty", "1\t0/2\tx\n1\t0/3\ty", "4\t0/1\tx", "1\t0/2\tx\n2\t0/1\ty"} {
		_, err := ParseHistory(4, text)
		require.ErrorIs(t, err, ErrSyntax, text)
	}
	_, err = ParseHistory(0, "")
	require.ErrorIs(t, err, ErrSyntax)
}

func TestFork(t *testing.T) {
	t.Parallel()
	line := func(entries ...HistoryEntry) History { return append(History{{1, 0, 0}}, entries...) }
	for _, tc := range []struct {
		a, b History
		tli  Timeline
		at   LSN
		open bool
	}{
		{line(), line(), 1, 0, true},
		{line(), line(HistoryEntry{2, 1, 100}), 1, 100, false},
		{line(HistoryEntry{2, 1, 200}), line(HistoryEntry{2, 1, 100}), 1, 100, false},
		{line(HistoryEntry{2, 1, 100}), line(HistoryEntry{3, 1, 200}), 1, 100, false},
		{line(HistoryEntry{2, 1, 100}), line(HistoryEntry{2, 1, 100}), 2, 0, true},
		{line(HistoryEntry{2, 1, 100}), line(HistoryEntry{2, 1, 100}, HistoryEntry{3, 2, 300}), 2, 300, false},
		{History{{2, 0, 0}}, line(), 0, 0, false},
	} {
		for _, swap := range []bool{false, true} {
			a, b := tc.a, tc.b
			if swap {
				a, b = b, a
			}
			tli, at, open := a.Fork(b)
			require.Equal(t, tc.tli, tli)
			require.Equal(t, tc.at, at)
			require.Equal(t, tc.open, open)
		}
	}
}

const controlText = `pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7312345678901234567
Database cluster state:               shut down
pg_control last modified:             Sat 21 Nov 2026 10:00:00 AM UTC
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's REDO WAL file:    000000010000000000000003
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   1
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
Bytes per WAL segment:                16777216
Data page checksum version:           1
`

func TestControlData(t *testing.T) {
	t.Parallel()
	c, err := ParseControlData(controlText)
	require.NoError(t, err)
	require.Equal(t, ControlData{
		ControlVersion: 1300, CatalogVersion: 202209061, SystemID: 7312345678901234567, State: "shut down",
		Checkpoint: 0x3000028, Redo: 0x3000028, TLI: 2, PrevTLI: 1, Checksums: true, WalSegmentSize: 16 << 20,
	}, c)
	require.True(t, c.CleanShutdown())
	require.False(t, c.NeedsRecovery())
	for state, recovery := range map[string]bool{"shut down in recovery": false, "in production": true, "in archive recovery": true, "shutting down": true} {
		c.State = state
		require.False(t, c.CleanShutdown())
		require.Equal(t, recovery, c.NeedsRecovery(), state)
		require.Equal(t, state == "in production" || state == "shutting down", c.RanAsPrimary(), state)
	}
	for line := range strings.Lines(controlText) {
		if strings.HasPrefix(line, "pg_control last") || strings.Contains(line, "WAL file") {
			continue
		}
		_, err := ParseControlData(strings.Replace(controlText, line, "", 1))
		require.ErrorIs(t, err, ErrSyntax, line)
	}
}

func TestConnInfoReadsBothForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "",
		"host=a port=5432 dbname=d user='u s' password=p": "host=a port=5432 dbname=d user='u s' password=p",
		` host = 'it\'s'  port=1`:                         `host='it\'s' port=1`,
		`a=x\ y b='\\'`:                                   `a='x y' b='\\'`,
		"postgres://":                                     "",
		"postgresql://u:p%40w@h:5433/db?sslmode=require&application_name=x%20y": "user=u host=h port=5433 dbname=db sslmode=require application_name='x y' password=p@w",
		"postgres://a,b:2,c/db?target_session_attrs=read-write":                 "host=a,b,c port=,2, dbname=db target_session_attrs=read-write",
		"postgres://a:1,b:1/db":                                                  "host=a,b port=1 dbname=db",
		"postgres://[2001:db8::1]:5433/db":                                       "host=2001:db8::1 port=5433 dbname=db",
		"postgres://%2Ftmp%2Fpg/db":                                              "host=/tmp/pg dbname=db",
		"postgres:///db?host=/tmp&port=1":                                        "dbname=db host=/tmp port=1",
		"postgres://autoctl_node@monitor:5000/pg_auto_failover?password=s3cr3t#": "user=autoctl_node host=monitor port=5000 dbname=pg_auto_failover password=s3cr3t#",
	} {
		c, err := ParseConnInfo(text)
		require.NoError(t, err, text)
		require.Equal(t, want, c.DSN(), text)
		again, err := ParseConnInfo(c.DSN())
		require.NoError(t, err)
		require.Equal(t, want, again.DSN())
		if c.Get("host") == "" || strings.Contains(text, "//") && !strings.Contains(want, "host=/tmp port") {
			uri, err := ParseConnInfo(c.URI())
			require.NoError(t, err)
			for _, key := range []string{"host", "user", "dbname", "password", "sslmode"} {
				require.Equal(t, c.Get(key), uri.Get(key), "%s in %s", key, c.URI())
			}
		}
	}
	for _, text := range []string{
		"secret", "host", "host='secret", "HOST=secret", "postgres://h:secret/db", "postgres://[::1/secret", "postgres://%zz/secret",
		"postgres://h/db?secret", "postgres://h/db?x=%s", "postgres://[secret]/db", "postgres://[::1]secret/db", "postgres://h/d%00secret",
	} {
		_, err := ParseConnInfo(text)
		require.ErrorIs(t, err, ErrSyntax, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestConnInfoHidesThePassword(t *testing.T) {
	t.Parallel()
	for text, masked := range map[string]string{
		"host=h password=s3cr3t":         "host=h password=****",
		"postgres://u:s3cr3t@h:1/d":      "postgres://u:****@h:1/d",
		"postgres://h/d?password=s3cr3t": "postgres://:****@h/d",
	} {
		c, err := ParseConnInfo(text)
		require.NoError(t, err)
		require.Equal(t, masked, c.String())
		require.Equal(t, "s3cr3t", c.Get("password"))
		require.Contains(t, c.DSN(), "s3cr3t")
		require.Contains(t, c.URI(), "s3cr3t")
		var log strings.Builder
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("message", "conninfo", c, "inside", struct{ C ConnInfo }{c})
		}
		private := struct{ c ConnInfo }{c}
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			fmt.Fprintf(&log, format+" "+format+"\n", c, private)
		}
		require.NotContains(t, log.String(), "s3cr3t")
		require.NotContains(t, c.With("password", "").DSN(), "password")
	}
}

func TestConnInfoWith(t *testing.T) {
	t.Parallel()
	c := NewConnInfo("host", "a", "port", "", "user", "u")
	require.Equal(t, "host=a user=u", c.DSN())
	d := c.With("host", "b").With("dbname", "d")
	require.Equal(t, "host=a user=u", c.DSN(), "the original stays")
	require.Equal(t, "host=b user=u dbname=d", d.DSN())
	require.Equal(t, "user=u dbname=d", d.With("host", "").DSN())
	require.True(t, ConnInfo{}.IsZero())
	require.Equal(t, ConnInfo{}, NewConnInfo("host", "a").With("host", ""))
	require.False(t, ConnInfo{}.With("password", "x").IsZero())
	require.Equal(t, "port=1 host=10.0.0.1", NewConnInfo("hostaddr", "10.0.0.1", "port", "1", "load_balance_hosts", "random").DriverDSN())
	require.Equal(t, "host=h", NewConnInfo("host", "h", "hostaddr", "10.0.0.1").DriverDSN())
	require.Equal(t, "host=h sslmode=verify-ca", NewConnInfo("host", "h", "sslmode", "verify-ca", "sslcrl", "f", "keepalives", "1").DriverDSN())
	m, err := ParseConnInfo("postgres://a:1,b,c:3/d")
	require.NoError(t, err)
	require.Equal(t, []HostPort{{"a", "1"}, {"b", "5432"}, {"c", "3"}}, m.Hosts())
	require.Equal(t, "postgres://a:1,b,c:3/d", m.URI())
	require.Equal(t, []HostPort{{"a", "7"}, {"b", "7"}}, NewConnInfo("host", "a,b", "port", "7").Hosts())
}

func TestConnInfoIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c ConnInfo
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			c = c.With(rapid.StringMatching(`[a-z_]{1,6}`).Draw(t, "key"), rapid.StringMatching(`[ -~\t]{0,8}`).Draw(t, "value"))
		}
		c = c.With("host", "").With("port", "")
		again, err := ParseConnInfo(c.DSN())
		require.NoError(t, err)
		require.Equal(t, c, again)
		uri, err := ParseConnInfo(c.With("host", "h").URI())
		require.NoError(t, err)
		for _, p := range c.params {
			require.Equal(t, p.value, uri.Get(p.key), c.With("host", "h").URI())
		}
	})
}

func FuzzParseConnInfo(f *testing.F) {
	f.Add("host=a password='b c'")
	f.Add("postgres://u:p@[::1]:5432,b/db?x=y")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConnInfo(text)
		if err != nil {
			return
		}
		again, err := ParseConnInfo(c.DSN())
		require.NoError(t, err)
		require.Equal(t, c.DSN(), again.DSN())
		if p := c.Get("password"); len(p) > 20 {
			require.NotContains(t, c.With("host", "").With("user", "").String(), p)
		}
	})
}

func FuzzParseStandbyNames(f *testing.F) {
	f.Add(`ANY 1 (a, "b")`)
	f.Fuzz(func(t *testing.T, text string) {
		names, err := ParseStandbyNames(text)
		if err != nil {
			return
		}
		again, err := ParseStandbyNames(names.String())
		require.NoError(t, err)
		require.True(t, names.Equal(again))
	})
}

func FuzzParseLSN(f *testing.F) {
	f.Add("0/16B3748")
	f.Fuzz(func(t *testing.T, text string) {
		lsn, err := ParseLSN(text)
		if err != nil {
			return
		}
		again, err := ParseLSN(lsn.String())
		require.NoError(t, err)
		require.Equal(t, lsn, again)
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), "1\t0/3000\tx\n2\t0/5000\ty\n")
	f.Fuzz(func(t *testing.T, tli uint32, text string) {
		h, err := ParseHistory(Timeline(tli), text)
		if err != nil {
			return
		}
		require.Equal(t, Timeline(tli), h.TLI())
		for i := 1; i < len(h); i++ {
			require.Greater(t, h[i].TLI, h[i-1].TLI)
			require.GreaterOrEqual(t, h[i].Switch, h[i-1].Switch)
		}
	})
}

func FuzzParseControlData(f *testing.F) {
	f.Add(controlText)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = ParseControlData(text) })
}

package pg

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHBARule(t *testing.T) {
	t.Parallel()
	for want, rule := range map[string]HBARule{
		`host "app db" "o""k" 10.0.0.0/8 md5 ` + Marker:                              {"host", "app db", `o"k`, "10.0.0.0/8", "md5", ""},
		`hostssl replication "pgautofailover_replicator" node1 cert map=m ` + Marker: {"hostssl", "replication", ReplicationRole, "node1", "cert", "map=m"},
		`local all all trust ` + Marker:                                              {"local", "all", "all", "", "trust", ""},
	} {
		require.Equal(t, want, rule.Line())
	}
	for host, want := range map[string]string{"10.0.0.1": "10.0.0.1/32", "::1": "::1/128", "10.0.0.0/8": "10.0.0.0/8", "node1": "node1"} {
		require.Equal(t, want, HBAAddress(host))
	}
}

const hbaImage = `# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust
host    all             all             127.0.0.1/32            trust
host    replication     all             ::1/128                 reject
`

func TestEnsureHBARules(t *testing.T) {
	t.Parallel()
	rules := []HBARule{
		{"host", "replication", ReplicationRole, "node2", "trust", ""},
		{"host", "db", ReplicationRole, "node2", "trust", ""},
	}
	image, changed := EnsureHBARules(hbaImage, rules...)
	require.True(t, changed)
	require.Equal(t, hbaImage+rules[0].Line()+"\n"+rules[1].Line()+"\n", image)
	again, changed := EnsureHBARules(image, rules...)
	require.False(t, changed)
	require.Equal(t, image, again)
	// A rule that only begins alike is another rule.
	longer := rules[0]
	longer.Method = "trustx"
	_, changed = EnsureHBARules(strings.TrimRight(image, "\n"), longer)
	require.True(t, changed)
	image, _ = EnsureHBARules("local all all trust", rules[0])
	require.Equal(t, "local all all trust\n"+rules[0].Line()+"\n", image)
	// One that would become two.
	longer.Address = "10.0.0.1/32 trust\nhost all all 0.0.0.0/0"
	image, changed = EnsureHBARules(hbaImage, longer)
	require.False(t, changed)
	require.Equal(t, hbaImage, image)
}

func TestPlainHost(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "n-1.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "with_underscore"} {
		require.True(t, PlainHost(host), host)
	}
	for _, host := range []string{"", "0.0.0.0/0", "all", "samenet", "a b", "a\nb", `"a"`, "a,b", "a#", "/tmp", strings.Repeat("a", 254)} {
		require.False(t, PlainHost(host), host)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	local := GateLocal{User: "postgres", Map: "gate"}
	image := hbaImage + "host all +admins,other 10.0.0.1/32 md5\n" +
		"hostssl \\\n app \"x\", \"pgautofailover_monitor\" ,y 10.0.0.2/32 scram-sha-256 clientcert=verify-ca # note\n" +
		"include other.conf\nnonsense\n"
	closed := CloseGate(image, local)
	require.True(t, GateClosed(closed))
	require.Equal(t, image, OpenGate(closed))
	gate := strings.TrimSuffix(closed, image)
	require.Equal(t, []string{
		gateBegin,
		`local all "postgres" peer map=gate`,
		`local all "pgautofailover_replicator","pgautofailover_monitor" trust`,
		`host all "pgautofailover_replicator","pgautofailover_monitor" 127.0.0.1/32 trust`,
		`host replication "pgautofailover_replicator","pgautofailover_monitor" ::1/128 reject`,
		`hostssl app "pgautofailover_monitor" 10.0.0.2/32 scram-sha-256 clientcert=verify-ca`,
		"local all all reject", "local replication all reject", "host all all all reject", "host replication all all reject",
		gateEnd, "",
	}, strings.Split(gate, "\n"))
	require.Equal(t, closed, CloseGate(closed, local), "closing twice is closing once")
	require.Equal(t, image, OpenGate(image))

	// A node that registers while the gate is closed gets through it.
	rule := HBARule{"host", "replication", ReplicationRole, "node9", "trust", ""}
	renewed, changed := EnsureHBARules(closed, rule)
	require.True(t, changed)
	require.Contains(t, strings.SplitN(renewed, gateEnd, 2)[0], `host replication "pgautofailover_replicator" node9 trust`)
	require.Equal(t, image+rule.Line()+"\n", OpenGate(renewed))
	require.Contains(t, renewed, `local all "postgres" peer map=gate`)

	// Half a gate is not taken for one.
	require.False(t, GateClosed(gateBegin+"\nlocal all all reject\n"))
}

func TestGateIsUndoneExactly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		image := rapid.StringMatching(`([a-z"#,+ \\]{0,20}\n){0,6}[a-z ]{0,5}`).Draw(t, "image")
		closed := CloseGate(image, GateLocal{User: rapid.StringMatching(`[a-z" ,#]{1,6}`).Draw(t, "user"), Map: "gate"})
		require.True(t, GateClosed(closed))
		require.Equal(t, image, OpenGate(closed))
		renewed, _ := EnsureHBARules(closed, HBARule{"host", "db", MonitorRole, "h", "md5", ""})
		require.Equal(t, strings.Split(closed, "\n")[1], strings.Split(renewed, "\n")[1], "our own way in stays")
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	settings, err := ParseSettings("# comment\n\n a = 1\nB 'it''s \\101\\n' # note\r\nc=on#x\ninclude 'file.conf'\nx.y = ''\na = 2\n")
	require.NoError(t, err)
	require.Equal(t, Settings{{"a", "1"}, {"B", "it's A\n"}, {"c", "on"}, {"include", "file.conf"}, {"x.y", ""}, {"a", "2"}}, settings)
	value, ok := settings.Get("A")
	require.True(t, ok)
	require.Equal(t, "2", value)
	_, ok = settings.Get("d")
	require.False(t, ok)
	for _, text := range []string{"a", "a =", "= 1", "a = 'x", "a = 1 2", "a b c", "a = 'x\ny'"} {
		_, err := ParseSettings(text)
		require.ErrorIs(t, err, ErrSyntax, text)
	}
	require.Equal(t, "a = 1\nb = on\nc = '8 GB'\nd = ''\ne = '0.08'\nf = '30s'\n",
		Settings{{"a", "1"}, {"b", "on"}, {"c", "8 GB"}, {"d", ""}, {"e", "0.08"}, {"f", "30s"}}.Render())
}

func TestEnsureInclude(t *testing.T) {
	t.Parallel()
	image, changed := EnsureInclude("port = 1\n", "postgresql-auto-failover.conf")
	require.True(t, changed)
	require.Equal(t, "include 'postgresql-auto-failover.conf' # Auto-generated by pg_auto_failover, do not remove\nport = 1\n", image)
	again, changed := EnsureInclude(image, "postgresql-auto-failover.conf")
	require.False(t, changed)
	require.Equal(t, image, again)
	two, changed := EnsureInclude(image, "postgresql-auto-failover-standby.conf")
	require.True(t, changed)
	require.Equal(t, 3, strings.Count(two, "\n"))
}

func TestEnsureLine(t *testing.T) {
	t.Parallel()
	line := IdentLine("m", `os "user"`, "role")
	require.Equal(t, `m "os ""user""" "role" `+Marker, line)
	image, changed := EnsureLine("# x", line)
	require.True(t, changed)
	require.Equal(t, "# x\n"+line+"\n", image)
	_, changed = EnsureLine(image, line)
	require.False(t, changed)
}

func TestSettingsAreReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var settings Settings
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			settings = append(settings, Setting{
				rapid.StringMatching(`[a-z_][a-z0-9_.]{0,8}`).Draw(t, "name"), rapid.StringMatching(`[ -~\n]{0,10}`).Draw(t, "value"),
			})
		}
		again, err := ParseSettings(settings.Render())
		require.NoError(t, err)
		require.Equal(t, settings, again)
	})
}

func FuzzParseSettings(f *testing.F) {
	f.Add("a = 'b\\'c' # d\n")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := ParseSettings(text)
		if err != nil {
			return
		}
		again, err := ParseSettings(settings.Render())
		require.NoError(t, err)
		require.Equal(t, settings, again)
	})
}

func FuzzGate(f *testing.F) {
	f.Add(hbaImage)
	f.Add(`host "a`)
	f.Fuzz(func(t *testing.T, image string) {
		if GateClosed(image) {
			return
		}
		closed := CloseGate(image, GateLocal{User: "u", Map: "m"})
		require.Equal(t, image, OpenGate(closed))
		require.Equal(t, closed, CloseGate(closed, GateLocal{User: "u", Map: "m"}))
	})
}

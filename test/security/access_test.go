package security

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// The passwords of a group; words that nothing else contains.
const (
	nodePassword        = "Autoctl+Nodes%4711"
	nodePasswordURI     = "Autoctl%2BNodes%254711"
	replicationPassword = "Stream'ing\"4712"
	clientPassword      = "Client4713"
)

// scheme is one way to let members in.
type scheme struct {
	name string
	// access prepares a group on these hosts.
	access func(t *testing.T, net *pgtest.Network) group.Access
	// method is how members prove who they are, ssl whether they do it encrypted.
	method string
	ssl    bool
	// lan says that our own rules let the applications of the network in; skip,
	// that we write no rules at all.
	lan, skip bool
	// long schemes wait for somebody who has time.
	long bool
}

// schemesVar asks for all schemes: PGDROVER_TEST_SCHEMES=all.
const schemesVar = "PGDROVER_TEST_SCHEMES"

func (s scheme) passwords() bool { return s.method == "md5" || s.method == "scram-sha-256" }

// options of a creation, which are the same for all members but for a few.
func options(auth string, ssl func(m *group.Member) []string) func(m *group.Member) []string {
	return func(m *group.Member) []string {
		all := append([]string{"--auth", auth}, ssl(m)...)
		switch {
		case auth != "md5" && auth != "scram-sha-256":
		case m.Name == "monitor":
			all = append(all, "--autoctl-node-password", nodePassword)
		default:
			all = append(all, "--replication-password", replicationPassword)
		}
		return all
	}
}

// certified gives each host a certificate of the authority's.
func certified(t *testing.T, ca *authority, net *pgtest.Network, mode string) func(m *group.Member) []string {
	t.Helper()
	for _, h := range net.Hosts() {
		ca.sign(t, h.Name, h.Name, h.IP.AsSlice())
	}
	return func(m *group.Member) []string {
		file := func(ending string) string { return filepath.Join(ca.dir, m.Name+ending) }
		return []string{"--ssl-ca-file", ca.root(), "--server-cert", file(".crt"), "--server-key", file(".key"), "--ssl-mode", mode}
	}
}

func schemes() []scheme {
	return []scheme{
		{
			name: "self-signed, scram", method: "scram-sha-256", ssl: true,
			access: func(*testing.T, *pgtest.Network) group.Access {
				return group.Access{
					Options: options("scram-sha-256", func(*group.Member) []string { return []string{"--ssl-self-signed"} }),
					Monitor: "?sslmode=require", Password: nodePasswordURI,
					Client: "user=app sslmode=require password=" + clientPassword,
				}
			},
		}, {
			name: "own authority, verify-full, client certificates", method: "cert", ssl: true,
			access: func(t *testing.T, net *pgtest.Network) group.Access {
				t.Helper()
				ca := newAuthority(t)
				cert, key := ca.sign(t, "client", "autoctl_node", nil)
				appCert, appKey := ca.sign(t, "app", "app", nil)
				return group.Access{
					Options: options("cert", certified(t, ca, net, "verify-full")),
					Monitor: "?sslmode=verify-full&sslrootcert=" + ca.root(),
					Env:     []string{"PGSSLCERT=" + cert, "PGSSLKEY=" + key, "PGSSLROOTCERT=" + ca.root()},
					Client:  fmt.Sprintf("user=app sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s", ca.root(), appCert, appKey),
				}
			},
		}, {
			name: "own authority, verify-ca, md5", method: "md5", ssl: true, long: true,
			access: func(t *testing.T, net *pgtest.Network) group.Access {
				t.Helper()
				ca := newAuthority(t)
				return group.Access{
					Options: options("md5", certified(t, ca, net, "verify-ca")),
					Monitor: "?sslmode=verify-ca&sslrootcert=" + ca.root(), Password: nodePasswordURI,
					Client: fmt.Sprintf("user=app sslmode=verify-ca sslrootcert=%s password=%s", ca.root(), clientPassword),
				}
			},
		}, {
			name: "no SSL, scram, the whole network", method: "scram-sha-256", lan: true,
			access: func(*testing.T, *pgtest.Network) group.Access {
				return group.Access{
					Options: options("scram-sha-256", func(m *group.Member) []string {
						if m.Name == "monitor" {
							return []string{"--no-ssl"}
						}
						return []string{"--no-ssl", "--pg-hba-lan", "--username", "app"}
					}),
					Monitor: "?sslmode=prefer", Password: nodePasswordURI,
					Client: "user=app sslmode=disable password=" + clientPassword,
				}
			},
		}, {
			name: "the operator's own rules", method: "trust", skip: true, long: true,
			access: func(*testing.T, *pgtest.Network) group.Access {
				return group.Access{Options: func(*group.Member) []string { return []string{"--skip-pg-hba", "--no-ssl"} }}
			},
		},
	}
}

// TestAccess takes a group through its life under every scheme.
func TestAccess(t *testing.T) {
	t.Parallel()
	for _, s := range schemes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.long && os.Getenv(schemesVar) != "all" {
				t.Skipf("%s=all asks for it", schemesVar)
			}
			net := pgtest.NewNetwork(t, "monitor", "node1", "node2")
			hidden := secrets{nodePassword, nodePasswordURI, replicationPassword, strings.ReplaceAll(replicationPassword, "'", "''")}
			g := group.New(t, group.Config{
				Network: net, Access: s.access(t, net),
				// A small machine under many tests is silent for seconds by itself.
				MonitorSettings: map[string]string{"startup_grace_period": "1s", "node_considered_unhealthy_timeout": "6s", "health_check_timeout": "4s"},
			})
			titles := hidden.watch(t, g.Path(""))
			if s.skip {
				requireNoRules(t, g.Monitor)
				addRule(t, g.Monitor, "host pg_auto_failover autoctl_node samenet trust")
			}
			first := g.Create(t, "node1")
			g.WaitState(t, first, "single")
			admitClients(t, first, s)
			rules := rulesOf(t, first)
			second := g.Create(t, "node2")
			g.WaitWhole(t)
			// A creation cannot hide what it is called with before it runs.
			pgtest.Eventually(t, group.Patience, titles.now)
			first.Exec(t, s.clientRole()+"CREATE TABLE ledger (id bigint PRIMARY KEY, written timestamptz DEFAULT clock_timestamp()); GRANT SELECT, INSERT ON ledger TO app")
			w := g.Write(t, group.WriterConfig{})
			w.WaitAck(t, time.Now())
			requireStreaming(t, g, s)
			if !s.skip {
				requireRefused(t, g, s)
			}

			// The old primary dies with what its standby does not get.
			net.Cut(t, first.Host, second.Host)
			first.Exec(t, "SET synchronous_commit TO local; CREATE TABLE astray AS SELECT generate_series(1, 1000) i")
			first.KillBoth(t)
			require.Equal(t, second, g.NewPrimary(t, first))
			net.Heal(t)
			w.WaitAck(t, time.Now())
			first.Start(t)
			g.WaitWhole(t)
			require.Equal(t, "gone", first.Ask(t, "SELECT CASE WHEN to_regclass('public.astray') IS NULL THEN 'gone' ELSE 'there' END"))
			require.Contains(t, first.Log(), "lineage=diverged")
			require.NotContains(t, first.Log(), "copying the data directory", "a rewind has to do")
			requireStreaming(t, g, s)

			g.Switchover(t)
			w.WaitAck(t, time.Now())
			require.Equal(t, first, g.WaitWhole(t))
			requireStreaming(t, g, s)
			w.Stop()
			g.RequireEqual(t)
			first.RequireAll(t, w.Acks())
			group.RequireOneAtATime(t, w.Acks())

			requireQuietErrors(t, g, hidden)
			require.NoError(t, titles.error())
			hidden.requireNotReadable(t, g.Path(""))
			for _, m := range append(g.Nodes, g.Monitor) {
				require.Empty(t, hidden.in([]byte(m.Log())), "the log of %s", m.Name)
			}
			if s.passwords() {
				requireNotTold(t, g, hidden)
			}
			for _, m := range g.Nodes {
				if s.skip {
					require.Equal(t, rules, rulesOf(t, m), "the rules of %s are the operator's", m.Name)
				}
			}
		})
	}
}

// clientRole makes the role of applications, or gives it its password when a
// creation has made it.
func (s scheme) clientRole() string {
	if s.lan {
		return "ALTER ROLE app PASSWORD '" + clientPassword + "'; "
	}
	return "CREATE ROLE app LOGIN PASSWORD '" + clientPassword + "'; "
}

// admitClients lets applications in, as an operator does before there are standbys.
func admitClients(t *testing.T, m *group.Member, s scheme) {
	t.Helper()
	switch {
	case s.skip:
		requireNoRules(t, m)
		addRule(t, m, "host all,replication all samenet trust")
	case s.lan:
		require.Regexp(t, `(?m)^host "postgres" "app" 10\.77\.0\.0/24 scram-sha-256 # Auto-generated by pg_auto_failover$`, rulesOf(t, m))
	case s.ssl:
		addRule(t, m, "hostssl all app samenet "+s.method)
	}
}

func addRule(t *testing.T, m *group.Member, rule string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(m.Dir, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintln(f, rule)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	m.Exec(t, "SELECT pg_reload_conf()")
}

func rulesOf(t *testing.T, m *group.Member) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.Dir, "pg_hba.conf"))
	require.NoError(t, err)
	return string(text)
}

// requireNoRules looks for rules that we have written although we were told not
// to, and for the warning that says which are needed.
func requireNoRules(t *testing.T, m *group.Member) {
	t.Helper()
	require.NotContains(t, rulesOf(t, m), "Auto-generated")
	require.Contains(t, m.Log(), "pg_hba.conf", "the log of %s says which rules are needed", m.Name)
}

// requireStreaming looks at how the standby is connected to the primary.
func requireStreaming(t *testing.T, g *group.Group, s scheme) {
	t.Helper()
	want := fmt.Sprintf("pgautofailover_replicator ssl=%t", s.ssl)
	pgtest.Eventually(t, group.Patience, func() error {
		got := g.WaitWhole(t).Ask(t, `SELECT coalesce(string_agg(usename || ' ssl=' || ssl, ' '), '')
			FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE 'pgautofailover_standby_%'`)
		if got != want {
			return fmt.Errorf("streaming: %q, want %q", got, want)
		}
		return nil
	})
}

// requireRefused tries what somebody on a member's host may try without knowing
// the password, or without encryption.
func requireRefused(t *testing.T, g *group.Group, s scheme) {
	t.Helper()
	try := func(to *group.Member, from *group.Member, what string) {
		err := connect(t, from, fmt.Sprintf("host=%s port=%d %s", to.IP(), to.Port, what))
		answer := new(pgconn.PgError)
		require.ErrorAs(t, err, &answer, what)
		require.Contains(t, []string{"28000", "28P01"}, answer.Code, what)
		require.Empty(t, secrets{nodePassword, replicationPassword}.in([]byte(err.Error())))
	}
	mode := "disable"
	if s.ssl {
		mode = "require"
	}
	primary := g.WaitWhole(t)
	standby := g.Others(primary)[0]
	for _, what := range []string{
		"user=pgautofailover_replicator dbname=postgres password=wrong",
		"user=pgautofailover_replicator dbname=postgres replication=true password=wrong",
		"user=postgres dbname=postgres password=wrong",
	} {
		try(primary, standby, what+" sslmode="+mode)
	}
	try(g.Monitor, standby, "user=autoctl_node dbname=pg_auto_failover password=wrong sslmode="+mode)
	if s.ssl && s.passwords() { // the right password, but for everybody to read
		try(primary, standby, `user=pgautofailover_replicator dbname=postgres sslmode=disable password='Stream\'ing"4712'`)
		try(g.Monitor, standby, "user=autoctl_node dbname=pg_auto_failover sslmode=disable password="+nodePassword)
	}
	if s.passwords() {
		require.NoError(t, connect(t, standby, fmt.Sprintf(`host=%s port=%d user=pgautofailover_replicator dbname=postgres sslmode=%s password='Stream\'ing"4712'`,
			primary.IP(), primary.Port, mode)))
	}
}

func connect(t *testing.T, from *group.Member, what string) error {
	t.Helper()
	cfg, err := pgconn.ParseConfig(what)
	require.NoError(t, err)
	cfg.DialFunc = from.Host.DialContext
	cfg.ConnectTimeout = group.Patience
	conn, err := pgconn.ConnectConfig(t.Context(), cfg)
	if err == nil {
		return conn.Close(context.WithoutCancel(t.Context()))
	}
	return err
}

// requireQuietErrors makes mistakes with a password in them.
func requireQuietErrors(t *testing.T, g *group.Group, hidden secrets) {
	t.Helper()
	port := pgtest.FreePort(t)
	for _, args := range [][]string{
		{"show", "state", "--monitor", fmt.Sprintf("postgres://autoctl_node:%s@%s:%d/pg_auto_failover", nodePasswordURI, g.Monitor.IP(), port)},
		{"show", "state", "--monitor", fmt.Sprintf("postgres://autoctl_node:%s@%s:%d/nowhere?sslmode=sideways", nodePasswordURI, g.Monitor.IP(), port)},
		{"show", "state", "--monitor", "postgres://autoctl_node:" + nodePasswordURI + "@[::1"},
		{"show", "state", "--monitor", fmt.Sprintf("postgres://nobody:%s@%s:%d/pg_auto_failover?sslmode=prefer", nodePasswordURI, g.Monitor.IP(), g.Monitor.Port)},
	} {
		res := g.RunCommand(t, pgtest.Command{Args: args, Env: []string{"PGCONNECT_TIMEOUT=1"}})
		require.NotZero(t, res.Code, args)
		require.Empty(t, hidden.in([]byte(res.Stdout+res.Stderr)), "%s\n%s", args, res.Stderr)
	}
}

// requireNotTold asks what everybody who may ask the monitor can see.
func requireNotTold(t *testing.T, g *group.Group, hidden secrets) {
	t.Helper()
	for _, args := range [][]string{
		{"show", "state"}, {"show", "events"}, {"show", "settings"}, {"show", "blockers", "--formation", "default"}, {"show", "state", "--json"},
	} {
		res := g.Run(t, append(args, "--pgdata", g.Monitor.Dir)...)
		require.Empty(t, hidden.in([]byte(res.Stdout+res.Stderr)), args)
	}
	for _, m := range append(g.Nodes, g.Monitor) {
		stored := m.Ask(t, `SELECT coalesce(string_agg(rolname || ' ' || rolpassword, E'\n'), '') FROM pg_authid`)
		require.Empty(t, hidden.in([]byte(stored)))
	}
}

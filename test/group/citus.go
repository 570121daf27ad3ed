package group

import "testing"

// CreateKind starts a new node of a kind, "coordinator" or "worker", with
// further options and does not wait for anything.
func (g *Group) CreateKind(t testing.TB, kind, name string, options ...string) *Member {
	t.Helper()
	m := g.Outsider(t, name)
	args := append(m.createArgs(kind), "--name", m.Name, "--monitor", g.MonitorURI(), "--run")
	m.start(t, append(args, options...)...)
	g.Nodes = append(g.Nodes, m)
	return m
}

package watch

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/status"
)

var rewrite = flag.Bool("rewrite", false, "write the frames instead of comparing them")

// noon is when every test looks.
func noon() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func node(id int64, s fsm.State) status.Node {
	return status.Node{
		ID: id, Name: fmt.Sprintf("node_%d", id), Host: "db.example.org", Port: 5430 + int(id), Region: "default", Cluster: "default",
		Priority: 50, Quorum: true, Reported: s, Goal: s, Settled: true, Running: true, Health: fsm.HealthGood,
		Keeper: status.KeeperConnected, TLI: 2, LSN: 0x3A0_00F1_4E68, LagKnown: s == fsm.Secondary, Measure: s == fsm.Primary,
		Report: 400 * time.Millisecond, Check: 1200 * time.Millisecond, Change: time.Hour,
	}
}

func event(id int64, ago time.Duration, n int64, pos int, text string) status.Event {
	e := status.Event{ID: id, Time: noon().Add(-ago), Node: n, Name: fmt.Sprintf("node_%d", n), Description: text}
	for _, r := range fsm.RuleDocs() {
		if r.Pos == pos {
			e.Rule = status.Rule{Pos: pos, Name: r.Name, Text: r.Text}
		}
	}
	return e
}

// quiet is a formation at rest, with the history of a failover.
func quiet() status.Snapshot {
	name := func(n int) string { return fmt.Sprintf("node %d \"node_%d\" (db.example.org:%d)", n, n, 5430+n) }
	events := []status.Event{event(1, 30*time.Hour, 1, 0, "Registering "+name(1)+" to formation \"default\" with replication quorum true and candidate priority 50 [50]")}
	for i := int64(2); i < 32; i++ {
		events = append(events, event(i, time.Duration(90-i)*time.Minute, 1+i%3, 0, "New state is reported by "+name(int(1+i%3))))
	}
	events = append(events,
		event(32, 125*time.Second, 1, 391, "Setting goal state of "+name(1)+" to draining after it became unhealthy."),
		event(33, 125*time.Second, 2, 391, "Setting goal state of "+name(2)+" to report_lsn to find the failover candidate"),
		event(34, 124*time.Second, 2, 375, "Setting goal state of "+name(2)+" to prepare_promotion and 2 nodes reported their LSN position."),
		event(35, 120*time.Second, 2, 0, "New state is reported by "+name(2)+": \"primary\""),
	)
	g := status.Group{
		Primary: 2, StandbyNames: "ANY 1 (pgautofailover_standby_1, pgautofailover_standby_3)", K: 1, Voters: []int64{1, 3},
		Timeline: 2, Successor: 1, Nodes: []status.Node{node(1, fsm.Secondary), node(2, fsm.Primary), node(3, fsm.Secondary)},
		LastChange: &events[33],
	}
	g.Nodes[2].Lag = 123_456_789
	return status.Snapshot{
		Formation: "default", Kind: "pgsql", NumberSyncStandbys: 1, Taken: noon(), Deciding: true,
		Groups: []status.Group{g}, Events: events, Settings: fsm.DefaultSettings(),
	}
}

// failing is a formation whose primary died and whose election waits.
func failing() status.Snapshot {
	s := quiet()
	g := &s.Groups[0]
	g.Election, g.Successor = true, 0
	g.Waiting = `the election waits for the final report of node 3 "node_3" (db.example.org:5433); bring it back, or ` +
		"run pgdrover perform failover --allow-data-loss to go on without it"
	n := g.Nodes
	n[1].Goal, n[1].Settled, n[1].Keeper, n[1].Health, n[1].Report = fsm.Draining, false, status.KeeperLost, fsm.HealthBad, 31*time.Second
	n[0].Reported, n[0].Goal = fsm.ReportLSN, fsm.ReportLSN
	n[2].Goal, n[2].Settled, n[2].Keeper, n[2].Health, n[2].Report = fsm.ReportLSN, false, status.KeeperLost, fsm.HealthBad, 40*time.Second
	n[2].LagKnown, n[2].TLI = false, 1
	return s
}

// wide is a Citus formation of more nodes than a small screen has lines.
func wide() status.Snapshot {
	s := quiet()
	s.Kind = "citus"
	s.Groups = nil
	for i := range 4 {
		g := quiet().Groups[0]
		g.ID, g.Primary, g.Voters = i, int64(3*i+1), []int64{int64(3*i + 2), int64(3*i + 3)}
		g.Nodes = nil
		for j := range 3 {
			n := node(int64(3*i+j+1), fsm.Secondary)
			if j == 0 {
				n = node(int64(3*i+1), fsm.Primary)
			}
			n.Group = i
			n.Region = []string{"north", "south", "west"}[j]
			g.Nodes = append(g.Nodes, n)
		}
		s.Groups = append(s.Groups, g)
	}
	return s
}

// screen is a model in a terminal of a size, at noon, after some messages.
func screen(w, h int, msgs ...tea.Msg) Model {
	var m tea.Model = New("default", time.UTC, noon())
	for _, msg := range append([]tea.Msg{tea.WindowSizeMsg{Width: w, Height: h}}, msgs...) {
		m, _ = m.Update(msg)
	}
	return m.(Model)
}

func press(names ...string) []tea.Msg {
	special := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft, "right": tea.KeyRight, "pgup": tea.KeyPgUp,
		"pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd, "delete": tea.KeyDelete, "f1": tea.KeyF1, "esc": tea.KeyEscape,
	}
	var msgs []tea.Msg
	for _, name := range names {
		code, ok := special[name]
		letter, ctrl := strings.CutPrefix(name, "ctrl+")
		switch {
		case ok:
			msgs = append(msgs, tea.KeyPressMsg{Code: code})
		case ctrl:
			msgs = append(msgs, tea.KeyPressMsg{Code: rune(letter[0]), Mod: tea.ModCtrl})
		default:
			msgs = append(msgs, tea.KeyPressMsg{Code: rune(name[0]), Text: name})
		}
	}
	return msgs
}

func TestFrames(t *testing.T) {
	t.Parallel()
	show := func(s status.Snapshot, more ...tea.Msg) []tea.Msg { return append([]tea.Msg{snapshotMsg(s)}, more...) }
	gone := lostMsg{errors.New("dial tcp 10.0.0.9:5432: connect: connection refused")}
	noDecider := quiet()
	noDecider.Deciding = false
	empty := status.Snapshot{Formation: "new", Taken: noon(), Deciding: true}
	for name, msgs := range map[string][]tea.Msg{
		"nothing yet":         nil,
		"unreachable":         {gone},
		"quiet":               show(quiet()),
		"failing":             show(failing()),
		"lost":                show(quiet(), gone, clockMsg(noon().Add(7*time.Second))),
		"no monitor process":  show(noDecider),
		"empty":               show(empty),
		"node selected":       show(failing(), press("down", "j", "ctrl+n")...),
		"event selected":      show(quiet(), press("up", "k")...),
		"old event selected":  show(quiet(), press("down", "down", "down", "down", "down", "down")...),
		"scrolled to the end": show(quiet(), press("end")...),
		"citus":               show(wide()),
		"citus, last node":    show(wide(), slices.Repeat(press("down"), 12)...),
	} {
		for _, size := range [][2]int{{80, 24}, {200, 50}, {40, 10}, {130, 30}} {
			file := fmt.Sprintf("%s %dx%d.txt", name, size[0], size[1])
			t.Run(file, func(t *testing.T) {
				t.Parallel()
				m := screen(size[0], size[1], msgs...)
				view := m.View()
				require.True(t, view.AltScreen)
				lines := strings.Split(uncolour(view.Content), "\n")
				require.Len(t, lines, size[1])
				for i, line := range lines {
					require.LessOrEqual(t, width(line), size[0], line)
					lines[i] = strings.TrimRight(line, " ")
				}
				golden(t, file, strings.Join(lines, "\n")+"\n")
			})
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(strings.ReplaceAll(file, ",", ""), " ", "_"))
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "a frame changed: if that is meant, go test ./internal/watch -rewrite")
}

func TestRender(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]status.Snapshot{"quiet": quiet(), "failing": failing(), "citus": wide(), "empty": {Formation: "new", Taken: noon()}} {
		got := Render(s, time.UTC, 160)
		require.NotContains(t, got, "\x1b")
		golden(t, name+" rendered once.txt", got)
	}
}

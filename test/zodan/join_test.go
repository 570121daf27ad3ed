package zodan

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// several has transactions of one provider written side by side.
var several = map[string]string{"spock.apply_workers": "4", "max_replication_slots": "40"}

// first makes a cluster of one node with rows, which the others join.
func first(t testing.TB, name string, settings map[string]string) *node {
	t.Helper()
	return firstOf(t, newNode(t, name, settings))
}

func firstOf(t testing.TB, n *node) *node {
	t.Helper()
	n.exec(t, schema)
	n.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', %s)", n.name, quote(n.dsn())))
	n.exec(t, filled)
	return n
}

// pair makes a cluster of two.
func pair(t testing.TB, dir string, settings map[string]string) (a, b *node) {
	t.Helper()
	a = first(t, "n1", settings)
	b = newNode(t, "n2", nil)
	ready(t, a, b)
	must(t, 0, add(dir, a, b)...)
	return a, b
}

// Nodes join a cluster that is written to, with everything that can be killed
// killed on the way, and leave again. Some apply with one session, others with several.
func TestJoinsUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := pair(t, dir, several)
	c, d, e := newNode(t, "n3", several), newNode(t, "n4", nil), newNode(t, "n5", several)
	all := []*node{a, b, c, d, e}
	before := footprints(t, all...)
	leave := func(t *testing.T, nodes ...*node) {
		t.Helper()
		for _, n := range nodes {
			must(t, 0, remove(dir, n)...)
		}
		requireFootprints(t, before, all...)
		ready(t, all...)
	}
	// Each part begins where the one before has ended.
	part := func(name string, test func(t *testing.T)) {
		t.Helper()
		ready(t, all...)
		if !t.Run(name, test) {
			t.FailNow()
		}
	}
	part("the tool is killed at every step", func(t *testing.T) {
		l := startLoad(t, a, b)
		kills := killAtEachStep(t, dir, a, c)
		require.Greater(t, kills, 30)
		l.converged(t, a, b, c)
		startLoad(t, c).converged(t, a, b, c)
		leave(t, c)
	})
	part("a join is undone", func(t *testing.T) {
		l := startLoad(t, a, b)
		undoAtSteps(t, a, c, before, all)
		l.converged(t, a, b)
	})
	part("servers and engines are killed", func(t *testing.T) {
		l := startLoad(t, a, b)
		for i := range rounds(1) {
			joinWithFaults(t, dir, uint64(i), a, b, c)
			if i < rounds(1)-1 {
				leave(t, c)
			}
		}
		l.converged(t, a, b, c)
	})
	part("two join three at once, within limits, and one of them cannot", func(t *testing.T) {
		// Nobody changes what another one changes: whatever is resolved then, joining has caused.
		for _, n := range all {
			n.exec(t, "TRUNCATE spock.resolutions")
		}
		l := startLoadOf(t, habit{apart: true}, a, b, c)
		e.exec(t, "ALTER FUNCTION spock.sub_enable(name, boolean) RENAME TO hidden")
		tl := must(t, 1, append(add(dir, a, d, e), "--jobs=1", "--max-rate=20MB", "--max-source-load=50")...)
		require.Contains(t, tl.said(), "given up: n5 (J13 on node n5: function spock.sub_enable(")
		e.disconnect() // its session may have begun while the node was closed
		e.exec(t, "ALTER FUNCTION spock.hidden(name, boolean) RENAME TO sub_enable")
		requireFootprints(t, map[string]string{e.name: before[e.name]}, e)
		requireOneSnapshot(t, a, d, e)
		must(t, 0, add(dir, a, e)...)
		require.Empty(t, resolved(t, all...), "joining makes nobody resolve a conflict")
		more := startLoad(t, d, e)
		more.stop(t)
		l.writers = append(l.writers, more.writers...)
		l.converged(t, all...)
		diesAhead(t, dir, e, c, a, b, d)
		must(t, 0, remove(dir, d)...)
		must(t, 0, remove(dir, c)...)
		requireFootprints(t, before, a, b, c, d)
	})
}

// diesAhead has a node die whose last changes one of the others lacks. Its
// removal says who has how much of them, also when it is called again, and
// brings that one what it lacks.
func diesAhead(t *testing.T, dir string, dead, behind *node, others ...*node) {
	t.Helper()
	require.NoError(t, behind.engine.Signal(syscall.SIGKILL))
	behind.engine.Wait(t, patience)
	dead.exec(t, `INSERT INTO shop.item (id, who, n) VALUES (-1, 'last', 1); UPDATE shop.item SET n = -7 WHERE id = 7; DELETE FROM shop.item WHERE id = 8;
		INSERT INTO journal VALUES ('last words', 1); INSERT INTO journal VALUES ('last words', 1); UPDATE counter SET n = n + 5 WHERE id = 1;
		UPDATE contested SET who = 'last' WHERE id = 3`)
	at := dead.text(t, "SELECT spock.sync_event()")
	for _, n := range others {
		n.eventually(t, fmt.Sprintf(`SELECT max(o.remote_lsn) >= '%s' FROM spock.subscription s JOIN spock.node p ON p.node_id = s.sub_origin
			JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name::text WHERE p.node_name = '%s'`, at, dead.name), "t")
	}
	dead.disconnect()
	dead.server.Stop(t, syscall.SIGKILL)
	behind.start(t)
	behind.eventually(t, "SELECT pgdrover.engine_connected()", "t")
	behind.exec(t, "UPDATE contested SET who = 'later' WHERE id = 3")
	words := call(dir, "remove_node", "--target-node-name="+dead.name, "--survivor-dsn="+others[0].dsn())
	tl := begin(t, func(tl *tool, e event) {
		if e.Status == "running" && e.Phase == "D6" {
			tl.kill()
		}
	}, words...)
	require.Equal(t, -1, tl.wait(), tl.said())
	says := func(tl *tool, way string) {
		t.Helper()
		for _, n := range others {
			require.Regexp(t, n.name+" has the changes of "+dead.name+` up to \S+, the last one of \d{4}-[^|;]*\|`, tl.said())
		}
		require.Regexp(t, behind.name+" has the changes of "+dead.name+` up to \S+, the last one of .*; n\d has read \d+ bytes more of the log of `+dead.name+", changes may be missing; "+way, tl.said())
	}
	says(tl, "health-check --check-type=post --compare-data finds them, and SELECT spock.sub_resync_table\\('sub_n\\d_"+behind.name+"', ")
	tl = must(t, 0, append(words, "--even-out")...)
	says(tl, "its tables are copied again from there")
	all := append([]*node{behind}, others...)
	settle(t, all...)
	for _, sql := range append([]string{"SELECT * FROM journal ORDER BY node, number"}, compared...) {
		equal(t, sql, all...)
	}
	require.Equal(t, "1|-7|0|2|later", behind.text(t, `SELECT (SELECT n FROM shop.item WHERE id = -1), (SELECT n FROM shop.item WHERE id = 7),
		(SELECT count(*) FROM shop.item WHERE id = 8), (SELECT count(*) FROM journal WHERE node = 'last words'), (SELECT who FROM contested WHERE id = 3)`))
}

// resolved are the conflicts that nodes have resolved.
func resolved(t testing.TB, nodes ...*node) (all []string) {
	t.Helper()
	for _, n := range nodes {
		if text := n.text(t, "SELECT relname, conflict_type, conflict_resolution, local_origin, local_tuple, remote_origin, remote_tuple FROM spock.resolutions LIMIT 5"); text != "" {
			all = append(all, n.name+":\n"+text)
		}
	}
	return all
}

// requireOneSnapshot sees that the copies of two nodes which joined in one call
// hold the same of everybody.
func requireOneSnapshot(t testing.TB, source *node, nodes ...*node) {
	t.Helper()
	var vectors []string
	for _, n := range nodes {
		vectors = append(vectors, source.text(t, fmt.Sprintf(`SELECT string_agg(v.key || ' ' || v.value, ', ' ORDER BY v.key)
			FROM (SELECT record FROM spock.pgdrover_run WHERE target ~ '%s' ORDER BY started_at DESC LIMIT 1) r,
			jsonb_each_text(r.record -> 'variables' -> '%[1]s') v WHERE v.key ~ '^handover_'`, n.name)))
	}
	require.NotEmpty(t, vectors[0])
	for _, v := range vectors {
		require.Equal(t, vectors[0], v)
	}
}

// killAtEachStep ends the tool whenever it begins a step that it has not begun
// before, and calls it again, from one of two machines in turn. It is killed, or
// told to end as by a keyboard or a service manager.
func killAtEachStep(t testing.TB, dir string, source, n *node) (kills int) {
	t.Helper()
	begun := map[string]bool{}
	for i := 0; ; i++ {
		machine := fmt.Sprintf("%s/%d", dir, i%2)
		killed, how := false, ends[i%len(ends)]
		tl := begin(t, func(tl *tool, e event) {
			if e.Status == "running" && !begun[e.Step] && !killed {
				begun[e.Step], killed = true, true
				tl.end(how)
			}
		}, add(machine, source, n)...)
		code := tl.wait()
		if !killed {
			if code == 5 && kills > 0 { // the one before was killed when all was done
				require.Equal(t, "done", source.text(t, "SELECT state FROM spock.pgdrover_run WHERE kind = 'add_node' ORDER BY started_at DESC LIMIT 1"), tl.said())
				return kills
			}
			require.Zero(t, code, tl.said())
			return kills
		}
		tl.requireEnded(t, how)
		if kills++; code == 0 {
			return kills // it was told so while it did the last of all steps
		}
		require.Less(t, kills, 200, "it never ends: %s", tl.said())
	}
}

// undoAtSteps kills the tool at some steps, and undoes the join on another
// machine, which reaches the nodes at other addresses: only they know of it there.
func undoAtSteps(t testing.TB, source, n *node, before map[string]string, all []*node) {
	t.Helper()
	steps := []string{"J1", "J3", "J6", "J8", "J11", "J13", "J14", "J15"}
	if rounds(1) == 1 {
		steps = []string{"J3", "J8", "J14"}
	}
	for _, phase := range steps {
		tl := begin(t, func(tl *tool, e event) {
			if e.Status == "running" && e.Phase == phase {
				tl.kill()
			}
		}, add(t.TempDir(), source, n)...)
		require.Equal(t, -1, tl.wait(), tl.said())
		elsewhere := add(t.TempDir(), source, n)
		for i, word := range elsewhere { // they may have moved meanwhile
			elsewhere[i] = strings.NewReplacer(n.dsn(), n.server.DSN(database), source.dsn(), source.server.DSN(database)).Replace(word)
		}
		tl = must(t, 5, elsewhere...)
		require.Contains(t, tl.said(), "an unfinished run is another one: ")
		must(t, 0, append(elsewhere, "--rollback")...)
		requireFootprints(t, before, all...)
		ready(t, all...)
	}
}

// joinWithFaults kills the tool, an engine or a server again and again while a
// node joins; each call that fails is repeated as it was.
func joinWithFaults(t testing.TB, dir string, seed uint64, a, b, c *node) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 4))
	faults := 4 + r.IntN(3)
	for calls, began := 0, time.Now(); ; calls++ {
		if time.Since(began) > 2*patience {
			t.Fatal("it never ends")
		}
		running := make(chan struct{})
		var once sync.Once
		tl := begin(t, func(_ *tool, e event) {
			if e.Status == "running" {
				once.Do(func() { close(running) })
			}
		}, add(dir, a, c)...)
		if r.IntN(8) > 0 { // seldom among the checks
			select {
			case <-tl.ended:
			case <-running:
			}
		}
		for faults > 0 {
			select {
			case <-tl.ended:
			case <-time.After(time.Duration(r.IntN(1500)) * time.Millisecond):
			}
			faults--
			switch victim := []*node{a, b, c}[r.IntN(3)]; r.IntN(4) {
			case 0:
				tl.kill()
			case 1:
				victim.restartEngine(t)
			default:
				victim.crash(t)
			}
			if done(tl) {
				break
			}
		}
		if tl.wait() == 0 {
			t.Logf("join %d is done after %d calls", seed, calls+1)
			return
		}
		t.Logf("call %d ended with %d:\n%s", calls, tl.code, tl.stderr.String())
	}
}

func done(tl *tool) bool {
	select {
	case <-tl.ended:
		return true
	default:
		return false
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

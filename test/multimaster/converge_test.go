package multimaster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// seedVar replays one seed.
	seedVar = "MULTIMASTER_SEED"
	// seedsVar is how many seeds each convergence test takes, if not its own number.
	seedsVar = "MULTIMASTER_SEEDS"
	// sessionsVar is how many sessions apply for each subscription, if not one.
	sessionsVar = "MULTIMASTER_SESSIONS"
)

// seeds are those to run: some fixed ones, or as many fresh ones as the environment asks for.
func seeds(t testing.TB, count int) []uint64 {
	t.Helper()
	if text := os.Getenv(seedVar); text != "" {
		s, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		return []uint64{s}
	}
	base := uint64(1)
	if text := os.Getenv(seedsVar); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		count, base = n, uint64(time.Now().UnixNano())
	}
	all := make([]uint64, count)
	for i := range all {
		all[i] = base + uint64(i)
	}
	return all
}

// recording are settings under which every lost write leaves a record.
func recording() map[string]string {
	return map[string]string{"spock.save_resolutions": "on", "spock.save_remote_wins": "on", "spock.restart_delay_default": "300"}
}

// blows is how often something is killed for one seed.
const blows = 6

// convergence lets random writers loose on all nodes of a mesh while engines,
// servers, sessions and links are killed, and compares the rows; once for each
// seed, on one mesh.
func convergence(t *testing.T, count int, seeds []uint64, settings map[string]string) {
	t.Helper()
	if sessions := os.Getenv(sessionsVar); sessions != "" {
		settings["spock.apply_workers"] = sessions
	}
	nodes := mesh(t, count, playground, settings)
	var done atomic.Int64
	var writers []*writer
	for _, n := range nodes {
		writers = append(writers, &writer{n: n, done: &done})
	}
	for _, s := range seeds {
		for i, w := range writers {
			w.rand = rand.New(rand.NewPCG(s, uint64(i)))
		}
		r := rand.New(rand.NewPCG(s, 1000))
		hits := 0
		write(t, writers, 60, func() {
			for ; hits < blows; hits++ {
				pause(t.Context(), time.Duration(100+r.IntN(400))*time.Millisecond)
				strike(t, r, nodes)
			}
		})
		converge(t, writers, fmt.Sprintf("%d nodes, %s=%d", count, seedVar, s))
		t.Logf("%d nodes, seed %d: %d blows, %d transactions so far", count, s, hits, done.Load())
	}
}

// strike breaks one thing, and mends it.
func strike(t testing.TB, r *rand.Rand, nodes []*node) {
	t.Helper()
	n := nodes[r.IntN(len(nodes))]
	other := nodes[(r.IntN(len(nodes)-1)+1+index(nodes, n))%len(nodes)]
	switch r.IntN(8) {
	case 0, 1:
		n.stop(t, syscall.SIGKILL)
		n.start(t)
	case 2:
		n.crash(t)
	case 3:
		n.stop(t, syscall.SIGTERM)
		n.start(t)
	case 4, 5:
		link := n.links[other.name]
		link.Cut()
		link.Restore()
	default:
		// One of the sessions that apply or send; none may be there just now.
		_, _ = n.try(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name LIKE 'spock apply %' OR backend_type = 'walsender' ORDER BY random() LIMIT 1`)
	}
}

func index(nodes []*node, n *node) int {
	for i := range nodes {
		if nodes[i] == n {
			return i
		}
	}
	return -1
}

func TestCheck01TwoNodesConvergeUnderKills(t *testing.T) {
	t.Parallel()
	convergence(t, 2, seeds(t, 4), recording())
}

func TestCheck01ThreeNodesConvergeUnderKills(t *testing.T) {
	t.Parallel()
	convergence(t, 3, seeds(t, 4), recording())
}

func TestCheck01FourNodesConvergeUnderKills(t *testing.T) {
	t.Parallel()
	convergence(t, 4, seeds(t, 2), map[string]string{"spock.restart_delay_default": "300"})
}

// everyLostWriteIsRecorded: each node writes each key once, blind to the
// others. One write of each key survives; every other one is on record.
func everyLostWriteIsRecorded(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')", nodes...)
	const keys = 30
	nodes[0].exec(t, fmt.Sprintf("INSERT INTO t SELECT i, 'start' FROM generate_series(1, %d) i", keys))
	settle(t, nodes...)
	for _, n := range nodes {
		n.stop(t, syscall.SIGTERM)
	}
	r := rand.New(rand.NewPCG(7, 7))
	for id := range 2 * keys {
		for _, i := range r.Perm(len(nodes)) {
			n := nodes[i]
			if id < keys {
				n.exec(t, fmt.Sprintf("UPDATE t SET v = '%s wrote %d.' WHERE id = %d", n.name, id, id+1))
			} else {
				n.exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d, '%s wrote %d.')", id+1, n.name, id))
			}
		}
	}
	for _, n := range nodes {
		n.start(t)
	}
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	noExceptions(t, nodes...)
	for id := range 2 * keys {
		winner := nodes[0].text(t, fmt.Sprintf("SELECT v FROM t WHERE id = %d", id+1))
		for _, n := range nodes {
			tag := fmt.Sprintf("%s wrote %d.", n.name, id)
			if tag == winner {
				continue
			}
			found := 0
			for _, at := range nodes {
				count, err := strconv.Atoi(at.text(t, fmt.Sprintf(`SELECT count(*) FROM spock.resolutions
					WHERE CASE conflict_resolution WHEN 'apply_remote' THEN local_tuple ELSE remote_tuple END LIKE '%%%s%%'`, tag)))
				require.NoError(t, err)
				found += count
			}
			require.Positive(t, found, "nothing says that %q was lost to %q", tag, winner)
		}
	}
}

package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// TestNodeFileChanges: what is so already is not sent again.
func TestNodeFileChanges(t *testing.T) {
	t.Parallel()
	f := nodeFile{values: map[string]string{
		"postgresql.pgdata": "/n", "settings.candidate_priority": "70", "settings.replication_quorum": "no", "settings.region": "west",
	}}
	said := func(lines [][]string) string {
		var all []string
		for _, words := range lines {
			all = append(all, strings.Join(words, " "))
		}
		return strings.Join(all, "; ")
	}
	require.Empty(t, f.nodeChanges(pgautofailover.NodeRow{Priority: 70, Quorum: false, Region: "west"}))
	require.Equal(t, "set node candidate-priority --pgdata /n -- 70",
		said(f.nodeChanges(pgautofailover.NodeRow{Priority: 50, Quorum: false, Region: "west"})))
	require.Equal(t, "set node replication-quorum --pgdata /n -- false; set node region --pgdata /n -- west",
		said(f.nodeChanges(pgautofailover.NodeRow{Priority: 70, Quorum: true, Region: "default"})))
	f.values["settings.region"] = ""
	require.Empty(t, f.nodeChanges(pgautofailover.NodeRow{Priority: 70, Region: "default"}), "a region that is not named is left alone")

	f.formations = []formationWish{{name: "default", kind: "pgsql", secondary: true, standbys: "1"}, {name: "other", kind: "citus"}}
	are := []pgautofailover.Formation{{ID: "default", OptSecondary: true, NumberSyncStandbys: 1}}
	require.Equal(t, "create formation --pgdata /n --formation other --kind citus; disable secondary --pgdata /n --formation other", said(f.formationChanges(are)))
	are = append(are, pgautofailover.Formation{ID: "other"})
	require.Empty(t, f.formationChanges(are))
	are[0].OptSecondary, are[0].NumberSyncStandbys = false, 0
	require.Equal(t, "enable secondary --pgdata /n --formation default; set formation number-sync-standbys --pgdata /n --formation default -- 1", said(f.formationChanges(are)))
}

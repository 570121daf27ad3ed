package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestScenarios plays every scenario file: the traces of the manual, the
// defects that earlier programs had, and every schedule that once broke ours.
// Each is played with several sources of delays.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			s, err := ParseSchedule(string(text))
			require.NoError(t, err)
			again, err := ParseSchedule(s.String())
			require.NoError(t, err)
			require.Equal(t, s, again)
			for range 20 {
				require.Nil(t, play(t, s))
				s.Seed += 1000
			}
		})
	}
}

// TestPartitionHeals cuts the primary off and heals after each second.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	for _, kind := range []action{doIsolate, doCutMonitor, doCutPeers, doCutOffMonitor, doStop, doFreeze} {
		for _, async := range []int{0, everybody} {
			t.Run(fmt.Sprintf("%s/async=%d", actionNames[kind], async), func(t *testing.T) {
				t.Parallel()
				for second := range 61 {
					for nodes := 2; nodes <= 3; nodes++ {
						s := Schedule{Setup: Setup{
							Seed: uint64(second), Nodes: nodes, NSS: -1, Async: async, Fair: true,
							Priorities: [6]int{50, 50, 50, 50, 50, 50},
						}}
						s.Ops = []Op{{Wait: 3 * time.Second, Do: kind, A: 1}, {Wait: time.Duration(second) * time.Second, Do: doRepair}}
						require.Nil(t, play(t, s))
					}
				}
			})
		}
	}
}

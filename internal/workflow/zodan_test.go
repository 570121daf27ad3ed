package workflow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// outline is a plan as a list of phase, node and description.
func outline(steps []workflow.Step) []string {
	var lines []string
	for _, s := range steps {
		lines = append(lines, fmt.Sprintf("%s %s: %s", s.Phase, s.Node, s.Description))
	}
	return lines
}

func joining() workflow.Joining {
	sets := []string{"default", "ddl_sql"}
	return workflow.Joining{
		Run: "add-n-4", Owner: "root@there",
		Source: workflow.Member{Name: "n1", DSN: "host=one dbname=d", Sets: sets},
		New: []workflow.Newcomer{{
			Member: workflow.Member{Name: "n-4", DSN: "host=four dbname=d", Bare: true}, Slots: []string{"slot2", "slot3"},
			SkipSchemas: []string{"ext"}, Location: "NY", Info: `{"a": "b | c"}`,
		}},
		Replicas: []workflow.Member{{Name: "n2", DSN: "host=two dbname=d", Sets: sets}, {Name: "n3", DSN: "host=three dbname=d", Sets: sets}},
	}
}

func TestAddNodePlan(t *testing.T) {
	t.Parallel()
	steps := workflow.AddNode(joining())
	require.Equal(t, []string{
		"J1 n1: Keep definitions as they are on n1", "J1 n2: Keep definitions as they are on n2",
		"J1 n3: Keep definitions as they are on n3", "J1 n-4: Keep definitions as they are on n-4",
		"J2 n-4: Note what n-4 holds", "J2 n-4: Close n-4 to writers", "J2 n-4: Create node n-4",
		"J3 n2: Create slot slot2 on n2", "J3 n3: Create slot slot3 on n3",
		"J4 n-4: Create disabled subscription sub_n2_n_4 on n-4", "J4 n-4: Create disabled subscription sub_n3_n_4 on n-4",
		"J5 n2: Write a mark on n2", "J5 n3: Write a mark on n3",
		"J5 n1: Wait until n1 has the changes of n2", "J5 n1: Wait until n1 has the changes of n3",
		"J6 n1: Note the definitions on n1", "J6 n2: Note the definitions on n2", "J6 n3: Note the definitions on n3",
		"J6 n-4: Create subscription sub_n1_n_4 on n-4",
		"J8 n-4: Copy structure and data from n1 to n-4",
		"J9 n1: Take the digest of the tables on n1", "J9 n-4: Compare the tables on n-4 with it",
		"J9 n1: Read which materialized views of n1 are filled", "J9 n-4: Fill the materialized views of n-4",
		"J10 n1: Read the replication sets of n1", "J10 n-4: Give n-4 the same replication sets",
		"J11 n-4: Read how far the copy holds the changes of n2", "J11 n-4: Read how far the copy holds the changes of n3",
		"J12 n1: Write a mark on n1", "J12 n-4: Wait until n-4 has the changes of n1",
		"J13 n1: See that definitions on n1 have not changed", "J13 n2: See that definitions on n2 have not changed",
		"J13 n3: See that definitions on n3 have not changed",
		"J13 n2: Move slot slot2 to where the copy ends", "J13 n3: Move slot slot3 to where the copy ends",
		"J13 n-4: Begin the changes of n2 where the copy ends", "J13 n-4: Begin the changes of n3 where the copy ends",
		"J13 n-4: Enable subscription sub_n2_n_4", "J13 n-4: Enable subscription sub_n3_n_4",
		"J13 n2: Write a mark on n2", "J13 n3: Write a mark on n3",
		"J13 n-4: Wait until n-4 has the changes of n2", "J13 n-4: Wait until n-4 has the changes of n3",
		"J14 n1: Create subscription sub_n_4_n1 on n1", "J14 n2: Create subscription sub_n_4_n2 on n2", "J14 n3: Create subscription sub_n_4_n3 on n3",
		"J14 n1: Wait until subscription sub_n_4_n1 replicates", "J14 n2: Wait until subscription sub_n_4_n2 replicates",
		"J14 n3: Wait until subscription sub_n_4_n3 replicates",
		"J14 n-4: Write a mark on n-4", "J14 n1: Wait until n1 has the changes of n-4", "J14 n2: Wait until n2 has the changes of n-4",
		"J14 n3: Wait until n3 has the changes of n-4",
		"J15 n1: Wait until all subscriptions of n1 replicate", "J15 n2: Wait until all subscriptions of n2 replicate",
		"J15 n3: Wait until all subscriptions of n3 replicate", "J15 n-4: Wait until all subscriptions of n-4 replicate",
		"J15 n1: Read the sequences of n1", "J15 n-4: Move the sequences of n-4 past them",
		"J16 n-4: Open n-4 to writers",
		"J16 n1: Let definitions change on n1", "J16 n2: Let definitions change on n2", "J16 n3: Let definitions change on n3",
		"J16 n-4: Let definitions change on n-4",
	}, outline(steps))
}

// Every step's statement is whole, and needs no variable that none before has set.
func TestAddNodePlanIsWhole(t *testing.T) {
	t.Parallel()
	steps := workflow.AddNode(joining())
	isNode := func(name string) bool { return name == "n1" || name == "n2" || name == "n3" || name == "n-4" }
	vars := workflow.Variables{}
	for _, s := range steps {
		for _, r := range s.Reads(isNode) {
			_, ok := vars.Get(r.Node, r.Key)
			require.True(t, ok, "%s: %s", s.Description, r)
		}
		statement, err := s.Statement(isNode, vars, false)
		require.NoError(t, err, s.Description)
		require.NotContains(t, statement.String(), "${", s.Description)
		keys, _ := s.Writes()
		for _, label := range strings.Split(s.SQL, " AS ")[1:] {
			name, _, _ := strings.Cut(label, ",")
			keys = append(keys, strings.TrimSpace(strings.SplitN(name, "\n", 2)[0]))
		}
		for _, key := range keys {
			value := "0/1"
			vars.Set(s.Node, key, &value)
		}
		if s.Parallel != 0 {
			require.Equal(t, steps[s.Number-1].Parallel, s.Parallel)
		}
	}
}

func TestAddNodePlanForTwo(t *testing.T) {
	t.Parallel()
	j := joining()
	j.Replicas, j.New[0].Slots, j.Source.Bare, j.Bare = nil, nil, true, true
	lines := outline(workflow.AddNode(j))
	require.Equal(t, "J2 n1: Create node n1", lines[0])
	require.NotContains(t, strings.Join(lines, "\n"), "J3")
	require.NotContains(t, strings.Join(lines, "\n"), "J13")
	for _, s := range workflow.AddNode(j) {
		if s.Phase != "J14" && s.Phase != "J15" {
			require.Zero(t, s.Parallel, s.Description)
		}
		require.NotContains(t, s.SQL, "pgdrover.", "Spock's interface is enough")
	}
}

// Two that join at once also follow each other, before either is opened.
func TestAddTwoNodesPlan(t *testing.T) {
	t.Parallel()
	j := joining()
	second := j.New[0]
	second.Name, second.DSN, second.Slots, second.SourceSlot = "n5", "host=five dbname=d", []string{"slot2b", "slot3b"}, "slot1b"
	j.New[0].SourceSlot = "slot1"
	j.New = append(j.New, second)
	steps := workflow.AddNode(j)
	lines := outline(steps)
	at := func(line string) int {
		i := slices.Index(lines, line)
		require.GreaterOrEqual(t, i, 0, line)
		return i
	}
	require.Less(t, at("J3 n3: Create slot slot3b on n3"), at("J5 n2: Write a mark on n2"))
	require.Less(t, at("J14 n5: Create subscription sub_n_4_n5 on n5"), at("J16 n5: Open n5 to writers"))
	require.Less(t, at("J14 n-4: Create subscription sub_n5_n_4 on n-4"), at("J16 n-4: Open n-4 to writers"))
	require.Less(t, at("J14 n5: Wait until n5 has the changes of n-4"), at("J16 n-4: Open n-4 to writers"))

	// They copy one snapshot, behind which the source keeps everything for each of them.
	hold := at("J6 n1: Hold one snapshot of n1 for all copies")
	require.Less(t, at("J5 n1: Wait until n1 has the changes of n3"), hold)
	require.Less(t, at("J6 n1: Create slot slot1 on n1"), hold)
	require.Less(t, at("J6 n1: Create slot slot1b on n1"), hold)
	require.Less(t, hold, at("J6 n5: Let n5 copy that snapshot"))
	require.Less(t, at("J6 n5: Let n5 copy that snapshot"), at("J6 n5: Create subscription sub_n1_n5 on n5"))
	require.Less(t, at("J8 n5: Copy structure and data from n1 to n5"), at("J8 n1: Let go of the snapshot of n1"))
	require.Contains(t, steps[at("J6 n5: Let n5 copy that snapshot")].Undo, "RESET pgdrover.copy_snapshot")

	// What is of use for one of them alone says so: it is left out when that one is given up.
	for _, s := range steps {
		switch {
		case s.Node == "n5" && strings.Contains(s.Description, "n_4") || s.Node == "n-4" && strings.Contains(s.Description, "n5"):
			require.ElementsMatch(t, []string{"n-4", "n5"}, s.For, s.Description)
		case s.Node == "n5":
			require.Contains(t, s.For, "n5", s.Description)
		case s.Node == "n1" && strings.HasPrefix(s.Description, "Write a mark"):
			require.Empty(t, s.For, s.Description)
		}
	}
	j.Bare = true
	require.NotContains(t, strings.Join(outline(workflow.AddNode(j)), "\n"), "snapshot", "other engines make their own")
}

func TestRemoveNodePlan(t *testing.T) {
	t.Parallel()
	l := workflow.Leaving{
		Target: workflow.Member{Name: "n3"}, Peers: []workflow.Member{{Name: "n1"}, {Name: "n2"}},
		Links: []workflow.Link{
			{Name: "a", Provider: "n3", Subscriber: "n1"},
			{Name: "b", Provider: "n1", Subscriber: "n3"},
			{Name: "c", Provider: "n1", Subscriber: "n2"},
		},
		Slots: map[string][]string{"n1": {"x"}, "n2": {"y"}},
	}
	require.Equal(t, []string{
		"D1 n3: Write a mark on n3", "D1 n1: Wait until n1 has the changes of n3", "D2 n1: Drop subscription a on n1",
		"D3 n3: Drop subscription b on n3", "D4 n1: Drop slot x on n1 if it is left", "D4 n2: Drop slot y on n2 if it is left",
		"D5 n3: Drop node n3", "D6 n1: Forget node n3 on n1", "D6 n2: Forget node n3 on n2",
		"D7 n1: See that nothing on n1 refers to n3", "D7 n2: See that nothing on n2 refers to n3",
	}, outline(workflow.RemoveNode(l)))
	l.Fenced, l.Purge = true, "add-n3"
	lines := outline(workflow.RemoveNode(l))
	require.Equal(t, "D1 n3: Close n3 to writers", lines[0])
	require.Less(t, slices.Index(lines, "D5 n3: Open n3 to writers"), slices.Index(lines, "D5 n3: Drop node n3"))
	require.Less(t, slices.Index(lines, "D5 n3: Drop node n3"), slices.Index(lines, "D5 n3: Drop what was copied to n3"))
	l.Dead = true
	require.Equal(t, []string{
		"D1 n1: End subscription a on n1", "D1 n1: Read how far n1 has the changes of n3", "D1 n1: See whether n1 has all that others have of n3",
		"D2 n1: Drop subscription a on n1", "D4 n1: Drop slot x on n1 if it is left", "D4 n2: Drop slot y on n2 if it is left",
		"D6 n1: Forget node n3 on n1", "D6 n2: Forget node n3 on n2",
		"D6 n1: Forget the runs of n3 on n1", "D6 n2: Forget the runs of n3 on n2",
		"D7 n1: See that nothing on n1 refers to n3", "D7 n2: See that nothing on n2 refers to n3",
		"D7 n1: See that no slot on n1 keeps WAL for n3", "D7 n2: See that no slot on n2 keeps WAL for n3",
	}, outline(workflow.RemoveNode(l)))
	l.DropLeft, l.Own = true, map[string][]string{"n1": {"mine"}}
	steps := workflow.RemoveNode(l)
	require.Contains(t, outline(steps), "D4 n2: Drop the slots on n2 that nobody reads")
	for _, s := range steps {
		if s.Description == "Drop the slots on n1 that nobody reads" {
			require.Contains(t, s.SQL, `r.slot_name <> ALL ('{"mine"}'::name[])`)
		}
	}
}

// Rows that go into tables which were there are taken out again by an undo, and
// no schema of the new node is left out; limits are lifted when the copy is done;
// another release calls the position otherwise.
func TestAddNodePlanVariants(t *testing.T) {
	t.Parallel()
	j := joining()
	j.OnlyData, j.Tables, j.Limits = true, []string{"public.t"}, "jobs=2"
	steps := workflow.AddNode(j)
	lines := outline(steps)
	noted := slices.Index(lines, "J2 n-4: Note which tables of n-4 get rows")
	require.Less(t, noted, slices.Index(lines, "J2 n-4: Create node n-4"), "undone after the node is gone")
	require.Contains(t, steps[noted].Undo, `'{"public.t"}'`)
	require.Less(t, slices.Index(lines, "J2 n-4: Limit the copy to n-4 (jobs=2)"), slices.Index(lines, "J6 n-4: Create subscription sub_n1_n_4 on n-4"))
	require.Less(t, slices.Index(lines, "J8 n-4: Copy structure and data from n1 to n-4"), slices.Index(lines, "J8 n-4: Lift the limits of the copy to n-4"))
	for _, s := range steps {
		require.Equal(t, s.Type == workflow.TypeWait, s.Trouble != "", "whoever waits hears of the engine's errors")
	}
	j = joining()
	j.CreateRoles = true
	steps = workflow.AddNode(j)
	created := slices.Index(outline(steps), "J2 n-4: Create them on n-4")
	require.Equal(t, created+1, slices.Index(outline(steps), "J2 n-4: Note what n-4 holds"), "they go when nothing is theirs any more")
	require.Contains(t, steps[created].Undo, "pgdrover.drop_roles('${n-4}.lacking_roles'::jsonb)")
	j = joining()
	j.Bare = true
	for _, s := range workflow.AddNode(j) {
		require.Empty(t, s.Trouble, "Spock's engine has no such table")
	}
	j = joining()
	j.Position = "remote_commit_lsn"
	for _, s := range workflow.AddNode(j) {
		require.NotContains(t, s.SQL, "p.remote_lsn")
	}
}

func TestSubscriptionName(t *testing.T) {
	t.Parallel()
	require.Equal(t, "sub_n1_n2", workflow.SubscriptionName("n1", "n2"))
	require.Equal(t, "sub_datacenter_east_1_n_3", workflow.SubscriptionName("Datacenter-East-1", "N 3"))
}

// What was left goes before anything is made: subscriptions before the nodes and
// slots that they use.
func TestAdoptStalePlan(t *testing.T) {
	t.Parallel()
	j := joining()
	j.Stale = []workflow.Leftover{
		{Kind: workflow.LeftOrigin, Name: "o", Node: "n-4"},
		{Kind: workflow.LeftSlot, Name: "s", Node: "n1"},
		{Kind: workflow.LeftNode, Name: "n-4", Node: "n-4"},
		{Kind: workflow.LeftSubscription, Name: "sub", Node: "n-4"},
	}
	for _, bare := range []bool{false, true} {
		j.Bare = bare
		lines := outline(workflow.AddNode(j))
		first := slices.Index(lines, "J2 n-4: Drop subscription sub on n-4, which was left")
		require.Equal(t, []string{
			"J2 n-4: Drop subscription sub on n-4, which was left", "J2 n-4: Drop node n-4 on n-4, which was left",
			"J2 n1: Drop slot s on n1, which was left", "J2 n-4: Drop origin o on n-4, which was left",
		}, lines[first:first+4])
		require.Less(t, first, slices.Index(lines, "J2 n-4: Create node n-4"))
		if !bare {
			require.Less(t, first, slices.Index(lines, "J2 n-4: Close n-4 to writers"))
		}
		for _, s := range workflow.AddNode(j) {
			if bare {
				require.NotContains(t, s.SQL+s.Undo, "pgdrover.", "%s", s.Description)
			}
		}
	}
}

// Of a dead node it is read how far each of its followers has its changes, before
// the subscriptions go; on request the tables are copied again between them.
func TestDeadNodePlan(t *testing.T) {
	t.Parallel()
	l := workflow.Leaving{
		Target: workflow.Member{Name: "n3"}, Peers: []workflow.Member{{Name: "n1"}, {Name: "n2"}, {Name: "n4"}}, Dead: true, Fenced: true,
		Links: []workflow.Link{
			{Name: "a", Provider: "n3", Subscriber: "n1"},
			{Name: "b", Provider: "n3", Subscriber: "n2"},
			{Name: "c", Provider: "n1", Subscriber: "n2"},
			{Name: "d", Provider: "n2", Subscriber: "n1"},
		},
	}
	compared := []string{
		"D1 n1: End subscription a on n1", "D1 n1: Read how far n1 has the changes of n3",
		"D1 n2: End subscription b on n2", "D1 n2: Read how far n2 has the changes of n3",
		"D1 n1: See whether n1 has all that others have of n3", "D1 n2: See whether n2 has all that others have of n3",
	}
	lines := outline(workflow.RemoveNode(l))
	require.Equal(t, compared, lines[:6])
	require.NotContains(t, strings.Join(lines, "\n"), "again")
	l.EvenOut = true
	steps := workflow.RemoveNode(l)
	lines = outline(steps)
	require.Equal(t, []string{
		"D7 n1: Copy to n1 again what n2 has, if it has more", "D7 n1: Wait until n1 has copied that",
		"D7 n2: Copy to n2 again what n1 has, if it has more", "D7 n2: Wait until n2 has copied that",
	}, lines[len(lines)-4:])
	require.Contains(t, steps[len(steps)-2].SQL, "spock.sub_resync_table('c', t.relation, false)")
	require.Contains(t, steps[len(steps)-2].SQL, "'${n2}.ahead' = 'n1'")
	// What an earlier call has read, and then dropped, is compared all the same.
	l.Links, l.Known = l.Links[1:], []string{"n1"}
	lines = outline(workflow.RemoveNode(l))
	require.Equal(t, slices.Concat(compared[2:]), lines[:4])
}

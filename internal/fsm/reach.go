package fsm

// order is one row of what the monitor's rules may ask: a goal, and the states
// that a node may report when it is given that goal.
type order struct {
	goal State
	from []State
}

// orders returns everything that the rules may ask, register_node's first
// goals included. A node's report may lag behind several goals, so that the
// rows hold the states of whole stretches of a node's life.
func orders() []order {
	promoting := []State{PreparePromotion, StopReplication, FastForward}
	maintained := []State{PrepareMaintenance, Maintenance, WaitMaintenance}
	following := []State{Secondary, CatchingUp, ReportLSN, JoinSecondary}
	alive := concat(openStates, downStates, promoting, maintained, following)
	return []order{
		{Single, concat(openStates, downStates, promoting, following, []State{Init, Dropped, WaitMaintenance})},
		{WaitStandby, []State{Init, Dropped, Secondary, ReportLSN}},
		{WaitPrimary, concat(openStates, downStates, []State{PreparePromotion, StopReplication})},
		{Primary, concat(openStates, downStates)},
		{ApplySettings, concat(openStates, downStates)},
		{Draining, concat(openStates, promoting, following)},
		{DemoteTimeout, concat(openStates, downStates, promoting, following)},
		{Demoted, alive},
		{PrepareMaintenance, concat(openStates, downStates)},
		{WaitMaintenance, []State{Secondary, CatchingUp}},
		{Maintenance, concat(openStates, downStates, []State{Secondary, CatchingUp, PrepareMaintenance, WaitMaintenance})},
		{CatchingUp, concat(openStates, downStates, promoting, maintained, following, []State{WaitStandby})},
		{Secondary, following},
		{ReportLSN, concat(alive, []State{Init, Dropped, WaitStandby})},
		{FastForward, []State{ReportLSN}},
		{PreparePromotion, []State{Secondary, CatchingUp, ReportLSN, FastForward}},
		{StopReplication, []State{PreparePromotion}},
		{JoinSecondary, []State{ReportLSN}},
		{Dropped, concat(alive, []State{Init, WaitStandby})},
	}
}

func concat(sets ...[]State) []State {
	var all []State
	for _, set := range sets {
		for _, s := range set {
			if !s.In(all...) {
				all = append(all, s)
			}
		}
	}
	return all
}

// Unreachable lists what the monitor may ask and the keeper cannot do: pairs
// of states without an edge. It is empty, or a node could hang.
func Unreachable(kind NodeKind) []Edge {
	var missing []Edge
	for _, o := range orders() {
		for _, from := range o.from {
			if from == o.goal {
				continue
			}
			if _, ok := Next(kind, from, o.goal); !ok {
				missing = append(missing, Edge{From: from, To: o.goal})
			}
		}
	}
	return missing
}

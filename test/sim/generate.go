package sim

import "time"

// weighted is an action with its share among the others.
type weighted struct {
	do     action
	weight int
}

// A mood is what a schedule is mostly about; mixed schedules find what nobody
// thought of, the others go deep.
func moods() [][]weighted {
	faults := []weighted{
		{doCrash, 4},
		{doBoot, 6},
		{doKillPostmaster, 5},
		{doKillBoth, 3},
		{doKillKeeper, 4},
		{doStartKeeper, 5},
		{doFreeze, 2},
		{doThaw, 3},
		{doStop, 3},
		{doContinue, 4},
		{doIsolate, 3},
		{doCutMonitor, 3},
		{doCutPeers, 3},
		{doCutLink, 3},
		{doCutOneWay, 2},
		{doHeal, 8},
		{doSlow, 2},
		{doLossy, 2},
		{doForeignStart, 4},
		{doCannotStart, 1},
		{doCanStart, 1},
		{doKillPrimary, 6},
		{doIsolatePrimary, 4},
		{doCrashPrimary, 5},
		{doStopPrimary, 3},
		{doFreezePrimary, 2},
		{doSickPrimary, 3},
		{doCrashOwner, 3},
		{doKillOwnerKeeper, 3},
		{doIsolateOwner, 2},
		{doRepair, 12},
		{doWrite, 4},
		{doBurst, 1},
	}
	operators := []weighted{
		{doFailover, 6},
		{doPromotion, 5},
		{doMaintenance, 5},
		{doEndMaintenance, 6},
		{doDrop, 2},
		{doForceDrop, 1},
		{doPriority, 4},
		{doQuorum, 4},
		{doNSS, 4},
		{doRegister, 5},
		{doAllowLoss, 1},
		{doWrite, 3},
		{doRepair, 2},
	}
	monitors := []weighted{
		{doKillDecider, 4},
		{doStartDecider, 6},
		{doFreezeDecider, 3},
		{doThawDecider, 4},
		{doCrashMonitor, 3},
		{doBootMonitor, 5},
		{doEndDeciderSession, 3},
		{doCoordinatorDown, 1},
		{doCoordinatorUp, 2},
		{doCutOffMonitor, 2},
		{doHeal, 3},
		{doRepair, 3},
	}
	all := append(append(append([]weighted{}, faults...), operators...), monitors...)
	return [][]weighted{
		all, all,
		faults,
		append(append([]weighted{}, faults...), operators...),
		{
			{doFailover, 6},
			{doPromotion, 6},
			{doCutLink, 3},
			{doHeal, 5},
			{doSlow, 3},
			{doCrashOwner, 2},
			{doKillOwnerKeeper, 2},
			{doKillPrimary, 2},
			{doRepair, 8},
			{doCutPeers, 2},
			{doLossy, 3},
		},
		{
			{doNSS, 5},
			{doQuorum, 5},
			{doPriority, 3},
			{doMaintenance, 4},
			{doEndMaintenance, 5},
			{doCrash, 3},
			{doCrashPrimary, 5},
			{doRepair, 8},
			{doIsolatePrimary, 3},
			{doStop, 2},
			{doContinue, 2},
			{doKillKeeper, 2},
			{doStartKeeper, 2},
			{doFreezePrimary, 2},
			{doThaw, 2},
		},
		{{doCrash, 5}, {doCrashPrimary, 6}, {doCutPeers, 3}, {doRepair, 6}, {doBoot, 4}, {doAllowLoss, 1}, {doSlow, 2}},
		{
			{doIsolatePrimary, 6},
			{doCutMonitor, 4},
			{doCutPeers, 4},
			{doHeal, 6},
			{doStopPrimary, 3},
			{doContinue, 4},
			{doKillKeeper, 3},
			{doRepair, 4},
		},
		append(append([]weighted{}, monitors...), weighted{doKillPrimary, 4}, weighted{doIsolatePrimary, 3}, weighted{doFailover, 3},
			weighted{doRepair, 4}),
	}
}

// Generate makes a schedule out of a seed.
func Generate(seed uint64) Schedule {
	r := newSource(seed, 77)
	s := Schedule{Setup: Setup{Seed: seed, NSS: -1, Fair: r.chance(85), Worker: r.chance(4)}}
	s.Nodes = [...]int{1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5}[r.below(11)]
	for i := range s.Priorities {
		s.Priorities[i] = [...]int{50, 50, 50, 50, 100, 20, 0}[r.below(7)]
	}
	s.Priorities[0] = max(s.Priorities[0], 20)
	switch {
	case r.chance(12):
		s.Async = everybody // asynchronous by choice
	case r.chance(15):
		s.Async = r.below(everybody + 1)
	}
	if r.chance(8) {
		s.Old = r.below(everybody + 1)
	}
	if r.chance(60) {
		s.NSS = r.below(3)
	}
	if r.chance(30) {
		s.LostReplies = 1 + r.below(10)
	}
	if r.chance(20) {
		s.BadCopies = 20
	}
	all := moods()
	s.fill(&r, all[r.below(len(all))], 6+r.below(26))
	return s
}

// everybody is the bit mask of all hosts.
const everybody = 1<<maxHosts - 1

// fill adds n operations of a mood.
func (s *Schedule) fill(r *source, mood []weighted, n int) {
	total := 0
	for _, m := range mood {
		total += m.weight
	}
	for range n {
		pick := r.below(total)
		for _, m := range mood {
			if pick -= m.weight; pick < 0 {
				s.Ops = append(s.Ops, newOp(r, m.do, s.Nodes))
				break
			}
		}
	}
}

// newOp fills in who, when and how much.
func newOp(r *source, do action, nodes int) Op {
	o := Op{Do: do, A: 1 + r.below(nodes), B: 1 + r.below(nodes)}
	switch {
	case r.chance(45):
		o.On = trigger(1 + r.below(int(triggers)-1))
		o.Wait = r.between(time.Second, 20*time.Second)
		if o.On == onAck {
			o.Wait = time.Second
		}
	default:
		switch p := r.below(100); {
		case p < 15:
			o.Wait = 0
		case p < 53:
			o.Wait = r.between(0, 300*time.Millisecond)
		case p < 81:
			o.Wait = r.between(300*time.Millisecond, 5*time.Second)
		default:
			o.Wait = r.between(5*time.Second, 45*time.Second)
		}
	}
	o.Wait = o.Wait.Round(time.Millisecond)
	switch do {
	case doKillPostmaster, doKillBoth, doKillPrimary:
		if r.chance(40) {
			o.N = r.below(3000)
		}
	case doSickPrimary:
		o.N = r.below(2)
	case doSlow:
		o.N = 1 + r.below(30)
	case doLossy:
		o.N = r.below(60)
	case doPriority:
		o.N = [...]int{0, 20, 50, 100}[r.below(4)]
	case doQuorum:
		o.N = r.below(2)
	case doNSS:
		o.N = r.below(3)
	case doStartDecider:
		o.N = r.below(2)
	case doRegister:
		o.A = 1 + r.below(maxHosts)
		o.B = r.below(5) / 4
		o.N = [...]int{50, 50, 100, 0}[r.below(4)]
	case doCutOneWay:
		o.B = r.below(nodes + 1)
	default:
	}
	if do != doCutLink && do != doCutOneWay && do != doRegister {
		o.B = 0
	}
	return o
}

// GenerateFor makes schedules that look where a missing safeguard shows.
func GenerateFor(m Mutation, seed uint64) Schedule {
	r := newSource(seed, 78)
	s := Generate(seed)
	s.Fair = false
	if s.Nodes < 2 {
		s.Nodes = 2
	}
	switch m {
	case ListForAnybody:
		// The primary stands still just before it asks for its list.
		s.Nodes, s.NSS, s.Async = 2+r.below(2), 0, 0
		s.LostReplies, s.BadCopies, s.Ops = 0, 0, nil
		for range 3 {
			s.Ops = append(s.Ops, Op{Do: doPriority, A: 1 + r.below(2), N: 50, Wait: r.between(0, time.Second)})
			for range 1 + r.below(4) {
				s.Ops = append(s.Ops, Op{On: onStep, Wait: time.Second})
			}
			s.Ops = append(s.Ops, Op{Do: doFreezePrimary},
				Op{Wait: r.between(5*time.Second, 9*time.Second), Do: doRepair}, Op{Wait: 10 * time.Second})
		}
	case NoFence, NoDemoteWait, RowIsContact:
		s.Async = everybody
		s.Ops = nil
		s.fill(&r, []weighted{{doIsolatePrimary, 3}, {doFreezePrimary, 3}, {doThaw, 2}, {doRepair, 2}, {doCutMonitor, 1}}, 8)
		for i := range s.Ops {
			if s.Ops[i].Do == doThaw || s.Ops[i].Do == doRepair {
				s.Ops[i].Wait = r.between(10*time.Second, 50*time.Second)
				s.Ops[i].On = onTime
			}
		}
	case NotSealed:
		s.Ops = nil
		for range 4 {
			s.Ops = append(s.Ops, Op{Do: doFailover, A: 1, Wait: r.between(0, 5*time.Second)})
			for n := range s.Nodes {
				s.Ops = append(s.Ops, Op{On: onDown, Do: doForeignStart, A: n + 1, Wait: r.between(0, 200*time.Millisecond)})
			}
		}
	case ContactWhenAnswered:
		// A report is under way when the keeper stops; its answer waits for it.
		s.Async, s.Ops, s.Priorities[0] = everybody, nil, 100
		s.Ops = append(s.Ops, Op{Do: doLossy, A: 1, N: 80}, Op{Wait: r.between(0, 4*time.Second), Do: doStopPrimary},
			Op{Wait: 3 * time.Second, Do: doIsolate, A: 1}, Op{Wait: r.between(36*time.Second, 50*time.Second), Do: doContinue, A: 1},
			Op{Wait: 15 * time.Second})
	case UnderstatedLSN:
		s.Nodes, s.NSS, s.Async, s.Ops = 3, -1, 0, nil
		for range 2 {
			behind := 2 + r.below(2)
			s.Ops = append(s.Ops, Op{Do: doCutLink, A: 1, B: behind, Wait: r.between(0, time.Second)},
				Op{Do: doKillPostmaster, A: 5 - behind, Wait: r.between(0, time.Second)},
				Op{Do: doCrashPrimary, Wait: r.between(0, 60*time.Millisecond)},
				Op{Do: doRepair, Wait: 6 * time.Second}, Op{Wait: 10 * time.Second})
		}
	case OneVoterEnough:
		s.Nodes, s.NSS, s.Async, s.Ops = 4+r.below(2), 2, 0, nil
		s.fill(&r, []weighted{{doNSS, 4}, {doCutLink, 3}, {doSlow, 3}, {doHeal, 2}, {doPriority, 1}, {doRepair, 1}}, 16)
	default:
	}
	return s
}

package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// Setup is what a world begins with.
type Setup struct {
	Seed        uint64
	Nodes       int
	NSS         int    // number_sync_standbys, -1 leaves what registrations make of it
	Priorities  [6]int // candidate priorities
	Async       int    // bit mask of hosts whose node has no quorum
	Old         int    // bit mask of hosts whose client holds no session
	Worker      bool   // a worker group of a sharded formation
	LostReplies int    // per cent of answers that are lost after the commit
	BadCopies   int    // per cent of base backups that fail
	Fair        bool   // heal everything at the end, and the group must settle
}

// Schedule is a setup and what happens to it; it replays exactly.
type Schedule struct {
	Setup
	Ops []Op
}

// Op is one thing that happens to a world: as soon as the moment On comes, at
// the latest after Wait.
type Op struct {
	On   trigger
	Wait time.Duration
	Do   action
	A, B int // hosts, counted from 1; 0 where none is meant
	N    int
}

// action is what an Op does.
type action int

const (
	doNothing action = iota
	doCrash
	doBoot
	doKillPostmaster
	doKillBoth
	doKillKeeper
	doStartKeeper
	doFreeze
	doThaw
	doStop
	doContinue
	doIsolate
	doCutMonitor
	doCutPeers
	doCutLink
	doCutOneWay
	doCutOffMonitor
	doHeal
	doRepair
	doSlow
	doLossy
	doForeignStart
	doCannotStart
	doCanStart
	doKillDecider
	doStartDecider
	doFreezeDecider
	doThawDecider
	doCrashMonitor
	doBootMonitor
	doEndDeciderSession
	doCoordinatorDown
	doCoordinatorUp
	doFailover
	doPromotion
	doAllowLoss
	doMaintenance
	doEndMaintenance
	doDrop
	doForceDrop
	doPriority
	doQuorum
	doNSS
	doRegister
	doWrite
	doBurst
	doKillPrimary
	doIsolatePrimary
	doCrashPrimary
	doStopPrimary
	doCrashOwner
	doKillOwnerKeeper
	doIsolateOwner
	doFreezePrimary
	doSickPrimary
	doExpect
	actions
)

var actionNames = [actions]string{
	"nothing", "crash", "boot", "kill-postmaster", "kill-both", "kill-keeper", "start-keeper", "freeze", "thaw", "sigstop", "sigcont",
	"isolate", "cut-monitor", "cut-peers", "cut-link", "cut-one-way", "cut-off-monitor", "heal", "repair", "slow", "lossy",
	"foreign-start", "cannot-start", "can-start", "kill-decider", "start-decider", "freeze-decider", "thaw-decider", "crash-monitor", "boot-monitor",
	"end-decider-session", "coordinator-down", "coordinator-up",
	"failover", "promotion", "allow-loss", "maintenance", "end-maintenance", "drop", "force-drop", "priority", "quorum", "nss",
	"register", "write", "burst", "kill-primary", "isolate-primary", "crash-primary", "sigstop-primary", "crash-owner",
	"kill-owner-keeper", "isolate-owner", "freeze-primary", "sick-primary", "expect",
}

// String renders the operation as a line of a scenario file.
func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", actionNames[o.Do])
	if o.A != 0 {
		fmt.Fprintf(&b, " a=%d", o.A)
	}
	if o.B != 0 {
		fmt.Fprintf(&b, " b=%d", o.B)
	}
	if o.N != 0 {
		fmt.Fprintf(&b, " n=%d", o.N)
	}
	if o.On != onTime {
		fmt.Fprintf(&b, " on=%s", triggerNames[o.On])
	}
	fmt.Fprintf(&b, " wait=%s", o.Wait)
	return b.String()
}

// String renders the whole schedule as a scenario file.
func (s Schedule) String() string {
	var b strings.Builder
	p := make([]string, len(s.Priorities))
	for i, v := range s.Priorities {
		p[i] = strconv.Itoa(v)
	}
	fmt.Fprintf(&b, "setup seed=%d nodes=%d nss=%d priorities=%s async=%d old=%d worker=%v lost-replies=%d bad-copies=%d fair=%v\n",
		s.Seed, s.Nodes, s.NSS, strings.Join(p, ","), s.Async, s.Old, s.Worker, s.LostReplies, s.BadCopies, s.Fair)
	for _, o := range s.Ops {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// ParseSchedule reads a scenario file. Lines that begin with # tell its story.
func ParseSchedule(text string) (Schedule, error) {
	s := Schedule{Setup: Setup{Nodes: 2, NSS: -1, Priorities: [6]int{50, 50, 50, 50, 50, 50}, Fair: true}}
	for n, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		var err error
		if fields[0] == "setup" {
			err = s.parseSetup(fields[1:])
		} else {
			var o Op
			if o, err = parseOp(fields); err == nil {
				s.Ops = append(s.Ops, o)
			}
		}
		if err != nil {
			return s, fmt.Errorf("parse schedule, line %d: %w", n+1, err)
		}
	}
	return s, nil
}

func (s *Setup) parseSetup(fields []string) error {
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		number, err := strconv.ParseInt(value, 10, 64)
		switch key {
		case "seed":
			s.Seed, err = strconv.ParseUint(value, 10, 64)
		case "nodes":
			s.Nodes = int(number)
		case "nss":
			s.NSS = int(number)
		case "async":
			s.Async = int(number)
		case "old":
			s.Old = int(number)
		case "lost-replies":
			s.LostReplies = int(number)
		case "bad-copies":
			s.BadCopies = int(number)
		case "worker":
			s.Worker, err = strconv.ParseBool(value)
		case "fair":
			s.Fair, err = strconv.ParseBool(value)
		case "priorities":
			err = nil
			for i, p := range strings.Split(value, ",") {
				if i < len(s.Priorities) && err == nil {
					s.Priorities[i], err = strconv.Atoi(p)
				}
			}
		default:
			err = fmt.Errorf("%q is no part of a setup", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseOp(fields []string) (Op, error) {
	o := Op{Wait: time.Second}
	for i, name := range actionNames {
		if name == fields[0] {
			o.Do = action(i)
		}
	}
	if actionNames[o.Do] != fields[0] {
		return o, fmt.Errorf("%q is no action", fields[0])
	}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "a":
			o.A, err = strconv.Atoi(value)
		case "b":
			o.B, err = strconv.Atoi(value)
		case "n":
			o.N, err = strconv.Atoi(value)
		case "wait":
			o.Wait, err = time.ParseDuration(value)
		case "on":
			err = fmt.Errorf("%q is no moment", value)
			for t, name := range triggerNames {
				if name == value {
					o.On, err = trigger(t), nil
				}
			}
		default:
			err = fmt.Errorf("%q is no part of an action", key)
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// settings are those of the model monitor.
func (s *Setup) settings() fsm.Settings { return fsm.DefaultSettings() }

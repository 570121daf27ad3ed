package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Membership prepares runs that let nodes join a cluster, or leave it.
type Membership struct {
	Surveyor *Surveyor
	// Owner is who makes the runs, as journals and refusals name it.
	Owner string
	// StateDir is the directory of local journals; without one the nodes alone keep them.
	StateDir string
	// OnTitle and OnCheck hear of the checks before a join; both may be nil.
	OnTitle func(text string)
	OnCheck func(Check)
}

// Addition is a request that nodes join.
type Addition struct {
	Source workflow.Member
	New    []workflow.Newcomer
	// Sets to subscribe to; all of the provider without any.
	Sets []string
	// AllowDDL lets definitions change meanwhile; OnlyData copies rows into tables that exist.
	AllowDDL, OnlyData bool
	// CreateRoles gives the new nodes' servers the roles of the source that they lack.
	CreateRoles bool
	// SkipCheck leaves out the checks.
	SkipCheck bool
	// DropStale drops what earlier attempts have left under the names that the join gives.
	DropStale bool
	// Unfinished is for an unfinished run only: to go on with it, or, with Undo, to
	// undo it. That may name other addresses: nodes may have moved since.
	Unfinished, Undo bool
	// Limits bound what the copies take, as Limits words them; empty does not.
	Limits string
	// MaxRetainedWAL bounds what a node keeps for the new ones; 0 does not.
	MaxRetainedWAL int64
}

func (a Addition) names() []string {
	var names []string
	for _, n := range a.New {
		names = append(names, n.Name)
	}
	return names
}

// Checked says that a cluster or a new node is not fit for a join.
type Checked struct{ Failed, Total int }

// Error counts.
func (e *Checked) Error() string {
	return fmt.Sprintf("%d of %d checks failed; nothing was changed", e.Failed, e.Total)
}

// OtherRun says that an unfinished run is in the way.
type OtherRun struct{ Differences []string }

// Error names what differs.
func (e *OtherRun) Error() string {
	return "an unfinished run is another one: " + strings.Join(e.Differences, "; ")
}

// Hint says what to do with it.
func (e *OtherRun) Hint() string {
	return "finish it with the options that it began with, or undo it with --rollback"
}

// ErrNoRun says that there is no unfinished run.
var ErrNoRun = errors.New("there is no unfinished run")

// journal is where the runs of one kind on these nodes are kept.
func (m *Membership) journal(kind string, targets []string, keepers []workflow.Member) (*ClusterJournal, error) {
	t := Topology{Members: keepers}
	nodes, err := t.Nodes()
	if err != nil {
		return nil, err
	}
	j := &ClusterJournal{Kind: kind, Target: targetOf(targets), Nodes: nodes, Dial: m.Surveyor.Dial}
	if m.StateDir != "" {
		verb, _, _ := strings.Cut(kind, "_")
		j.Local = FileJournal{Path: m.path(verb, strings.Join(targets, "+"))}
	}
	return j, nil
}

func (m *Membership) path(verb, target string) string {
	safe := strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' {
			return '_'
		}
		return r
	}, strings.TrimLeft(target, "."))
	return filepath.Join(m.StateDir, "zodan", verb+"-"+safe+".json")
}

// Add prepares a run that lets nodes join: an unfinished one, or a new one after
// its checks. What it returns is for [New]; limits and listeners may be set before.
func (m *Membership) Add(ctx context.Context, a Addition) (Config, error) {
	keepers := []workflow.Member{a.Source}
	for _, n := range a.New {
		keepers = append(keepers, n.Member)
	}
	journal, err := m.journal("add_node", a.names(), keepers)
	if err != nil {
		return Config{}, err
	}
	record, err := journal.Load(ctx)
	if err != nil {
		journal.Close(ctx)
		return Config{}, err
	}
	var j workflow.Joining
	switch {
	case record != nil && !record.Finished && record.Begun():
		if err = json.Unmarshal(record.Plan, &j); err != nil {
			err = fmt.Errorf("read the plan of the unfinished run: %w", err)
		} else {
			err = sameRun(a, j)
		}
		if err == nil && a.Undo {
			moved(a, &j)
		}
	case a.Unfinished:
		err = ErrNoRun
	default:
		j, err = m.plan(ctx, a)
		if record != nil && !record.Finished && record.Run != "" {
			j.Run = record.Run // it had not begun: nobody knows it by its name
		}
	}
	if err != nil {
		journal.Close(ctx)
		return Config{}, err
	}
	cfg, err := m.config("add_node", j.Run, j, workflow.AddNode(j), journal, j.Members(), !j.Bare, guards(j, a.MaxRetainedWAL))
	if record != nil && !record.Finished && record.Run == j.Run {
		cfg.GivenUp = record.GivenUp
	}
	cfg.Fit = func(ctx context.Context) error { return m.fit(ctx, j) }
	return cfg, err
}

// sameRun compares a request with the plan of an unfinished run.
func sameRun(a Addition, j workflow.Joining) error {
	var differences []string
	compare := func(what, before, now string) {
		if before != now {
			differences = append(differences, fmt.Sprintf("its %s is %q, not %q", what, workflow.Mask(before), workflow.Mask(now)))
		}
	}
	compare("source", j.Source.Name, a.Source.Name)
	if !a.Undo {
		compare("connection string of "+j.Source.Name, j.Source.DSN, a.Source.DSN)
	}
	for i, n := range a.New {
		if i < len(j.New) && !a.Undo {
			compare("connection string of "+n.Name, j.New[i].DSN, n.DSN)
		}
	}
	if !a.Unfinished {
		compare("list of replication sets", strings.Join(j.Sets, ","), strings.Join(a.Sets, ","))
		for option, differs := range map[string]bool{"skip-schema": j.OnlyData != a.OnlyData, "create-roles": j.CreateRoles != a.CreateRoles} {
			if differs {
				differences = append(differences, "--"+option+" is not as it was")
			}
		}
		slices.Sort(differences)
	}
	if len(differences) > 0 {
		return &OtherRun{Differences: differences}
	}
	return nil
}

// moved takes over the addresses of a request.
func moved(a Addition, j *workflow.Joining) {
	j.Source.DSN = a.Source.DSN
	for i := range j.New {
		for _, n := range a.New {
			if n.Name == j.New[i].Name {
				j.New[i].DSN = n.DSN
			}
		}
	}
}

// plan asks the cluster what the plan has to know, after the checks.
func (m *Membership) plan(ctx context.Context, a Addition) (workflow.Joining, error) {
	j := workflow.Joining{
		Run: "add-" + strings.Join(a.names(), "-") + "-" + time.Now().UTC().Format("20060102T150405"), Owner: m.Owner,
		Source: a.Source, New: a.New, Sets: a.Sets, AllowDDL: a.AllowDDL, OnlyData: a.OnlyData, CreateRoles: a.CreateRoles,
		Limits: a.Limits,
	}
	if err := unlike(a); err != nil {
		return j, err
	}
	if !a.SkipCheck {
		if err := m.check(ctx, a); err != nil {
			return j, err
		}
	}
	t, err := m.Surveyor.Survey(ctx, a.Source)
	if err != nil {
		return j, err
	}
	var news []workflow.Member
	for _, n := range a.New {
		news = append(news, n.Member)
	}
	if err := m.Surveyor.apart(ctx, t, news); err != nil {
		return j, err
	}
	if err := distinct(append(t.names(), a.names()...), a.names()); err != nil {
		return j, err
	}
	for i, member := range t.Members {
		switch {
		case i == 0:
			member.DSN = a.Source.DSN
			j.Source = member
		case !slices.Contains(a.names(), member.Name):
			if err := t.Unreachable[member.Name]; err != nil {
				return j, err
			}
			j.Replicas = append(j.Replicas, member)
		}
	}
	if err := m.Surveyor.Newcomers(ctx, &j); err != nil {
		return j, err
	}
	if j.Stale, err = m.stale(ctx, t, a); err != nil {
		return j, err
	}
	if j.OnlyData {
		if j.Tables, err = m.Surveyor.copiedTables(ctx, j.Source, j.Sets); err != nil {
			return j, err
		}
	}
	if j.Bare && j.Limits != "" {
		return j, errors.New("--jobs, --max-rate and --max-source-load are for nodes that are all served by pgdrover's engine")
	}
	if j.Bare && j.CreateRoles {
		return j, errors.New("--create-roles is for nodes that are all served by pgdrover's engine")
	}
	return j, nil
}

// stale is what earlier attempts have left, to be dropped if that was asked for.
func (m *Membership) stale(ctx context.Context, t *Topology, a Addition) (all []workflow.Leftover, err error) {
	var members []workflow.Member
	for _, n := range a.New {
		members = append(members, n.Member)
	}
	for _, n := range members {
		l, err := m.Surveyor.leftovers(ctx, t, n, members)
		if err != nil {
			return nil, err
		}
		if stale := l.refused(a.DropStale); stale != nil {
			return nil, stale
		}
		for _, x := range l.stale {
			if !slices.Contains(all, x) { // two that join find what is between them twice
				all = append(all, x)
			}
		}
	}
	return all, nil
}

// Limits words what the copies of a join may take: sessions at a time, bytes a
// second, and busy sessions of clients on the source. A zero is no limit.
func Limits(jobs int, rate int64, load int) string {
	var words []string
	for _, l := range []struct {
		name string
		most int64
	}{{"jobs", int64(jobs)}, {"rate", rate}, {"load", int64(load)}} {
		if l.most > 0 {
			words = append(words, fmt.Sprintf("%s=%d", l.name, l.most))
		}
	}
	return strings.Join(words, " ")
}

// Changed says that a cluster is not any more as it was when a plan was made.
type Changed struct{ What string }

// Error says what has changed.
func (e *Changed) Error() string {
	return e.What + " since this run was planned: another one has ended meanwhile; nothing was changed"
}

// Hint says what to do about it.
func (e *Changed) Hint() string { return "call it again" }

// fit sees that nobody has joined or left since the plan was made.
func (m *Membership) fit(ctx context.Context, j workflow.Joining) error {
	for _, n := range j.New {
		if err := m.Surveyor.on(ctx, n.Member, func(server Server) error {
			name, err := server.Ask(ctx, qLocalName)
			if err == nil && n.Bare && len(name.Rows) > 0 {
				return &Changed{What: n.Name + " has become a node"}
			}
			return err
		}); err != nil {
			if changed, ok := errors.AsType[*Changed](err); ok {
				return changed
			}
			return err
		}
	}
	t, err := m.Surveyor.Survey(ctx, j.Source)
	if err != nil {
		return err
	}
	for _, member := range t.Members[1:] {
		if !slices.ContainsFunc(j.Members(), func(k workflow.Member) bool { return k.Name == member.Name }) {
			return &Changed{What: member.Name + " has joined"}
		}
	}
	for _, r := range j.Replicas {
		if _, ok := t.Member(r.Name); !ok {
			return &Changed{What: r.Name + " has left"}
		}
	}
	return nil
}

// NamedTwice says that a request names a node twice.
type NamedTwice struct{ Name string }

// Error names it.
func (e *NamedTwice) Error() string { return fmt.Sprintf("node %q is named twice", e.Name) }

// unlike refuses nodes that are named twice.
func unlike(a Addition) error {
	seen := map[string]bool{a.Source.Name: true}
	for _, n := range a.New {
		if seen[n.Name] {
			return &NamedTwice{Name: n.Name}
		}
		seen[n.Name] = true
	}
	return distinct(append([]string{a.Source.Name}, a.names()...), a.names())
}

// SameNames says that two nodes' subscriptions would get one name, for that keeps
// neither case nor punctuation.
type SameNames struct {
	First, Second string
	// Subscription is one of the names.
	Subscription string
	// Members says that both are nodes of the cluster already.
	Members bool
}

// Error names both, and the name that they give.
func (e *SameNames) Error() string {
	return fmt.Sprintf("node names %q and %q give the same subscription name %s", e.First, e.Second, e.Subscription)
}

// Hint says what to choose.
func (e *SameNames) Hint() string {
	if e.Members {
		return "remove one of these nodes, and let it join again under a name that differs in its letters or digits"
	}
	return "choose another name for the new node: upper case counts as lower case, and every sign but letters and digits as _"
}

// distinct sees that no two nodes give their subscriptions one name.
func distinct(all, joining []string) error {
	for i, second := range all {
		for _, first := range all[:i] {
			if first == second || workflow.SubscriptionName(first, "") != workflow.SubscriptionName(second, "") {
				continue
			}
			other := second // that of the two, when there is no third one
			for _, name := range all {
				if name != first && name != second {
					other = name
					break
				}
			}
			return &SameNames{
				First: first, Second: second, Subscription: workflow.SubscriptionName(first, other),
				Members: !slices.Contains(joining, first) && !slices.Contains(joining, second),
			}
		}
	}
	return nil
}

// check checks the cluster and each new node.
func (m *Membership) check(ctx context.Context, a Addition) error {
	if m.OnTitle != nil {
		m.OnTitle("Phase 0: checks before the node joins")
	}
	e := &Checked{}
	for _, n := range a.New {
		for _, c := range m.Surveyor.Health(ctx, HealthConfig{Source: a.Source, New: n.Member, OnlyData: a.OnlyData, CreateRoles: a.CreateRoles, DropStale: a.DropStale}, m.OnCheck) {
			e.Total++
			if c.Verdict == Fail {
				e.Failed++
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case e.Failed > 0:
		return e
	}
	return nil
}

// config is what an executor needs for a plan.
func (m *Membership) config(
	kind, run string, plan any, steps []workflow.Step, journal Journal, members []workflow.Member, fenced bool, guards []Guard,
) (Config, error) {
	kept, err := json.Marshal(plan)
	if err != nil {
		return Config{}, err
	}
	t := Topology{Members: members}
	nodes, err := t.Nodes()
	if err != nil {
		return Config{}, err
	}
	beat := "SELECT 1"
	if fenced && run != "" {
		beat = "SELECT pgdrover.fence_beat(" + pg.QuoteLiteral(run) + ")"
	}
	return Config{
		Name: kind, Cluster: "zodan", Nodes: nodes, Steps: steps, Journal: journal, Plan: kept, Dial: m.Surveyor.Dial,
		Run: run, Owner: m.Owner, Beat: beat, Guards: guards,
	}, nil
}

// Removal is a request that a node leaves.
type Removal struct {
	Target   workflow.Member
	Survivor workflow.Member
	NoDrain  bool
	// Purge drops what was copied to the node as well.
	Purge bool
	// DropLeft drops slots that nobody reads, when the node is dead.
	DropLeft bool
	// EvenOut brings peers those changes of a dead node that another one has.
	EvenOut bool
}

// ErrNothingToRemove says that the node is in no cluster.
var ErrNothingToRemove = errors.New("there is nothing to remove")

// unfinished is the journal of a removal that ended early, and the peers that it
// knows: a target forgets them with its subscriptions to them.
func (m *Membership) unfinished(ctx context.Context, target, survivor workflow.Member) (*Record, []workflow.Member, error) {
	var keepers []workflow.Member
	if target.DSN != "" {
		keepers = append(keepers, target)
	}
	if survivor.DSN != "" {
		keepers = append(keepers, workflow.Member{Name: "that stays", DSN: survivor.DSN})
	}
	journal, err := m.journal("remove_node", []string{target.Name}, keepers)
	if err != nil {
		return nil, nil, err
	}
	defer journal.Close(ctx)
	record, err := journal.Load(ctx)
	if err != nil || record == nil || record.Finished || record.Run == "" {
		return nil, nil, err
	}
	var before workflow.Leaving
	if err := json.Unmarshal(record.Plan, &before); err != nil {
		return nil, nil, fmt.Errorf("read the plan of the unfinished run: %w", err)
	}
	return record, before.Peers, nil
}

// Remove prepares a run that lets a node leave. What is left to do is asked
// anew each time: every step may be done twice.
func (m *Membership) Remove(ctx context.Context, r Removal) (Config, error) {
	unfinished, peers, err := m.unfinished(ctx, r.Target, r.Survivor)
	if err != nil {
		return Config{}, err
	}
	l, err := m.Surveyor.Leaving(ctx, r.Target, r.Survivor, peers...)
	if err != nil {
		return Config{}, err
	}
	l.NoDrain, l.DropLeft, l.EvenOut = r.NoDrain, r.DropLeft, r.EvenOut
	for _, p := range l.Peers {
		if unfinished != nil && workflow.Reached(unfinished.Variables, p.Name) {
			l.Known = append(l.Known, p.Name)
		}
	}
	switch {
	case r.EvenOut && !l.Dead:
		return Config{}, errors.New("--even-out is for a node that cannot be reached: of another one all get the last changes")
	case r.EvenOut && !l.Fenced:
		return Config{}, errors.New("--even-out is for nodes that are all served by pgdrover's engine")
	}
	switch {
	case !r.Purge:
		l.Purge = ""
	case l.Dead:
		return Config{}, errors.New("nothing can be dropped on a node that cannot be reached")
	case l.Purge == "" && !l.Target.Bare: // otherwise it went with an earlier call, or never came
		return Config{}, fmt.Errorf("nobody has noted what %s held before its copy came", r.Target.Name)
	}
	if l.Target.Bare && len(l.Peers) == 0 && l.Purge == "" {
		left, err := m.Surveyor.joining(ctx, l.Target)
		if err != nil {
			return Config{}, err
		}
		if !left {
			return Config{}, ErrNothingToRemove
		}
	}
	steps := workflow.RemoveNode(l)
	if len(steps) == 0 {
		return Config{}, ErrNothingToRemove
	}
	members := slices.Clone(l.Peers)
	if !l.Dead {
		members = append([]workflow.Member{l.Target}, members...)
	}
	// The target keeps the journal too: at the end nobody else is known to it.
	journal, err := m.journal("remove_node", []string{r.Target.Name}, members)
	if err != nil {
		return Config{}, err
	}
	run := "remove-" + r.Target.Name + "-" + time.Now().UTC().Format("20060102T150405")
	if unfinished != nil {
		run = unfinished.Run // never without a journal that knows the others
	} else if err := journal.Remove(ctx); err != nil {
		journal.Close(ctx)
		return Config{}, err
	}
	if m.StateDir != "" {
		if err := (FileJournal{Path: m.path("add", r.Target.Name)}).Remove(ctx); err != nil {
			return Config{}, err
		}
	}
	cfg, err := m.config("remove_node", run, l, steps, journal, members, false, nil)
	if unfinished != nil { // its steps are those that are left
		cfg.Restart, cfg.Variables = true, unfinished.Variables
	}
	return cfg, err
}

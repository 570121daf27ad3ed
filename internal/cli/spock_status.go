package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/apply"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func newSpockStatusCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("status", "Show a node's subscriptions: state, lag, counters and the last error",
		func(cmd *cobra.Command, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			return showSpockStatus(cmd.Context(), env, cmd)
		})
	dsnFlag(cmd, "a node's database")
	cmd.Flags().Bool("check", false, "end with code 3 unless an engine runs and every enabled subscription replicates")
	return cmd
}

// showSpockStatus shows every node that answers; one that does not is an error at the end.
func showSpockStatus(ctx context.Context, env *Env, cmd *cobra.Command) error {
	infos, err := dsns(env, cmd)
	if err != nil {
		return err
	}
	var nodes []spockNode
	var failures []error
	for _, info := range infos {
		err := withSpock(ctx, env, info, func(ctx context.Context, db *spock.DB, info pg.ConnInfo) error {
			n, err := readSpockNode(ctx, db, place(info))
			// A stream that has just begun says within a second or two how far it is.
			for began := time.Now(); err == nil && on(cmd, "check") && (n.beginning() || n.copying()) && time.Since(began) < checkPatience; {
				if err = sleep(ctx, checkEvery); err == nil {
					n, err = readSpockNode(ctx, db, place(info))
				}
			}
			if err == nil {
				nodes = append(nodes, n)
			}
			return err
		})
		if err != nil {
			nodes = append(nodes, spockNode{place: place(info), failure: err})
			failures = append(failures, err)
		}
	}
	if jsonWanted(cmd) {
		err = writeSpockJSON(env.Stdout, nodes)
	} else {
		err = writeSpockTables(env.Stdout, nodes)
	}
	if err != nil {
		return err
	}
	if err := tellFailures(env, failures); err != nil || !on(cmd, "check") {
		return err
	}
	for _, n := range nodes {
		if trouble := n.trouble(); trouble != "" {
			return fail(exitBadState, "%s: %s", n.place, trouble)
		}
	}
	return nil
}

const (
	// checkPatience is how long --check waits for streams that begin after an error.
	checkPatience = 5 * time.Second
	checkEvery    = 250 * time.Millisecond
)

// tellFailures tells all errors but the last, which it returns; nil when there is none.
func tellFailures(env *Env, failures []error) error {
	if len(failures) == 0 {
		return nil
	}
	last := len(failures) - 1
	for _, f := range failures[:last] {
		env.errorf("%s", f)
		if hint := hintOf(f); hint != "" {
			env.errorf("HINT: %s", hint)
		}
	}
	return failures[last]
}

// spockNode is what status shows of one node.
type spockNode struct {
	place      string
	failure    error // instead of all the rest
	schema     int
	name       string
	id         uint32
	copied     bool // the database says that it is the node, and is a copy of it
	engine     bool
	subs       []spockSub
	tombstones int64
	oldest     time.Time
	resolved   int64
	exceptions int64
	counters   []spock.Counter // of the engine
	copies     []spock.CopyProgress
	invalid    []spock.Setting
	gate       []apply.Gatekeeper
}

// waitingTable is one that a subscription does not follow before it is copied.
type waitingTable struct {
	Subscription uint32
	Name, Status string
}

// spockSub is what status shows of one subscription.
type spockSub struct {
	spock.Subscription
	status   string
	state    spock.EngineState
	known    bool // there is a progress row
	progress spock.Progress
	lagBytes int64
	lag      time.Duration
	stats    spock.ChannelStats
	counters []spock.Counter
	waiting  []waitingTable
}

// readSpockNode asks a node for all that status shows.
func readSpockNode(ctx context.Context, db *spock.DB, where string) (spockNode, error) {
	n := spockNode{place: where, schema: spock.SchemaNumber}
	if db.Conn().PgConn().ParameterStatus("in_hot_standby") == "on" {
		// It has neither the statistics, which are not in the log, nor an engine.
		return n, fail(exitBadState, "%s: the server is a standby", n.place).
			withHint("the connection string must lead to the primary: name all hosts in it, with target_session_attrs=read-write")
	}
	if err := spock.CheckVersion(ctx, db.Conn()); err != nil {
		return n, err
	}
	local, err := db.LocalNode(ctx)
	switch {
	case errors.Is(err, spock.ErrNotFound):
		return n, nil // installed, but no node: that is all there is to show
	case err != nil:
		return n, err
	}
	n.name, n.id = local.Name, local.ID
	if n.copied, err = db.IsCopy(ctx); err != nil {
		return n, err
	}
	if n.engine, err = db.EngineConnected(ctx); err != nil {
		return n, err
	}
	if n.engine { // its lock is held
		if err := db.Conn().QueryRow(ctx, engineSession).Scan(&n.engine); err != nil {
			return n, fmt.Errorf("look for the engine: %w", err)
		}
	}
	if n.gate, err = apply.Gatekeepers(ctx, db.Conn()); err != nil {
		return n, err
	}
	if n.tombstones, n.oldest, err = db.TombstoneStats(ctx); err != nil {
		return n, err
	}
	if n.resolved, n.exceptions, err = db.Records(ctx); err != nil {
		return n, err
	}
	if n.copies, err = db.CopyProgress(ctx); err != nil {
		return n, err
	}
	settings, err := db.Settings(ctx)
	if err != nil {
		return n, err
	}
	for _, s := range sortedSettings(settings) {
		if s.Invalid != "" {
			n.invalid = append(n.invalid, s)
		}
	}
	return n, n.readSubscriptions(ctx, db)
}

// engineSession finds whoever says that it is the engine. Its lock alone is no proof:
// everybody can take that. Who may not see sessions' names has to believe it.
const engineSession = `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_roles r ON r.oid = a.usesysid
	WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400013 AND l.objid = 0 AND l.objsubid = 2 AND a.datname = current_database()
	AND r.rolsuper AND coalesce(starts_with(a.application_name, 'spock manager'), true))`

// waitingTables are those whose copy is not here yet.
const waitingTables = `SELECT y.sync_subid, format('%I.%I', y.sync_nspname, y.sync_relname), pgdrover.sync_status_text(y.sync_status)
	FROM spock.local_sync_status y WHERE y.sync_relname IS NOT NULL AND y.sync_status NOT IN ('r', 'y') ORDER BY 1, 2`

func (n *spockNode) readSubscriptions(ctx context.Context, db *spock.DB) error {
	subs, err := db.Subscriptions(ctx)
	if err != nil {
		return err
	}
	statuses, err := db.SubscriptionStatuses(ctx, "")
	if err != nil {
		return err
	}
	states, err := db.EngineStates(ctx)
	if err != nil {
		return err
	}
	progress, err := db.Progress(ctx)
	if err != nil {
		return err
	}
	stats, err := db.ChannelStats(ctx)
	if err != nil {
		return err
	}
	counters, err := db.Counters(ctx)
	if err != nil {
		return err
	}
	rows, err := db.Conn().Query(ctx, waitingTables)
	if err != nil {
		return fmt.Errorf("look for tables that wait: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, pgx.RowToStructByPos[waitingTable])
	if err != nil {
		return fmt.Errorf("look for tables that wait: %w", err)
	}
	for _, c := range counters {
		if c.Subscription == 0 {
			n.counters = append(n.counters, c)
		}
	}
	for _, sub := range subs {
		s := spockSub{Subscription: sub}
		for _, x := range statuses {
			if x.Name == sub.Name {
				s.status = x.Status
			}
		}
		for _, x := range states {
			if x.ID == sub.ID {
				s.state = x
			}
		}
		for _, x := range progress {
			if x.Node == n.id && x.Provider == sub.Provider {
				s.known, s.progress = true, x
			}
		}
		for _, x := range waiting {
			if x.Subscription == sub.ID {
				s.waiting = append(s.waiting, x)
			}
		}
		if _, paused := apply.Pausing(n.gate); paused && s.status == statusReplicating {
			s.status = statusPaused
		}
		s.count(stats, counters)
		s.measure(time.Now())
		n.subs = append(n.subs, s)
	}
	return nil
}

// count sums the statistics of the subscription's tables.
func (s *spockSub) count(stats []spock.ChannelStats, counters []spock.Counter) {
	for _, x := range stats {
		if x.Subscription != s.ID {
			continue
		}
		s.stats.Inserted += x.Inserted
		s.stats.Updated += x.Updated
		s.stats.Deleted += x.Deleted
		s.stats.Conflicts += x.Conflicts
		s.stats.DCA += x.DCA
	}
	for _, c := range counters {
		if c.Subscription == s.ID {
			s.counters = append(s.counters, c)
		}
	}
}

// told reports whether the stream has said how far it is since it began. What was
// told before is an earlier life's, which may have ended with an error.
func (s *spockSub) told() bool { return s.known && s.progress.UpdatedAt.After(s.state.Began) }

// failing reports whether nothing was applied since the last error, as far as is
// known: a transaction that cannot be applied is tried again and again, and
// between two attempts there is a stream.
func (s *spockSub) failing() bool {
	at := s.state.LastErrorAt
	switch {
	case s.state.LastError == "", s.state.State == stateStreaming && at.After(s.state.Since):
		return false // the latter is about a table that waits for its copy: the stream goes on
	case !s.progress.UpdatedAt.After(at):
		return true
	}
	// What waits was told of again, and it is older than the error.
	return s.progress.ByCommit && !s.progress.Moved && s.lagBytes > 0 && !s.progress.CommitAt.Add(s.ApplyDelay).After(at)
}

// beginning reports whether a stream that has failed has begun again, and has
// not said yet how far it is.
func (n *spockNode) beginning() bool {
	return slices.ContainsFunc(n.subs, func(s spockSub) bool {
		return s.Enabled && s.status == statusReplicating && s.failing() && !s.told()
	})
}

// copying reports whether a table waits for its copy.
func (n *spockNode) copying() bool {
	return slices.ContainsFunc(n.subs, func(s spockSub) bool { return s.Enabled && len(s.waiting) > 0 })
}

// measure says how far behind the subscription is. A stream that has nothing
// to apply is not behind; one that does not run falls behind with the clock.
func (s *spockSub) measure(now time.Time) {
	if !s.known {
		return
	}
	if s.progress.ByCommit {
		s.lagBytes = max(0, pg.LSN(s.progress.InsertLSN).Sub(pg.LSN(s.progress.CommitLSN)))
	}
	switch {
	case s.status != statusReplicating && (s.status != statusPaused || s.lagBytes == 0):
		s.lag = max(0, now.Sub(s.progress.UpdatedAt))
	case s.lagBytes > 0:
		s.lag = max(0, now.Sub(s.progress.CommitAt))
	}
}

// lagKnown reports whether lag means anything.
func (s *spockSub) lagKnown() bool { return s.known && (s.status != statusReplicating || s.told()) }

// bytesKnown reports whether lagBytes means anything: where the provider is now,
// only a stream that runs knows.
func (s *spockSub) bytesKnown() bool {
	return (s.status == statusReplicating || s.status == statusPaused) && s.told()
}

const (
	statusReplicating = "replicating"
	statusPaused      = "paused"
	stateStreaming    = "streaming" // the engine's word
)

// trouble is what --check complains about; "" when all is well.
func (n *spockNode) trouble() string {
	if n.name == "" {
		return "the database is not a node"
	}
	if n.copied {
		return "it is a copy of node " + n.name + ", not the node"
	}
	if !n.engine {
		return "no engine serves node " + n.name
	}
	for _, s := range n.subs {
		if who, paused := apply.Pausing(n.gate); paused && s.status == statusPaused {
			return fmt.Sprintf("subscription %s is paused by pid %d, role %s", s.Name, who.PID, who.Role)
		}
		if s.Enabled && s.status != statusReplicating {
			return fmt.Sprintf("subscription %s is %s", s.Name, s.word())
		}
		if s.Enabled && s.failing() {
			return fmt.Sprintf("subscription %s has applied nothing since its last error: %s", s.Name, s.state.LastError)
		}
	}
	for _, s := range n.subs {
		if s.Enabled && len(s.waiting) > 0 {
			return fmt.Sprintf("subscription %s waits for the copy of %s", s.Name, namesOf(s.waiting))
		}
	}
	return ""
}

// namesOf lists the first few tables, and how many more there are.
func namesOf(tables []waitingTable) string {
	const most = 5
	var names []string
	for _, t := range tables[:min(most, len(tables))] {
		names = append(names, t.Name)
	}
	text := strings.Join(names, ", ")
	if more := len(tables) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// word is the status, with the engine's own word for what it is about.
func (s *spockSub) word() string {
	if s.state.State != "" && s.status != statusReplicating && s.status != statusPaused && s.status != "disabled" {
		return s.status + " (" + s.state.State + ")"
	}
	return s.status
}

func writeSpockTables(w io.Writer, nodes []spockNode) error {
	for _, n := range nodes {
		if n.failure != nil {
			continue // it is told as an error
		}
		if err := n.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (n *spockNode) write(w io.Writer) error {
	if n.name == "" {
		_, err := fmt.Fprintf(w, "%s: schema spock version %d, not a node yet\n\n", n.place, n.schema)
		return err
	}
	engine := "engine runs"
	switch {
	case n.copied:
		engine = "A COPY, NOT THE NODE (see pgdrover spock uninstall)"
	case !n.engine:
		engine = "NO ENGINE"
	}
	if _, err := fmt.Fprintf(w, "Node %s (%d) at %s: %s; %d conflicts on record, %d exceptions, %d tombstones%s\n\n",
		n.name, n.id, n.place, engine, n.resolved, n.exceptions, n.tombstones, n.age()); err != nil {
		return err
	}
	if len(n.subs) == 0 {
		_, err := fmt.Fprint(w, "No subscriptions.\n\n")
		return err
	}
	t := &table{columns: []column{
		{title: "Subscription", width: 12},
		{title: "Provider"},
		{title: "Status", width: 11},
		{title: "Lag bytes"},
		{title: "Lag ms"},
		{title: "Applied"},
		{title: "Inserted"},
		{title: "Updated"},
		{title: "Deleted"},
		{title: "Conflicts"},
		{title: "Failures"},
	}}
	for _, s := range n.subs {
		lagBytes, lag, applied := "?", "?", "-"
		if s.known {
			applied = s.progress.CommitLSN.String()
		}
		if s.lagKnown() {
			lag = strconv.FormatInt(s.lag.Milliseconds(), 10)
		}
		if s.bytesKnown() {
			lagBytes = strconv.FormatInt(s.lagBytes, 10)
		}
		t.add(s.Name, s.ProviderName, s.word(), lagBytes, lag, applied, strconv.FormatInt(s.stats.Inserted, 10),
			strconv.FormatInt(s.stats.Updated, 10), strconv.FormatInt(s.stats.Deleted, 10),
			strconv.FormatInt(s.stats.Conflicts, 10), strconv.Itoa(s.state.Failures))
	}
	if err := t.write(w); err != nil {
		return err
	}
	return n.writeRemarks(w)
}

// age says how old the oldest tombstone is: an old one means a peer that is away.
func (n *spockNode) age() string {
	if n.tombstones == 0 {
		return ""
	}
	return fmt.Sprintf(" (oldest %s)", time.Since(n.oldest).Round(time.Second))
}

// lastError tells what stopped a subscription's worker last.
func lastError(s spock.EngineState) string {
	return fmt.Sprintf("Last error of %s, %s: %s", s.Subscription, s.LastErrorAt.Format(time.DateTime), s.LastError)
}

// writeRemarks says what does not fit into the table: errors, copies under way, settings that are not legal.
func (n *spockNode) writeRemarks(w io.Writer) error {
	var lines []string
	for _, k := range n.gate {
		switch {
		case k.Believed && k.Holds:
			lines = append(lines, fmt.Sprintf("Apply is paused by pid %d, role %s", k.PID, k.Role),
				"HINT: it goes on when that session calls spock.resume_apply_workers(), or ends")
		case k.Holds:
			lines = append(lines, fmt.Sprintf("Session with pid %d of role %s holds the lock that pauses apply, and may not: nothing waits for it but those who may", k.PID, k.Role))
		}
	}
	for _, s := range n.subs {
		for _, t := range s.waiting {
			lines = append(lines, fmt.Sprintf("Table %s of %s waits for its copy (%s): what it lacks is with %s", t.Name, s.Name, t.Status, s.ProviderName))
		}
		if s.state.LastError != "" {
			lines = append(lines, lastError(s.state))
			if s.state.LastHint != "" {
				lines = append(lines, "HINT: "+s.state.LastHint)
			}
		}
		for _, c := range s.counters {
			lines = append(lines, fmt.Sprintf("Counter of %s: %s %d", s.Name, c.Name, c.Value))
		}
	}
	for _, c := range n.copies {
		if c.State != "done" {
			lines = append(lines, fmt.Sprintf("Copy of %s.%s by %s: %s, %d of %d bytes, %d rows", c.Schema, c.Table, c.Subscription, c.State,
				c.BytesDone, c.BytesTotal, c.Rows))
		}
	}
	for _, s := range n.invalid {
		lines = append(lines, fmt.Sprintf("Setting %s = %q is not legal; %s is in force", s.Name, s.Invalid, s.Value))
	}
	if len(lines) == 0 {
		return nil
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// ClusterJournal keeps the record of a run on nodes of the cluster, and beside
// that where Local says. The newest copy counts, so that a run can be taken up
// from anywhere, and whatever node is gone.
type ClusterJournal struct {
	// Kind and Target say what runs are one after the other; Target is a list of names.
	Kind, Target string
	Nodes        []workflow.Node
	Local        Journal // may be nil
	Dial         Dialer

	mu       sync.Mutex // above all below
	sessions map[string]*journalSession
}

// journalSession is a session with a node, or the time at which there was none.
type journalSession struct {
	server Server
	failed time.Time
	absent bool // the node has no place for journals
}

// journalPatience bounds each thing asked of a node: what hangs must not hold up the run.
const journalPatience = 10 * time.Second

const (
	qKeepsRuns = `SELECT pg_catalog.to_regclass('spock.pgdrover_run') IS NOT NULL`
	qLoadRun   = `SELECT record FROM spock.pgdrover_run WHERE kind = $1 AND target = $2 AND state IN ('running', 'failed', 'wanted')
 ORDER BY serial DESC LIMIT 1`
	qRunState  = `SELECT state FROM spock.pgdrover_run WHERE run_id = $1`
	qStoreRun  = `SELECT pgdrover.store_run($1, $2, $3, $4, $5::bigint, $6, $7::jsonb)`
	qRemoveRun = `DELETE FROM spock.pgdrover_run WHERE kind = $1 AND target = $2 AND state <> 'done'`
)

// Load implements Journal.
func (j *ClusterJournal) Load(ctx context.Context) (*Record, error) {
	var newest *Record
	if j.Local != nil {
		record, err := j.Local.Load(ctx)
		if err != nil {
			return nil, err
		}
		newest = record
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if newest != nil && j.settled(ctx, newest) {
		newest.Finished = true
	}
	for _, n := range j.Nodes {
		answer, err := j.ask(ctx, n, qLoadRun, j.Kind, j.Target)
		if err != nil || len(answer.Rows) == 0 {
			continue
		}
		var r Record
		if err := json.Unmarshal([]byte(answer.text(0)), &r); err != nil {
			return nil, &journalError{path: "spock.pgdrover_run of node " + n.Name, err: err}
		}
		if r.Version != recordVersion {
			return nil, &journalError{path: "spock.pgdrover_run of node " + n.Name, err: fmt.Errorf("its version is %d, not %d", r.Version, recordVersion)}
		}
		if newest == nil || newest.Run != r.Run && newest.Finished || newest.Serial < r.Serial {
			newest = &r
		}
	}
	return newest, nil
}

// settled reports whether a run of the local journal was finished or undone
// from another machine: the nodes know it as done, or not any more.
func (j *ClusterJournal) settled(ctx context.Context, local *Record) bool {
	if local.Finished || !local.Begun() || local.Run == "" {
		return local.Finished
	}
	asked, known := 0, 0
	for _, n := range j.Nodes {
		answer, err := j.ask(ctx, n, qRunState, local.Run)
		if err != nil {
			continue
		}
		asked++
		if answer.text(0) == RunDone {
			return true
		}
		known += len(answer.Rows)
	}
	return asked == len(j.Nodes) && known == 0
}

// Save implements Journal. One copy is enough: a node that is away gets its own
// with the next change.
func (j *ClusterJournal) Save(ctx context.Context, record *Record) error {
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	stored := 0
	var problems []error
	if j.Local != nil {
		if err := j.Local.Save(ctx, record); err != nil {
			problems = append(problems, err)
		} else {
			stored++
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, n := range j.Nodes {
		_, err := j.ask(ctx, n, qStoreRun, record.Run, j.Kind, j.Target, record.State, strconv.FormatInt(record.Serial, 10), record.Owner, string(data))
		switch {
		case err == nil:
			stored++
		case !errors.Is(err, errNoPlace):
			problems = append(problems, &NodeError{Node: n.Name, Op: "write journal", Err: err})
		}
	}
	if stored > 0 {
		return nil
	}
	return errors.Join(problems...)
}

// Remove implements Journal.
func (j *ClusterJournal) Remove(ctx context.Context) error {
	var problems []error
	if j.Local != nil {
		problems = append(problems, j.Local.Remove(ctx))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, n := range j.Nodes {
		if _, err := j.ask(ctx, n, qRemoveRun, j.Kind, j.Target); err != nil && !errors.Is(err, errNoPlace) {
			problems = append(problems, &NodeError{Node: n.Name, Op: "remove journal", Err: err})
		}
	}
	return errors.Join(problems...)
}

// Close implements Journal.
func (j *ClusterJournal) Close(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.sessions {
		if s.server != nil {
			_ = s.server.Close(ctx)
		}
	}
	j.sessions = nil
}

var errNoPlace = errors.New("it keeps no journals")

// ask sends one statement to a node. A node that is away is not asked again at once.
func (j *ClusterJournal) ask(ctx context.Context, n workflow.Node, sql string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, journalPatience)
	defer cancel()
	s := j.sessions[n.Name]
	if s == nil {
		if j.sessions == nil {
			j.sessions = map[string]*journalSession{}
		}
		s = &journalSession{}
		j.sessions[n.Name] = s
	}
	if s.absent {
		return Result{}, errNoPlace
	}
	values := make([]*string, len(args))
	for i := range args {
		values[i] = &args[i]
	}
	for again := s.server != nil; ; again = false {
		if s.server == nil || s.server.Closed() {
			if err := j.open(ctx, n, s); err != nil {
				return Result{}, err
			}
			if s.absent {
				return Result{}, errNoPlace
			}
		}
		answer, err := s.server.Ask(ctx, sql, values...)
		switch code := spock.SQLState(err); {
		case code == pgerrcode.UndefinedTable || code == pgerrcode.UndefinedFunction || code == pgerrcode.InvalidSchemaName:
			s.absent = true
			return Result{}, errNoPlace
		case err != nil && again && s.server.Closed():
			continue // the session was idle while its server was started again
		}
		return answer, err
	}
}

func (j *ClusterJournal) open(ctx context.Context, n workflow.Node, s *journalSession) error {
	const pause = time.Second
	if time.Since(s.failed) < pause {
		return errors.New("the node cannot be reached")
	}
	dial := j.Dial
	if dial == nil {
		dial = Dial
	}
	server, err := dial(ctx, n, func(spock.Notice) {})
	if err != nil {
		s.server, s.failed = nil, time.Now()
		return serverError(err)
	}
	s.server = server
	// Spock's own extension has no place for journals.
	answer, err := server.Ask(ctx, qKeepsRuns)
	s.absent = err == nil && answer.text(0) == "f"
	return nil // what went wrong the statement that follows says again
}

// targetOf is how a list of names stands in the journal.
func targetOf(names []string) string { return strings.Join(names, ", ") }

// KnownRun is a run as a node knows it.
type KnownRun struct {
	Kind, Target string
	Record       Record
}

// Runs asks a node for the runs that it knows of, the newest first.
func (s *Surveyor) Runs(ctx context.Context, m workflow.Member) ([]KnownRun, error) {
	var all []KnownRun
	err := s.on(ctx, m, func(server Server) error {
		if keeps, err := server.Ask(ctx, qKeepsRuns); err != nil || !keeps.is() {
			return errors.Join(err, errNoPlace)
		}
		answer, err := server.Ask(ctx, `SELECT kind, target, record FROM spock.pgdrover_run ORDER BY started_at DESC LIMIT 200`)
		if err != nil {
			return err
		}
		for _, row := range answer.Rows {
			r := KnownRun{Kind: *row[0], Target: *row[1]}
			if err := json.Unmarshal([]byte(*row[2]), &r.Record); err != nil {
				return &journalError{path: "spock.pgdrover_run", err: err}
			}
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

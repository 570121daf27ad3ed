package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Record is all that is known of a run.
type Record struct {
	Version int `json:"version"`
	// Run is the run's name in the tables of the nodes; files of steps have none.
	Run string `json:"run,omitempty"`
	// Owner is who works on it, or did last.
	Owner string `json:"owner,omitempty"`
	// Serial counts the changes of the record: of two copies the larger one is right.
	Serial   int64  `json:"serial"`
	State    string `json:"state"`
	Workflow string `json:"workflow"`
	Cluster  string `json:"cluster"`
	// Plan is what the steps were made from, when that was no file.
	Plan    json.RawMessage `json:"plan,omitempty"`
	Started time.Time       `json:"started"`
	Updated time.Time       `json:"updated"`
	// Finished says that nothing is left to do.
	Finished  bool               `json:"finished"`
	Steps     []StepRecord       `json:"steps"`
	Variables workflow.Variables `json:"variables"`
	// Created are the objects that the run made, or was about to make, in order.
	Created []Artifact `json:"created"`
	// GivenUp are nodes that do not join after all, while others do.
	GivenUp []string `json:"given_up,omitempty"`
}

// StepRecord is how one step went.
type StepRecord struct {
	Path    string `json:"path"`
	Phase   string `json:"phase,omitempty"`
	Node    string `json:"node"`
	Command string `json:"command"`
	Object  string `json:"object,omitempty"`
	// What is the step in words.
	What    string    `json:"what,omitempty"`
	Status  Status    `json:"status"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Error   string    `json:"error,omitempty"`
}

// Artifact is an object that a run made.
type Artifact struct {
	Step    string `json:"step"`
	Node    string `json:"node"`
	Command string `json:"command"`
	Object  string `json:"object"`
	// What is the step that made it, in words.
	What string `json:"what,omitempty"`
	// Undo is SQL that removes it and succeeds when it is not there.
	Undo string `json:"undo"`
	// Exists is a query that says whether it is there; empty when nobody can tell.
	Exists string `json:"exists,omitempty"`
	// For are the joining nodes that it serves.
	For []string `json:"for,omitempty"`
}

func (a Artifact) is(b Artifact) bool {
	return a.Step == b.Step && a.Node == b.Node && a.Undo == b.Undo
}

// The states of a run.
const (
	RunRunning = "running"
	RunFailed  = "failed"
	RunDone    = "done"
)

// recordVersion is that of the journal's form.
const recordVersion = 1

// step finds the record of a step, or makes it.
func (r *Record) step(path string) *StepRecord {
	for i := range r.Steps {
		if r.Steps[i].Path == path {
			return &r.Steps[i]
		}
	}
	r.Steps = append(r.Steps, StepRecord{Path: path})
	return &r.Steps[len(r.Steps)-1]
}

// phase is that of a step of a plan; empty when it is of a file.
func (r *Record) phase(path string) string {
	for i := range r.Steps {
		if r.Steps[i].Path == path {
			return r.Steps[i].Phase
		}
	}
	return ""
}

// status is how a step stood when it was last seen; empty when it never was.
func (r *Record) status(path string) Status {
	for i := range r.Steps {
		if r.Steps[i].Path == path {
			return r.Steps[i].Status
		}
	}
	return ""
}

// what is a step in words as it was when it was last seen; empty when it never was.
func (r *Record) what(path string) string {
	for i := range r.Steps {
		if r.Steps[i].Path == path {
			return r.Steps[i].What
		}
	}
	return ""
}

// Begun reports whether the run has done anything.
func (r *Record) Begun() bool { return len(r.Steps) > 0 }

// Journal keeps a record across runs of the program.
type Journal interface {
	// Load returns the record of the last run, or nil when there is none.
	Load(ctx context.Context) (*Record, error)
	Save(ctx context.Context, record *Record) error
	Remove(ctx context.Context) error
	// Close ends what the journal holds open; it may be used again.
	Close(ctx context.Context)
}

// FileJournal is a journal in a file.
type FileJournal struct{ Path string }

// Load implements Journal.
func (j FileJournal) Load(context.Context) (*Record, error) {
	data, err := os.ReadFile(j.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no run so far is no error
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, &journalError{path: j.Path, err: err}
	}
	if r.Version != recordVersion {
		return nil, &journalError{path: j.Path, err: fmt.Errorf("its version is %d, not %d", r.Version, recordVersion)}
	}
	return &r, nil
}

// Save implements Journal: the file is replaced as a whole, and durable.
func (j FileJournal) Save(_ context.Context, record *Record) error {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := writeFile(j.Path, append(data, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Remove implements Journal.
func (j FileJournal) Remove(context.Context) error {
	if err := os.Remove(j.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}

// Close implements Journal.
func (j FileJournal) Close(context.Context) {}

func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".journal-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the journal's own directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// journalError is a journal that cannot be used.
type journalError struct {
	path string
	err  error
}

func (e *journalError) Error() string {
	return fmt.Sprintf("read journal %q: %v", e.path, e.err)
}
func (e *journalError) Unwrap() error { return e.err }

// Hint says how to go on without it.
func (e *journalError) Hint() string {
	return "remove the file to forget that run; what it created is then yours to remove"
}

package orchestrator

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	errLocked     = errors.New("another run works on this cluster")
	errServerGone = errors.New("its server is gone")
	// ErrTimeout says that something did not come in time.
	ErrTimeout = errors.New("it did not come in time")
)

// NodeError is an error of one node.
type NodeError struct {
	Node, Op string
	Err      error
}

// Error names the node.
func (e *NodeError) Error() string { return fmt.Sprintf("%s on node %s: %v", e.Op, e.Node, e.Err) }

// Unwrap returns the cause.
func (e *NodeError) Unwrap() error { return e.Err }

// Hint says what to look at.
func (e *NodeError) Hint() string {
	if errors.Is(e.Err, errLocked) {
		return "wait for its end; a session named pgdrover on that node holds the lock"
	}
	var h interface{ Hint() string }
	if errors.As(e.Err, &h) {
		return h.Hint()
	}
	return ""
}

// StepError says that steps failed.
type StepError struct {
	// Step is the one at which the run ended; empty when it went on.
	Step string
	Node string
	// Failed counts the failed steps.
	Failed int
	// TimedOut says that something was waited for in vain.
	TimedOut bool
	Err      error
}

// Error names the step.
func (e *StepError) Error() string {
	switch {
	case e.Step == "":
		return fmt.Sprintf("%d steps failed", e.Failed)
	case e.Node == "":
		return fmt.Sprintf("%s: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("%s on node %s: %v", e.Step, e.Node, e.Err)
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Hint is that of the cause.
func (e *StepError) Hint() string {
	var h interface{ Hint() string }
	if e.Err != nil && errors.As(e.Err, &h) {
		return h.Hint()
	}
	return ""
}

// CancelledError says that a run was told to end.
type CancelledError struct {
	Step string
	Err  error
}

// Error names the step at which it was.
func (e *CancelledError) Error() string { return "cancelled at " + e.Step }

// Unwrap returns what ended it.
func (e *CancelledError) Unwrap() error { return e.Err }

// differsError is an object that exists and is not what was wanted.
type differsError struct {
	what        string
	differences []string
}

func (e *differsError) Error() string {
	return e.what + " exists already, and differs: " + strings.Join(e.differences, "; ")
}

// Hint says what to do about it.
func (e *differsError) Hint() string {
	return "drop it first, or make the file say what is there"
}

// otherPlan is a plan whose steps are not those that an unfinished run has done.
type otherPlan struct{ step, before, now string }

func (e *otherPlan) Error() string {
	return fmt.Sprintf("go on with the unfinished run: another release of the program began it: its %s was %q, now that is %q", e.step, e.before, e.now)
}

// Hint says what to do with it.
func (e *otherPlan) Hint() string {
	return "finish it with that release, or undo it with --rollback"
}

// LeftError is a run that could not be undone as a whole.
type LeftError struct {
	Left []Artifact
	Err  error
}

// Error lists what is left.
func (e *LeftError) Error() string {
	return fmt.Sprintf("undo the run: %v; left are: %s", e.Err, leftText(e.Left))
}

// leftText names things with their nodes.
func leftText(left []Artifact) string {
	list := make([]string, len(left))
	for i, a := range left {
		list[i] = a.text() + " on " + a.Node
	}
	return strings.Join(list, ", ")
}

// text names what was made; what has no name of its own is what its step did.
func (a Artifact) text() string {
	if kind, ok := strings.CutPrefix(a.Command, "CREATE "); ok {
		return strings.TrimSpace(strings.ToLower(kind) + " " + a.Object)
	}
	if a.Object == "" && a.What != "" {
		return strconv.Quote(a.What)
	}
	return strings.TrimSpace(strings.ToLower(a.Command) + " " + a.Object)
}

// Unwrap returns the causes.
func (e *LeftError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *LeftError) Hint() string {
	return "call it again when all nodes can be reached; a node that is gone for good is removed with remove_node --survivor-dsn"
}

// GuardError is a limit that was reached.
type GuardError struct {
	Node, Text string
	// Undo says that the run must not be left as it is.
	Undo bool
}

// Error names the node.
func (e *GuardError) Error() string { return "stop for the sake of node " + e.Node + ": " + e.Text }

// Hint says what to do about it.
func (e *GuardError) Hint() string {
	return "make room, or raise the limit (--max-retained-wal, max_slot_wal_keep_size), and call it again"
}

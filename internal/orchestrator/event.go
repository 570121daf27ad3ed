package orchestrator

import "time"

// Status is how a step stands.
type Status string

// The states of a step.
const (
	Running   Status = "running"
	OK        Status = "ok"
	Exists    Status = "exists"    // what it makes was there already, as wanted
	Absent    Status = "absent"    // what it drops was not there
	Unchanged Status = "unchanged" // it was so already
	Failed    Status = "failed"
	Cancelled Status = "cancelled" // it was told to end before it was done
	Ignored   Status = "ignored"   // it failed, and that does not matter
	Skipped   Status = "skipped"   // it was not wanted
	Undone    Status = "undone"
	Waiting   Status = "waiting" // still; Message says for what
	Noted     Status = "note"    // a message that is about no end of a step
)

// Good reports whether a step with this status needs nothing more.
func (s Status) Good() bool {
	switch s {
	case OK, Exists, Absent, Unchanged, Ignored, Skipped:
		return true
	default:
		return false
	}
}

// Event is news of a run.
type Event struct {
	Time time.Time
	// Run is the name of the run; runs of files have none.
	Run string
	// Step is the number of the step as messages show it, Total how many there are.
	Step  string
	Total int
	// Phase is that of the plan; files have none.
	Phase       string
	Node        string
	Type        string
	Command     string
	Description string
	Status      Status
	// Parallel says that other steps run at the same time.
	Parallel bool
	Seconds  float64
	// Done and Of measure how far a step is; both are 0 when nobody knows.
	Done, Of int64
	// Rate is how much of that is done in a second, Left how long the rest takes
	// then; both are 0 when nobody knows.
	Rate int64
	Left time.Duration
	// Variables are those that the step has set.
	Variables map[string]*string
	Message   string
	Err       error
}

// Pace words the rate of a step, and how long the rest takes; empty when nobody knows.
func (e Event) Pace() string {
	if e.Rate <= 0 {
		return ""
	}
	return ", " + ByteText(e.Rate) + "/s, " + e.Left.String() + " left"
}

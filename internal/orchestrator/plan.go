package orchestrator

import (
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Planned is one step of a dry run: what would be sent where.
type Planned struct {
	Step      workflow.Step
	Statement string
	Reads     []string
	Writes    []string
}

// Plan says what a run would send, with the variables that steps have yet to
// set left in place. It asks no server.
func (e *Executor) Plan() []Planned {
	var all []Planned
	for _, s := range e.cfg.Steps {
		p := Planned{Step: s, Statement: s.Shell}
		if s.Type != workflow.TypeShell {
			p.Statement = planned(s)
		}
		for _, r := range s.Reads(e.isNode) {
			p.Reads = append(p.Reads, r.String())
		}
		keys, known := s.Writes()
		for _, key := range keys {
			p.Writes = append(p.Writes, "$"+s.Node+"."+key)
		}
		if !known {
			p.Writes = append(p.Writes, "$"+s.Node+".…")
		}
		all = append(all, p)
	}
	return all
}

func planned(s workflow.Step) string {
	nobody := func(string) bool { return false }
	statement, err := s.Statement(nobody, nil, true)
	if err != nil {
		// A value that only its variable will make legal.
		return workflow.Mask(err.Error())
	}
	return strings.TrimSpace(statement.String())
}

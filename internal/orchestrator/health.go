package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Verdict is how a check ended.
type Verdict string

// The verdicts.
const (
	Pass Verdict = "PASS"
	Warn Verdict = "WARN"
	Fail Verdict = "FAIL"
)

// Check is one answered question about a cluster.
type Check struct {
	Verdict Verdict
	Node    string
	Text    string
}

// HealthConfig says what is to be checked.
type HealthConfig struct {
	Source workflow.Member
	// New is the node that is to join, or has; its name is empty when there is none.
	New workflow.Member
	// OnlyData says that the new node has its tables already.
	OnlyData bool
	// CreateRoles says that the join creates the roles which the new node lacks.
	CreateRoles bool
	// DropStale says that the join drops what earlier attempts have left.
	DropStale bool
	// Post asks whether a join went well, instead of whether it can.
	Post bool
	// MaxLag is how many bytes a subscriber may be behind; 1 GB.
	MaxLag int64
	// LongTransaction is how long a transaction may be open without a warning; 1 min.
	LongTransaction time.Duration
	// Patience is for what may be well in a moment: an engine that starts, a mark
	// on its way; 10 s.
	Patience time.Duration
	// CompareData compares the rows of all replicated tables after a join.
	CompareData bool
}

func (c HealthConfig) withDefaults() HealthConfig {
	if c.MaxLag == 0 {
		c.MaxLag = 1 << 30
	}
	if c.LongTransaction == 0 {
		c.LongTransaction = time.Minute
	}
	if c.Patience == 0 {
		c.Patience = 10 * time.Second
	}
	return c
}

// health gathers checks.
type health struct {
	*Surveyor
	cfg      HealthConfig
	tell     func(Check)
	ended    func() bool // whoever asked does not want to know any more
	checks   []Check
	versions map[string]string // of schema spock, by node
}

func (h *health) add(verdict Verdict, node, format string, args ...any) {
	if h.ended() {
		return // what failed by that is no finding
	}
	c := Check{Verdict: verdict, Node: node, Text: fmt.Sprintf(format, args...)}
	h.checks = append(h.checks, c)
	if h.tell != nil {
		h.tell(c)
	}
}

func (h *health) verdict(ok bool, node, good, wrong string) {
	if ok {
		h.add(Pass, node, "%s", good)
		return
	}
	h.add(Fail, node, "%s", wrong)
}

// must asks a node; what it cannot answer has failed under that name.
func (h *health) must(ctx context.Context, m workflow.Member, what string, use func(Server) error) {
	if err := h.on(ctx, m, use); err != nil {
		h.add(Fail, m.Name, "%s: %s", what, reason(err))
	}
}

// Health checks a cluster before or after a node joins. Each check is told as
// soon as it is answered; what cannot be asked has failed. When the context ends
// they are not whole.
func (s *Surveyor) Health(ctx context.Context, cfg HealthConfig, tell func(Check)) []Check {
	h := &health{Surveyor: s, cfg: cfg.withDefaults(), tell: tell, ended: func() bool { return ctx.Err() != nil }, versions: map[string]string{}}
	source, newcomer := cfg.Source.Name, cfg.New.Name
	t, err := s.Survey(ctx, cfg.Source)
	if err != nil {
		h.add(Fail, source, "%s", h.sourceProblem(ctx, err))
		if newcomer != "" {
			h.reach(ctx, cfg.New)
		}
		return h.checks
	}
	h.add(Pass, source, "source node %s can be reached, and schema spock is installed", source)
	h.add(Pass, source, "source node %s knows %d nodes", source, len(t.Members))
	members := h.members(ctx, t)
	if newcomer != "" && !cfg.Post && h.reach(ctx, cfg.New) {
		h.settings(ctx, cfg.New, len(t.Members))
		h.empty(ctx, t)
		h.room(ctx)
		members = append(members, cfg.New)
	}
	if newcomer != "" {
		h.sameVersion()
	}
	h.facts(ctx, members)
	h.ways(ctx, members)
	h.mesh(t)
	if newcomer != "" && cfg.Post {
		h.joined(ctx, t, members)
	}
	return h.checks
}

// members checks the nodes of the cluster, and returns those that answer.
func (h *health) members(ctx context.Context, t *Topology) []workflow.Member {
	var answering []workflow.Member
	for _, m := range t.Members {
		if h.cfg.New.Name == m.Name && !h.cfg.Post {
			continue
		}
		if err := t.Unreachable[m.Name]; err != nil {
			h.add(Fail, m.Name, "connect to node %s: %s", m.Name, reason(err))
			continue
		}
		answering = append(answering, m)
		needs := 0
		if h.cfg.New.Name != "" && !h.cfg.Post {
			needs = 1
		}
		h.settings(ctx, m, needs)
		if m.Bare {
			continue
		}
		h.subscriptions(ctx, m)
		h.slots(ctx, t, m)
		h.walRoom(ctx, m)
	}
	return answering
}

// sourceProblem words why the cluster could not be asked through the source.
func (h *health) sourceProblem(ctx context.Context, err error) string {
	name := h.cfg.Source.Name
	if wrong, ok := errors.AsType[*wrongNode](err); ok {
		return "source node " + name + ": " + wrong.Error()
	}
	if node, ok := errors.AsType[*NodeError](err); !ok || node.Op != opAsk {
		return "connect to source node " + name + ": " + reason(err)
	}
	if installed, askErr := h.installed(ctx, h.cfg.Source); askErr == nil && !installed {
		return "schema spock is not installed on source node " + name
	}
	return "the nodes that source node " + name + " knows cannot be read: " + reason(err)
}

// reason is an error without the name of its node, which stands beside it.
func reason(err error) string {
	text := strings.Join(strings.Fields(workflow.Mask(err.Error())), " ")
	if _, after, ok := strings.Cut(text, " on node "); ok {
		if _, after, ok = strings.Cut(after, ": "); ok {
			return after
		}
	}
	return text
}

// qInstalled asks catalogs only, which everybody may.
const qInstalled = `SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'spock' AND p.proname = 'spock_version')`

func (h *health) installed(ctx context.Context, m workflow.Member) (installed bool, err error) {
	err = h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, qInstalled)
		installed = answer.is()
		return err
	})
	return installed, err
}

// reach asks whether a new node is there.
func (h *health) reach(ctx context.Context, m workflow.Member) bool {
	installed, err := h.installed(ctx, m)
	switch {
	case err != nil:
		h.add(Fail, m.Name, "connect to new node %s: %s", m.Name, reason(err))
	case !installed:
		h.add(Fail, m.Name, "schema spock is not installed on new node %s", m.Name)
	default:
		h.add(Pass, m.Name, "new node %s can be reached, and schema spock is installed", m.Name)
	}
	return err == nil && installed
}

func (h *health) sameVersion() {
	wanted := h.versions[h.cfg.Source.Name]
	for _, name := range sortedNames(h.versions) {
		h.verdict(h.versions[name] == wanted, name, fmt.Sprintf("%s has version %s", name, h.versions[name]),
			fmt.Sprintf("%s has version %s, the source has %s", name, h.versions[name], wanted))
	}
}

// mesh checks that every node subscribes to every other: a node that gets
// changes by way of a third one would miss some.
func (h *health) mesh(t *Topology) {
	var missing []string
	for _, provider := range t.Members {
		for _, subscriber := range t.Members {
			found := provider.Name == subscriber.Name
			for _, l := range t.Links {
				found = found || l.Provider == provider.Name && l.Subscriber == subscriber.Name
			}
			if !found {
				missing = append(missing, subscriber.Name+" to "+provider.Name)
			}
		}
	}
	h.verdict(len(missing) == 0, "", "every node subscribes to every other", "subscriptions are missing: "+strings.Join(missing, ", "))
}

// soon looks again and again until there is no problem left, or patience ends.
// What it returns are the last problems.
func (h *health) soon(ctx context.Context, look func() ([]string, error)) ([]string, error) {
	for began := time.Now(); ; {
		problems, err := look()
		if err != nil || len(problems) == 0 || ctx.Err() != nil || time.Since(began) >= h.cfg.Patience {
			return problems, err
		}
		sleep(ctx, min(h.cfg.Patience/10, 500*time.Millisecond))
	}
}

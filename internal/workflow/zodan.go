package workflow

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Member is a node of a cluster that grows or shrinks.
type Member struct {
	Name string
	// DSN is how the other servers reach it.
	DSN string
	// Sets are its replication sets.
	Sets []string
	// Bare says that the database is no node yet.
	Bare bool
}

// Link is a subscription that exists.
type Link struct {
	Name                 string
	Provider, Subscriber string // names of nodes
	Slot                 string // on the provider
	Disabled             bool
}

// SubscriptionName is the name that tools give to a subscription.
func SubscriptionName(provider, subscriber string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return '_'
	}, "sub_"+provider+"_"+subscriber)
}

// planner numbers the steps of a plan.
type planner struct {
	steps []Step
	group int
	// behind are the peers of a dead node that may have less of its changes than others.
	behind []Member
}

func (p *planner) add(s Step) {
	s.Number = len(p.steps) + 1
	s.Path = strconv.Itoa(s.Number)
	p.steps = append(p.steps, s)
}

// together adds steps that run at the same time.
func (p *planner) together(steps []Step) {
	p.group++
	for _, s := range steps {
		if len(steps) > 1 {
			s.Parallel = p.group
		}
		p.add(s)
	}
}

// each adds one step for each member; they run at the same time.
func (p *planner) each(members []Member, step func(i int, m Member) Step) {
	var steps []Step
	for i, m := range members {
		steps = append(steps, step(i, m))
	}
	p.together(steps)
}

// commandStep is a step with a command; an empty option is left out.
func commandStep(phase, node, description, name string, options ...string) Step {
	s := Step{Type: TypeSpock, Phase: phase, Node: node, Description: description, Command: command(name), Options: map[string]string{}}
	for i := 0; i+1 < len(options); i += 2 {
		if options[i+1] != "" {
			s.Options[options[i]] = options[i+1]
		}
	}
	return s
}

func sqlStep(phase, node, description, sql string) Step {
	return Step{Type: TypeSQL, Phase: phase, Node: node, Description: description, SQL: sql}
}

func waitStep(phase, node, description, sql string) Step {
	return Step{Type: TypeWait, Phase: phase, Node: node, Description: description, SQL: sql}
}

// variable is a reference for any name of a node.
func variable(node, key string) string { return "${" + node + "}." + key }

// subscription subscribes a node to a provider without copying anything.
func subscription(phase string, provider Member, subscriber, enabled string, more []string) Step {
	name := SubscriptionName(provider.Name, subscriber)
	options := append([]string{
		"sub_name", name, "provider_dsn", provider.DSN, "replication_sets", ListLiteral(provider.Sets),
		"forward_origins", "{}", "enabled", enabled,
	}, more...)
	what := "Create subscription "
	if enabled == "false" {
		what = "Create disabled subscription "
	}
	return commandStep(phase, subscriber, what+name+" on "+subscriber, CreateSubscription, options...)
}

// mark writes a mark into a node's stream and keeps its position.
func mark(phase, node, key string) Step {
	return sqlStep(phase, node, "Write a mark on "+node, "SELECT spock.sync_event() AS "+key)
}

// reached waits until a node has applied another's changes up to a mark.
func reached(phase, node, provider, key string) Step {
	s := waitStep(phase, node, fmt.Sprintf("Wait until %s has the changes of %s", node, provider),
		"SELECT coalesce(max(o.remote_lsn) >= '"+variable(provider, key)+"'::pg_lsn, false) AS reached, max(o.remote_lsn) AS position, "+
			"'"+variable(provider, key)+"' AS wanted, pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff('"+variable(provider, key)+"'::pg_lsn,\n"+
			"       coalesce(max(o.remote_lsn), '"+variable(provider, key)+"'::pg_lsn))) AS behind\n"+
			"  FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin\n"+
			"  JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = s.sub_slot_name::text\n"+
			" WHERE n.node_name = "+pg.QuoteLiteral(provider))
	s.Refuse = fmt.Sprintf("no subscription of %s to %s gets on", node, provider)
	return s
}

// replicating waits until a subscription, or all of a node, is streaming.
func replicating(phase, node, name string) Step {
	what, condition := "all subscriptions of "+node, ""
	if name != "" {
		what, condition = "subscription "+name, " WHERE subscription_name = "+pg.QuoteLiteral(name)
	}
	s := waitStep(phase, node, "Wait until "+what+" replicate", "SELECT count(*) > 0 AND bool_and(status = 'replicating') AS replicating,\n"+
		"       string_agg(subscription_name || ' ' || status, ', ' ORDER BY subscription_name) AS state\n  FROM spock.sub_show_status()"+condition)
	if name != "" {
		s.Description = "Wait until " + what + " replicates"
	}
	return s
}

// whileSlotIsMade restricts that to a node on which a slot is being made.
const whileSlotIsMade = `SELECT b.* FROM (` + openTransactions + `) b
 WHERE EXISTS (SELECT FROM pg_catalog.pg_replication_slots r WHERE r.active_pid IS NOT NULL AND r.confirmed_flush_lsn IS NULL)`

// openTransactions are what the creation of a slot waits for.
const openTransactions = `SELECT format('process %s of %s, in a transaction for %s', pid, coalesce(usename, 'nobody'),
       date_trunc('second', clock_timestamp() - xact_start))
  FROM pg_catalog.pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND clock_timestamp() - xact_start > interval '2 seconds'
UNION ALL SELECT format('prepared transaction %s of %s', gid, owner) FROM pg_catalog.pg_prepared_xacts`

// troubles are the subscriptions that cannot get on. What a restored definition
// is refused for does not pass.
const troubles = `SELECT s.sub_name || ': ' || left(regexp_replace(p.last_error, '[[:space:]]+', ' ', 'g'), 500) AS trouble,
       p.failures > 2 AND p.last_error ~ 'pg_restore: error: .*ERROR: |^copy structure: ' AND p.last_error ~ '(already exists|is here already|does not exist|permission denied|must be owner|must be superuser|syntax error|is not available|not supported|unrecognized|extension control file)' AS in_vain
  FROM spock.subscription s JOIN spock.pgdrover_subscription p USING (sub_id)
 WHERE s.sub_enabled AND p.state IS DISTINCT FROM 'streaming' AND p.failures > 1 AND p.last_error <> '' ORDER BY s.sub_name`

// troubled lets all steps that wait tell what keeps engines from getting on.
func (p *planner) troubled() {
	for i := range p.steps {
		if p.steps[i].Type == TypeWait {
			p.steps[i].Trouble = troubles
		}
	}
}

package orchestrator

import (
	"context"
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
	// Post asks whether a join went well, instead of whether it can.
	Post bool
}

// health gathers checks.
type health struct {
	*Surveyor
	cfg    HealthConfig
	tell   func(Check)
	checks []Check
}

func (h *health) add(verdict Verdict, node, format string, args ...any) {
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

// Health checks a cluster before or after a node joins. Each check is told as
// soon as it is answered; what cannot be asked has failed.
func (s *Surveyor) Health(ctx context.Context, cfg HealthConfig, tell func(Check)) []Check {
	h := &health{Surveyor: s, cfg: cfg, tell: tell}
	source := cfg.Source
	t, err := s.Survey(ctx, source)
	if err != nil {
		h.add(Fail, source.Name, "connect to source node %s: %s", source.Name, reason(err))
		if cfg.New.Name != "" {
			h.reach(ctx, cfg.New)
		}
		return h.checks
	}
	h.add(Pass, source.Name, "source node %s can be reached, and schema spock is installed", source.Name)
	h.add(Pass, source.Name, "source node %s knows %d nodes", source.Name, len(t.Members))
	versions := map[string]string{}
	for _, m := range t.Members {
		if cfg.New.Name == m.Name && !cfg.Post {
			continue
		}
		if err := t.Unreachable[m.Name]; err != nil {
			h.add(Fail, m.Name, "connect to node %s: %s", m.Name, reason(err))
			continue
		}
		h.member(ctx, m, versions)
	}
	if cfg.New.Name != "" && !cfg.Post && h.reach(ctx, cfg.New) {
		h.settings(ctx, cfg.New, versions)
		h.empty(ctx, t)
	}
	if cfg.New.Name != "" {
		h.sameVersion(versions)
	}
	h.facts(ctx, t)
	if !cfg.Post {
		h.mesh(t)
	}
	if cfg.Post && cfg.New.Name != "" {
		h.joined(t)
	}
	return h.checks
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

func (h *health) reach(ctx context.Context, m workflow.Member) bool {
	err := h.on(ctx, m, func(server Server) error {
		_, err := server.Ask(ctx, "SELECT spock.spock_version()")
		return err
	})
	h.verdict(err == nil, m.Name, "new node "+m.Name+" can be reached, and schema spock is installed", "new node "+m.Name+": "+reasonOr(err))
	return err == nil
}

func reasonOr(err error) string {
	if err == nil {
		return ""
	}
	return reason(err)
}

// member checks a node of the cluster: its settings and its subscriptions.
func (h *health) member(ctx context.Context, m workflow.Member, versions map[string]string) {
	h.settings(ctx, m, versions)
	if m.Bare {
		return
	}
	err := h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, `SELECT subscription_name, status FROM spock.sub_show_status() ORDER BY 1`)
		if err != nil {
			return err
		}
		var bad []string
		for _, row := range answer.Rows {
			if *row[1] != "replicating" {
				bad = append(bad, *row[0]+" is "+*row[1])
			}
		}
		h.verdict(len(bad) == 0, m.Name, fmt.Sprintf("all %d subscriptions of %s replicate", len(answer.Rows), m.Name),
			"subscriptions of "+m.Name+": "+strings.Join(bad, ", "))
		return nil
	})
	if err != nil {
		h.add(Fail, m.Name, "subscriptions of %s: %s", m.Name, reason(err))
	}
}

// qSettings asks for what every node needs. The engine is asked for where the schema has one of its own.
const qSettings = `SELECT spock.spock_version(), current_setting('wal_level'), current_setting('track_commit_timestamp'),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
       to_regprocedure('pgdrover.engine_connected()') IS NOT NULL, current_setting('server_encoding'),
       (SELECT count(*) FROM pg_catalog.pg_prepared_xacts)`

func (h *health) settings(ctx context.Context, m workflow.Member, versions map[string]string) {
	err := h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, qSettings)
		if err != nil {
			return err
		}
		versions[m.Name] = answer.text(0)
		h.verdict(answer.text(1) == "logical", m.Name, "wal_level of "+m.Name+" is logical", "wal_level of "+m.Name+" is "+answer.text(1)+", not logical")
		h.verdict(answer.text(2) == "on", m.Name, "track_commit_timestamp of "+m.Name+" is on", "track_commit_timestamp of "+m.Name+" is "+answer.text(2))
		h.verdict(answer.text(3) >= "1" && !strings.HasPrefix(answer.text(3), "-"), m.Name, m.Name+" has "+answer.text(3)+" free replication slots", m.Name+" has no free replication slot: raise max_replication_slots")
		h.verdict(answer.text(4) >= "1" && !strings.HasPrefix(answer.text(4), "-"), m.Name, m.Name+" has "+answer.text(4)+" free senders", m.Name+" has no free sender: raise max_wal_senders")
		if answer.text(7) != "0" {
			h.add(Warn, m.Name, "%s has %s prepared transactions, for which slots wait", m.Name, answer.text(7))
		}
		if answer.text(5) != "t" {
			return nil
		}
		engine, err := h.engine(ctx, server)
		if err == nil {
			h.verdict(engine, m.Name, "an engine serves "+m.Name, "no engine serves "+m.Name+": pgdrover spock run --dsn …")
		}
		return err
	})
	if err != nil {
		h.add(Fail, m.Name, "settings of %s: %s", m.Name, reason(err))
	}
}

// engine asks whether an engine serves a database. On one that is no node yet
// it waits, and serves nothing so far; one that has just lost its server comes
// back in a moment.
func (h *health) engine(ctx context.Context, server Server) (bool, error) {
	const moment = 5 * time.Second
	for began := time.Now(); ; {
		answer, err := server.Ask(ctx, `SELECT pgdrover.engine_connected() OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND application_name ~ '^spock manager')`)
		if err != nil || answer.is() || time.Since(began) > moment || ctx.Err() != nil {
			return answer.is(), err
		}
		sleep(ctx, moment/10)
	}
}

func (h *health) sameVersion(versions map[string]string) {
	wanted := versions[h.cfg.Source.Name]
	for _, name := range sortedNames(versions) {
		h.verdict(versions[name] == wanted, name, fmt.Sprintf("%s has version %s", name, versions[name]),
			fmt.Sprintf("%s has version %s, the source has %s", name, versions[name], wanted))
	}
}

// qEmpty asks a new node for what must not be there.
const qEmpty = `SELECT
  (SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname) FROM pg_catalog.pg_class c
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'spock', 'pgdrover', 'lolor')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
  (SELECT string_agg(sub_name, ', ') FROM spock.subscription),
  (SELECT string_agg(node_name, ', ') FROM spock.node),
  (SELECT json_agg(rolname) FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_')`

// empty checks that a new node has nothing that a copy would meet, and the roles that it needs.
func (h *health) empty(ctx context.Context, t *Topology) {
	m := h.cfg.New
	if _, ok := t.Member(m.Name); ok {
		h.add(Fail, m.Name, "the cluster already has a node %s", m.Name)
	}
	var roles string
	err := h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, qEmpty)
		if err != nil {
			return err
		}
		h.verdict(answer.text(0) == "" || h.cfg.OnlyData, m.Name, "new node "+m.Name+" has no tables", "new node "+m.Name+" is not empty: "+answer.text(0))
		h.verdict(answer.text(1) == "", m.Name, "new node "+m.Name+" has no subscriptions", "new node "+m.Name+" has subscriptions: "+answer.text(1))
		h.verdict(answer.text(2) == "", m.Name, "new node "+m.Name+" is in no cluster", "new node "+m.Name+" knows nodes already: "+answer.text(2))
		roles = answer.text(3)
		return nil
	})
	if err == nil {
		err = h.on(ctx, h.cfg.Source, func(server Server) error {
			answer, err := server.Ask(ctx, `SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_catalog.pg_roles
 WHERE rolname !~ '^pg_' AND rolname NOT IN ('postgres', 'rdsadmin', 'rdsrepladmin', 'rds_superuser')
   AND NOT EXISTS (SELECT FROM json_array_elements_text($1::json) x WHERE x = rolname)`, &roles)
			if err != nil {
				return err
			}
			h.verdict(answer.text(0) == "", m.Name, "new node "+m.Name+" has all roles of the source", "new node "+m.Name+" lacks the roles "+answer.text(0))
			return nil
		})
	}
	if err != nil {
		h.add(Fail, m.Name, "new node %s: %s", m.Name, reason(err))
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

// joined checks that the new node is one of them.
func (h *health) joined(t *Topology) {
	h.mesh(t)
	_, known := t.Member(h.cfg.New.Name)
	h.verdict(known, h.cfg.New.Name, "the cluster knows "+h.cfg.New.Name, "the cluster does not know "+h.cfg.New.Name)
}

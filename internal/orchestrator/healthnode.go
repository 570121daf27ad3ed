package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Checks of one node.

// qSettings asks for what every node needs. The engine is asked for where the schema has one of its own.
const qSettings = `SELECT spock.spock_version(), current_setting('wal_level'), current_setting('track_commit_timestamp'),
       to_regprocedure('pgdrover.engine_connected()') IS NOT NULL, (SELECT count(*) FROM pg_catalog.pg_prepared_xacts),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
       coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int
         - (SELECT count(*) FROM pg_catalog.pg_replication_origin_status),
       current_setting('max_worker_processes')::int - (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.backend_type NOT IN
         ('client backend', 'walsender', 'checkpointer', 'background writer', 'walwriter', 'autovacuum launcher', 'autovacuum worker',
          'archiver', 'startup', 'walreceiver', 'slotsync worker', 'io worker', 'walsummarizer')),
       CASE WHEN current_setting('max_active_replication_origins', true) IS NULL THEN 'max_replication_slots' ELSE 'max_active_replication_origins' END`

// supply is something that a server has only so many of.
type supply struct{ what, setting string }

// supplies are the columns of qSettings from the sixth on; from 18 on origins have
// a setting of their own, which the last one names.
func supplies(origins string) []supply {
	return []supply{
		{"replication slots", "max_replication_slots"},
		{"senders", "max_wal_senders"},
		{"replication origins", origins},
		{"background workers", "max_worker_processes"},
	}
}

// settings checks what every node needs, and that so many more streams each way find room.
func (h *health) settings(ctx context.Context, m workflow.Member, streams int) {
	h.must(ctx, m, "settings of "+m.Name, func(server Server) error {
		user, err := server.Ask(ctx, "SELECT rolname, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
		if err != nil {
			return err
		}
		if user.text(1) != "t" {
			h.add(Fail, m.Name, "user %s of %s is no superuser", user.text(0), m.Name)
			return nil
		}
		answer, err := server.Ask(ctx, qSettings)
		if err != nil {
			return err
		}
		h.versions[m.Name] = answer.text(0)
		h.verdict(answer.text(1) == "logical", m.Name, "wal_level of "+m.Name+" is logical", "wal_level of "+m.Name+" is "+answer.text(1)+", not logical")
		h.verdict(answer.text(2) == "on", m.Name, "track_commit_timestamp of "+m.Name+" is on", "track_commit_timestamp of "+m.Name+" is "+answer.text(2))
		if answer.text(4) != "0" {
			h.add(Warn, m.Name, "%s has %s prepared transactions, for which slots wait", m.Name, answer.text(4))
		}
		ours := answer.text(3) == "t"
		for i, s := range supplies(answer.text(9)) {
			if streams > 0 && (!ours || s.setting != "max_worker_processes") { // our engine takes none of those
				h.supply(m, s, answer.text(5+i), streams)
			}
		}
		if !ours {
			return nil
		}
		return h.engine(ctx, server, m)
	})
}

func (h *health) supply(m workflow.Member, s supply, free string, needed int) {
	n, err := strconv.Atoi(free)
	h.verdict(err == nil && n >= needed, m.Name, fmt.Sprintf("%s has %s free %s", m.Name, free, s.what),
		fmt.Sprintf("%s has %d free %s and needs %d: raise %s", m.Name, max(n, 0), s.what, needed, s.setting))
}

// engine asks whether an engine serves a database. On one that is no node yet
// it waits, and serves nothing so far; one that has just lost its server comes
// back in a moment.
func (h *health) engine(ctx context.Context, server Server, m workflow.Member) error {
	missing, err := h.soon(ctx, func() ([]string, error) {
		answer, err := server.Ask(ctx, `SELECT pgdrover.engine_connected() OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND application_name ~ '^spock manager')`)
		if err == nil && !answer.is() {
			return []string{"no engine serves " + m.Name + ": pgdrover spock run --dsn …"}, nil
		}
		return nil, err
	})
	if err == nil {
		h.verdict(len(missing) == 0, m.Name, "an engine serves "+m.Name, strings.Join(missing, ""))
	}
	return err
}

func (h *health) subscriptions(ctx context.Context, m workflow.Member) {
	h.must(ctx, m, "subscriptions of "+m.Name, func(server Server) error {
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
}

// qSlots looks for slots of streams.
const qSlots = `SELECT s.slot_name, s.active, coalesce(s.wal_status, ''),
       greatest(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), s.confirmed_flush_lsn), 0)::bigint
  FROM pg_catalog.pg_replication_slots s JOIN json_array_elements_text($1::json) w(slot) ON s.slot_name = w.slot
 ORDER BY s.slot_name`

// slots checks the provider's end of every stream that leaves a node.
func (h *health) slots(ctx context.Context, t *Topology, m workflow.Member) {
	var links []workflow.Link
	names := []string{}
	for _, l := range t.Links {
		if l.Provider == m.Name && !l.Disabled && t.Unreachable[l.Subscriber] == nil {
			links, names = append(links, l), append(names, l.Slot)
		}
	}
	if len(links) == 0 {
		return
	}
	h.must(ctx, m, "slots of "+m.Name, func(server Server) error {
		list, err := json.Marshal(names)
		if err != nil {
			return err
		}
		most := int64(0)
		problems, err := h.soon(ctx, func() ([]string, error) {
			answer, err := server.Ask(ctx, qSlots, new(string(list)))
			if err != nil {
				return nil, err
			}
			var problems []string
			problems, most = h.slotProblems(m.Name, links, answer)
			return problems, nil
		})
		if err != nil {
			return err
		}
		for _, p := range problems {
			h.add(Fail, m.Name, "%s", p)
		}
		if len(problems) == 0 {
			h.add(Pass, m.Name, "all %d slots of %s are read, nobody is more than %s behind", len(links), m.Name, ByteText(most))
		}
		return nil
	})
}

func (h *health) slotProblems(provider string, links []workflow.Link, answer Result) (problems []string, most int64) {
	for _, l := range links {
		found := false
		for _, row := range answer.Rows {
			if *row[0] != l.Slot {
				continue
			}
			found = true
			behind, _ := strconv.ParseInt(*row[3], 10, 64)
			most = max(most, behind)
			switch {
			case *row[2] == "lost":
				problems = append(problems, fmt.Sprintf("slot %s of %s has lost WAL that %s needs", l.Slot, provider, l.Subscriber))
			case *row[1] != "t":
				problems = append(problems, fmt.Sprintf("nobody reads slot %s of %s, that of subscription %s of %s", l.Slot, provider, l.Name, l.Subscriber))
			case behind > h.cfg.MaxLag:
				problems = append(problems, fmt.Sprintf("%s is %s behind %s, the limit is %s", l.Subscriber, ByteText(behind), provider, ByteText(h.cfg.MaxLag)))
			}
		}
		if !found {
			problems = append(problems, fmt.Sprintf("%s has no slot %s for subscription %s of %s", provider, l.Slot, l.Name, l.Subscriber))
		}
	}
	return problems, most
}

// ByteText writes a number of bytes as the server does.
func ByteText(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	i := 0
	for ; n >= 10240 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}

// ways checks that every server reaches every other at the address that is
// stored for it, for streams too. Servers that cannot ask leave it to their engines.
func (h *health) ways(ctx context.Context, members []workflow.Member) {
	for _, m := range members {
		h.must(ctx, m, "ways from "+m.Name, func(server Server) error {
			answer, err := server.Ask(ctx, "SELECT to_regprocedure('pgdrover.can_ask_peers()') IS NOT NULL")
			if err == nil && answer.is() {
				answer, err = server.Ask(ctx, "SELECT pgdrover.can_ask_peers()")
			}
			if err != nil || !answer.is() {
				return err
			}
			reached := 0
			for _, x := range members {
				if x.Name == m.Name {
					continue
				}
				reached++
				for _, stream := range []string{"false", "true"} {
					_, err := server.Ask(ctx, `SELECT pgdrover.peer_open('pgdrover_health', $1, 'pgdrover health', $2::boolean),
 pgdrover.peer_close('pgdrover_health')`, &x.DSN, &stream)
					if err != nil {
						reached--
						h.add(Fail, m.Name, "%s does not reach %s at its connection string: %s", m.Name, x.Name, reason(err))
						break
					}
				}
			}
			if reached > 0 && reached == len(members)-1 {
				h.add(Pass, m.Name, "%s reaches every other node", m.Name)
			}
			return nil
		})
	}
}

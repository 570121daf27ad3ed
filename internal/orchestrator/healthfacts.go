package orchestrator

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// qFacts asks a node for what nodes of one cluster have in common.
const qFacts = `SELECT d.datname, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       pg_catalog.current_setting('server_version_num')::int / 10000,
       (SELECT string_agg(e.extname, ',' ORDER BY e.extname) FROM pg_catalog.pg_extension e WHERE e.extname NOT IN ('plpgsql', 'spock')),
       (SELECT string_agg(a.name, ',') FROM pg_catalog.pg_available_extensions a),
       (SELECT string_agg(s.slot_name, ', ' ORDER BY s.slot_name) FROM pg_catalog.pg_replication_slots s
         WHERE s.database = d.datname AND s.slot_name LIKE 'spk\_%' AND NOT s.active),
       (SELECT format('process %s of %s, open for %s', a.pid, coalesce(a.usename, 'nobody'), date_trunc('second', clock_timestamp() - a.xact_start))
          FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
           AND clock_timestamp() - a.xact_start > interval '1 minute' ORDER BY a.xact_start LIMIT 1)
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`

// qLooseEnds asks the source for what a copy does not make equal.
const qLooseEnds = `SELECT
  (SELECT string_agg(q.name, ', ') FROM (SELECT s.seq::regclass::text AS name FROM pgdrover.unspread_sequences() s ORDER BY 1 LIMIT 5) q),
  (SELECT string_agg(q.name, ', ') FROM (SELECT c.oid::regclass::text AS name FROM pg_catalog.pg_class c
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition AND pgdrover.is_foreign('pg_catalog.pg_class'::regclass, c.oid, c.relnamespace)
       AND NOT EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = c.oid) ORDER BY 1 LIMIT 5) q)`

// facts compares the nodes with each other.
func (h *health) facts(ctx context.Context, t *Topology) {
	all := map[string]Result{}
	members := t.Members
	if h.cfg.New.Name != "" && !h.cfg.Post {
		members = append(slices.Clip(members), h.cfg.New)
	}
	for _, m := range members {
		if t.Unreachable[m.Name] != nil {
			continue
		}
		_ = h.on(ctx, m, func(server Server) error { // what cannot be asked has failed already
			answer, err := server.Ask(ctx, qFacts)
			if err == nil {
				all[m.Name] = answer
			}
			return err
		})
	}
	source, ok := all[h.cfg.Source.Name]
	if !ok {
		return
	}
	for _, m := range members {
		f, ok := all[m.Name]
		if !ok {
			continue
		}
		h.place(m, source, f)
		if f.text(8) != "" {
			h.add(Warn, m.Name, "%s has an open transaction, for which slots wait: %s", m.Name, f.text(8))
		}
		if f.text(7) != "" {
			h.add(Warn, m.Name, "%s has slots that nobody reads: %s", m.Name, f.text(7))
		}
	}
	if f, ok := all[h.cfg.New.Name]; ok && !h.cfg.Post {
		h.newcomer(source, f)
	}
	h.looseEnds(ctx)
}

// place compares a node's database with the source's.
func (h *health) place(m workflow.Member, source, f Result) {
	if m.Name != h.cfg.Source.Name {
		words := func(r Result) string { return r.text(1) + ", " + r.text(2) + ", " + r.text(3) }
		h.verdict(words(f) == words(source), m.Name, m.Name+" has the encoding and locale of the source",
			"encoding and locale of "+m.Name+" are "+words(f)+", of the source "+words(source))
		if f.text(0) != source.text(0) {
			h.add(Warn, m.Name, "the database of %s is %s, of the source %s", m.Name, f.text(0), source.text(0))
		}
	}
	info, err := pg.ParseConnInfo(m.DSN)
	if err == nil && info.Get("dbname") == "" {
		h.add(Warn, m.Name, "the connection string of %s names no database", m.Name)
	}
}

// newcomer compares a new node's server with the source's.
func (h *health) newcomer(source, f Result) {
	name := h.cfg.New.Name
	major, _ := strconv.Atoi(f.text(4))
	wanted, _ := strconv.Atoi(source.text(4))
	h.verdict(major >= wanted, name, "new node "+name+" has PostgreSQL "+f.text(4), "new node "+name+" has PostgreSQL "+f.text(4)+", the source "+source.text(4))
	available := "," + f.text(6) + ","
	var missing []string
	for extension := range strings.SplitSeq(source.text(5), ",") {
		if extension != "" && !strings.Contains(available, ","+extension+",") {
			missing = append(missing, extension)
		}
	}
	h.verdict(len(missing) == 0, name, "new node "+name+" has the extensions of the source", "new node "+name+" has no extension "+strings.Join(missing, ", "))
}

// looseEnds warns of what a copy does not make equal.
func (h *health) looseEnds(ctx context.Context) {
	_ = h.on(ctx, h.cfg.Source, func(server Server) error { // other schemas have no such functions
		answer, err := server.Ask(ctx, qLooseEnds)
		if err != nil {
			return err
		}
		name := h.cfg.Source.Name
		if answer.text(0) != "" {
			h.add(Warn, name, "sequences draw values that another node may draw too (pgdrover.sequence_spread() on every node): %s", answer.text(0))
		}
		if answer.text(1) != "" {
			h.add(Warn, name, "tables are in no replication set, their rows stay behind: %s", answer.text(1))
		}
		return nil
	})
}

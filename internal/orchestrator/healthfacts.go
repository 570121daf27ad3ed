package orchestrator

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// qFacts asks a node for what nodes of one cluster have in common.
const qFacts = `SELECT d.datname, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       pg_catalog.current_setting('server_version_num')::int / 10000,
       (SELECT json_object_agg(e.extname, e.extversion) FROM pg_catalog.pg_extension e WHERE e.extname NOT IN ('plpgsql', 'spock')),
       (SELECT json_object_agg(a.name, a.default_version) FROM pg_catalog.pg_available_extensions a),
       (SELECT string_agg(s.slot_name, ', ' ORDER BY s.slot_name) FROM pg_catalog.pg_replication_slots s
         WHERE s.database = d.datname AND s.slot_name ~ '^spk_' AND NOT s.active),
       (SELECT format('process %s of %s, open for %s', a.pid, coalesce(a.usename, 'nobody'), date_trunc('second', clock_timestamp() - a.xact_start))
          FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
           AND clock_timestamp() - a.xact_start >= $1::interval ORDER BY a.xact_start LIMIT 1)
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`

// qLooseEnds asks the source for what a copy does not make equal.
const qLooseEnds = `SELECT
  (SELECT string_agg(q.name, ', ') FROM (SELECT s.seq::regclass::text AS name FROM pgdrover.unspread_sequences() s ORDER BY 1 LIMIT 5) q),
  (SELECT string_agg(q.name, ', ') FROM (SELECT c.oid::regclass::text AS name FROM pg_catalog.pg_class c
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition AND pgdrover.is_foreign('pg_catalog.pg_class'::regclass, c.oid, c.relnamespace)
       AND NOT EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = c.oid) ORDER BY 1 LIMIT 5) q)`

// qSourceEnds are more of them, which every Spock can say.
const qSourceEnds = `SELECT
  (SELECT string_agg(DISTINCT t.set_reloid::regclass::text, ', ') FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
     JOIN spock.local_node l ON l.node_id = s.set_nodeid JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid
    WHERE (s.replicate_update OR s.replicate_delete) AND c.relreplident IN ('d', 'n')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)),
  (SELECT nullif(count(*), 0) FROM pg_catalog.pg_largeobject_metadata),
  EXISTS (SELECT FROM spock.replication_set_table t JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid
    WHERE c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'lolor'))`

// clock is what a node's clock showed, compared with ours.
type clock struct{ ahead, unsure time.Duration }

// facts compares the nodes with each other.
func (h *health) facts(ctx context.Context, members []workflow.Member) {
	all, clocks := map[string]Result{}, map[string]clock{}
	for _, m := range members {
		_ = h.on(ctx, m, func(server Server) error { // what cannot be asked has failed already
			answer, err := server.Ask(ctx, qFacts, new(strconv.FormatInt(h.cfg.LongTransaction.Milliseconds(), 10)+" ms"))
			if err != nil {
				return err
			}
			all[m.Name] = answer
			clocks[m.Name], err = clockOf(ctx, server)
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
		h.clock(m, clocks)
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

// clockOf compares a server's clock with ours.
func clockOf(ctx context.Context, server Server) (clock, error) {
	before := time.Now()
	answer, err := server.Ask(ctx, "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint")
	took := time.Since(before)
	if err != nil {
		return clock{}, err
	}
	micros, err := strconv.ParseInt(answer.text(0), 10, 64)
	return clock{time.UnixMicro(micros).Sub(before.Add(took / 2)), took/2 + time.Millisecond}, err
}

// clockLimit is the difference of clocks from which conflicts are decided otherwise than people think.
const clockLimit = 5 * time.Second

// clock compares a node's clock with the source's. No position depends on it,
// but which of two changes is the later one does.
func (h *health) clock(m workflow.Member, clocks map[string]clock) {
	mine, here := clocks[m.Name]
	source, there := clocks[h.cfg.Source.Name]
	if m.Name == h.cfg.Source.Name || !here || !there {
		return
	}
	ahead, unsure := mine.ahead-source.ahead, mine.unsure+source.unsure
	way := "ahead of"
	if ahead < 0 {
		ahead, way = -ahead, "behind"
	}
	if ahead-unsure > clockLimit {
		h.add(Warn, m.Name, "the clock of %s is %s %s the source's: the later of two changes is known by it", m.Name, ahead.Round(time.Second), way)
		return
	}
	h.add(Pass, m.Name, "the clocks of %s and the source agree within %s", m.Name, (ahead + unsure).Round(time.Millisecond))
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
	installed, available := texts(source.text(5)), texts(f.text(6))
	var missing, other []string
	for _, extension := range sortedNames(installed) {
		switch version, ok := available[extension]; {
		case !ok:
			missing = append(missing, extension)
		case version != installed[extension]:
			other = append(other, fmt.Sprintf("%s %s instead of %s", extension, version, installed[extension]))
		}
	}
	h.verdict(len(missing) == 0, name, "new node "+name+" has the extensions of the source", "new node "+name+" has no extension "+strings.Join(missing, ", "))
	if len(other) > 0 {
		h.add(Warn, name, "new node %s would get %s", name, strings.Join(other, ", "))
	}
}

// looseEnds warns of what a copy does not make equal.
func (h *health) looseEnds(ctx context.Context) {
	source := h.cfg.Source
	warn := func(r Result, column int, format string) {
		if r.text(column) != "" {
			h.add(Warn, source.Name, format, r.text(column))
		}
	}
	_ = h.on(ctx, source, func(server Server) error { // other schemas have no such functions
		answer, err := server.Ask(ctx, qSourceEnds)
		if err != nil {
			return err
		}
		warn(answer, 0, "tables have no key, their updates and deletes cannot follow: %s")
		warn(answer, 1, "large objects of the source stay behind: %s of them")
		if err := h.lolor(ctx, answer.text(2) == "t"); err != nil {
			return err
		}
		if answer, err = server.Ask(ctx, "SELECT to_regprocedure('pgdrover.unspread_sequences(oid[])') IS NOT NULL"); err != nil || !answer.is() {
			return err
		}
		if answer, err = server.Ask(ctx, qLooseEnds); err != nil {
			return err
		}
		warn(answer, 0, "sequences draw values that another node may draw too (pgdrover.sequence_spread() on every node): %s")
		warn(answer, 1, "tables are in no replication set, their rows stay behind: %s")
		return nil
	})
}

// lolor checks the extension that keeps large objects in tables.
func (h *health) lolor(ctx context.Context, replicated bool) error {
	m := h.cfg.New
	if m.Name == "" || h.cfg.Post {
		return nil
	}
	return h.on(ctx, m, func(server Server) error {
		answer, err := server.Ask(ctx, "SELECT to_regclass('lolor.pg_largeobject') IS NOT NULL")
		switch {
		case err != nil:
			return err
		case answer.is():
			answer, err = server.Ask(ctx, "SELECT EXISTS (SELECT FROM lolor.pg_largeobject) OR EXISTS (SELECT FROM lolor.pg_largeobject_metadata)")
			if err == nil {
				h.verdict(!answer.is(), m.Name, "new node "+m.Name+" has no large objects of lolor", "new node "+m.Name+" has large objects of lolor already")
			}
			return err
		case replicated:
			h.add(Fail, m.Name, "the source replicates large objects of lolor, which new node %s has not installed", m.Name)
		}
		return nil
	})
}

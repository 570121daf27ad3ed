package apply

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// builtQuery names what comes behind the data and is there, as the archive's list
// does: each was made by one command, so it is whole.
const builtQuery = `SELECT coalesce(array_agg(translate(o.kind || ' ' || o.name || ' ' || pg_get_userbyid(o.owner), E'\n\r', '  ')), '{}') FROM (
	SELECT 'INDEX' AS kind, n.nspname || ' ' || i.relname AS name, i.relowner AS owner
		FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace WHERE i.relkind IN ('i', 'I')
	UNION ALL SELECT CASE c.contype WHEN 'f' THEN 'FK ' WHEN 'c' THEN 'CHECK ' ELSE '' END || 'CONSTRAINT', n.nspname || ' ' || r.relname || ' ' || c.conname, r.relowner
		FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
	UNION ALL SELECT 'TRIGGER', n.nspname || ' ' || r.relname || ' ' || g.tgname, r.relowner
		FROM pg_trigger g JOIN pg_class r ON r.oid = g.tgrelid JOIN pg_namespace n ON n.oid = r.relnamespace WHERE NOT g.tgisinternal
	UNION ALL SELECT 'RULE', n.nspname || ' ' || r.relname || ' ' || w.rulename, r.relowner
		FROM pg_rewrite w JOIN pg_class r ON r.oid = w.ev_class JOIN pg_namespace n ON n.oid = r.relnamespace WHERE w.rulename <> '_RETURN'
	UNION ALL SELECT 'POLICY', n.nspname || ' ' || r.relname || ' ' || p.polname, r.relowner
		FROM pg_policy p JOIN pg_class r ON r.oid = p.polrelid JOIN pg_namespace n ON n.oid = r.relnamespace
	UNION ALL SELECT 'STATISTICS', n.nspname || ' ' || s.stxname, s.stxowner FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
	UNION ALL SELECT 'EVENT TRIGGER', '- ' || e.evtname, e.evtowner FROM pg_event_trigger e) o`

// restoreRest restores what comes behind the data, keys and indexes above all, by
// several sessions. Each object is there as a whole or not at all, so that an
// attempt that was broken off is gone on with: what it has made is left out.
func (w *Worker) restoreRest(ctx context.Context, c *copier, d *dump, again bool) error {
	jobs, err := w.builders(ctx, c, again)
	if err != nil {
		return err
	}
	choice := []string{"--section=post-data", "-L", d.list}
	if again {
		section, there, err := w.section(ctx, d)
		if err != nil {
			return err
		}
		if choice, err = d.choice("rest", without(section, there)); err != nil {
			return err
		}
	}
	err = d.restoreObjects(ctx, choice, jobs, again)
	if err == nil || !orphaned(err.Error()) {
		return err
	}
	return w.restoreOrphaned(ctx, c, d, jobs)
}

// section is the list of what comes behind the data, and the names of what is
// there of it. A comment belongs to the section of what stands before it in the
// list. So the section is chosen first: with the index of its own left out, too,
// it is restored.
func (w *Worker) section(ctx context.Context, d *dump) (list []byte, there []string, err error) {
	if err := w.db.QueryRow(ctx, builtQuery).Scan(&there); err != nil {
		return nil, nil, fmt.Errorf("look for restored structure: %w", err)
	}
	list, err = d.run(ctx, "pg_restore", pg.ConnInfo{}, "-l", "--section=post-data", "-L", d.list, d.file)
	return list, there, err
}

// choice is how a list of an archive's entries is given, once it is in a file.
func (d *dump) choice(name string, list []byte) ([]string, error) {
	file := filepath.Join(d.dir, name)
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return nil, fmt.Errorf("write list of structure: %w", err)
	}
	return []string{"-L", file}, nil
}

// restoreObjects restores what was chosen, of which some may be there if it was
// tried before.
func (d *dump) restoreObjects(ctx context.Context, choice []string, jobs int, again bool) error {
	restore := func(args ...string) error {
		_, err := d.runWith(ctx, "pg_restore", d.build, d.local, slices.Concat(choice, args, []string{d.file})...)
		return err
	}
	err := restore("--exit-on-error", "-j", strconv.Itoa(jobs))
	if err == nil || !again || !restoredBefore(err.Error()) {
		return err
	}
	// One of a kind that is not looked for. One session's words are not mixed with others'.
	if err = restore(); err != nil && onlyRestoredBefore(err.Error()) {
		return nil
	}
	return err
}

// builders is how many sessions restore at a time: one where there is little.
func (w *Worker) builders(ctx context.Context, c *copier, again bool) (int, error) {
	if c.jobs == 0 {
		var text string
		if err := w.db.QueryRow(ctx, limitsSetting).Scan(&text); err != nil {
			return 0, fmt.Errorf("read limits of copies: %w", err)
		}
		c.jobs = parseLimits(text).jobs
	}
	if c.pages < piecePages && !again {
		return 1, nil
	}
	return c.mostLanes(), nil
}

// without leaves entries out of an archive's list. They are lines like
// "3245; 2606 16402 CONSTRAINT public t t_pkey owner".
func without(list []byte, there []string) []byte {
	known := map[string]bool{}
	for _, name := range there {
		known[name] = true
	}
	var left bytes.Buffer
	for line := range strings.Lines(string(list)) {
		if words := strings.SplitN(strings.TrimRight(line, "\r\n"), " ", 4); len(words) < 4 || !known[words[3]] {
			left.WriteString(line)
		}
	}
	return left.Bytes()
}

// restoredBefore tells whether restoring an object ended because it was there
// already. A second primary key has an error of its own.
func restoredBefore(text string) bool {
	return strings.Contains(text, "already exists") || strings.Contains(text, "multiple primary keys for table")
}

// onlyRestoredBefore tells whether nothing else has happened to any.
func onlyRestoredBefore(text string) bool {
	seen := false
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "error: ") {
			continue
		}
		if !restoredBefore(line) {
			return false
		}
		seen = true
	}
	return seen
}

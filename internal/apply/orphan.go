package apply

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
)

// Foreign keys are not checked between nodes: a row may refer to none, on all of
// them alike, and a node that joins gets such rows, too. To add the key there as
// it is elsewhere would fail for ever. So it is added as what it is: a key that
// holds for what is written from then on.

// orphaned tells whether adding a foreign key has failed because of rows.
func orphaned(text string) bool { return strings.Contains(text, "violates foreign key constraint") }

// keysQuery reads foreign keys as they are named in the archive's list, and as commands.
const keysQuery = `SELECT translate('FK CONSTRAINT ' || n.nspname || ' ' || r.relname || ' ' || c.conname || ' ' || pg_get_userbyid(r.relowner), E'\n\r', '  '),
	format('ALTER TABLE %s%I.%I ADD CONSTRAINT %I %s', CASE r.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, n.nspname, r.relname, c.conname, pg_get_constraintdef(c.oid))
	FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace WHERE c.contype = 'f' AND c.conparentid = 0`

// restoreOrphaned restores what comes behind the data where there are such rows:
// foreign keys last, and one by one.
func (w *Worker) restoreOrphaned(ctx context.Context, c *copier, d *dump, jobs int) error {
	result := c.provider.ExecParams(ctx, keysQuery, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read foreign keys of provider: %w", result.Err)
	}
	commands := map[string]string{}
	for _, row := range result.Rows {
		commands[string(row[0])] = string(row[1])
	}
	section, there, err := w.section(ctx, d)
	if err != nil {
		return err
	}
	var rest bytes.Buffer
	var keys []*orphanedKey
	var last *orphanedKey // whose comments follow
	for line := range strings.Lines(string(section)) {
		name, kind := entry(line)
		switch command, ok := commands[name]; {
		case ok:
			last = &orphanedKey{name: name, command: command}
			keys = append(keys, last)
		case last != nil && kind == "COMMENT":
			last.comments += line
		default:
			last = nil
			rest.WriteString(line)
		}
	}
	choice, err := d.choice("rest", without(rest.Bytes(), there))
	if err != nil {
		return err
	}
	if err := d.restoreObjects(ctx, choice, jobs, true); err != nil {
		return err
	}
	return w.addKeys(ctx, d, keys, there)
}

// entry is the name of an entry of an archive's list, and its kind.
func entry(line string) (name, kind string) {
	words := strings.SplitN(strings.TrimRight(line, "\r\n"), " ", 4)
	if len(words) < 4 {
		return "", ""
	}
	kind, _, _ = strings.Cut(words[3], " ")
	return words[3], kind
}

// orphanedKey is a foreign key to be added.
type orphanedKey struct{ name, command, comments string }

func (w *Worker) addKeys(ctx context.Context, d *dump, keys []*orphanedKey, there []string) error {
	var unchecked, missing []string
	var comments strings.Builder
	for _, k := range keys {
		if !slices.Contains(there, k.name) {
			_, err := w.db.Exec(ctx, k.command)
			if sqlState(err) == pgerrcode.ForeignKeyViolation {
				_, err = w.db.Exec(ctx, k.command+" NOT VALID")
				switch sqlState(err) {
				case pgerrcode.WrongObjectType, pgerrcode.FeatureNotSupported: // that of a partitioned table
					missing = append(missing, k.command)
					continue
				}
				unchecked = append(unchecked, k.command+" NOT VALID")
			}
			if err != nil {
				return fmt.Errorf("add foreign key (%s): %w", k.command, err)
			}
		}
		comments.WriteString(k.comments)
	}
	if len(unchecked) > 0 {
		w.log.WarnContext(ctx, "foreign keys were added without a check of the rows that are there: some refer to none, as they do on the provider", "keys", unchecked,
			"hint", "Mend the rows on one node, then ALTER TABLE … VALIDATE CONSTRAINT here.")
	}
	if len(missing) > 0 {
		w.log.WarnContext(ctx, "foreign keys of partitioned tables were left out: rows refer to none, as they do on the provider", "keys", missing,
			"hint", "Mend the rows on one node, then run these commands here.")
	}
	if comments.Len() == 0 {
		return nil
	}
	choice, err := d.choice("comments", []byte(comments.String()))
	if err != nil {
		return err
	}
	return d.restoreObjects(ctx, choice, 1, true)
}

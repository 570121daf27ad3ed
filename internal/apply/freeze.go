package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// A table that came with the copy, and that nobody but the copy has touched, is
// copied frozen: its rows are known to be visible to all from the beginning.
// Otherwise the first who reads it, which is the build of its first index, would
// write all of it once more, to note for each row that its transaction has
// committed, and a later vacuum would read and write it again. The rows keep the
// transaction that wrote them, and with it their stamp. It takes the table for
// one transaction: nobody reads it meanwhile.

const (
	// frozenPages is the least size in blocks for which that is worth it.
	frozenPages = 64
	// frozenMost is the greatest: what is larger goes on, after a crash, with the
	// pieces that it has.
	frozenMost = 4 << 30 / 8192
	// frozenAlways is the size of a database whose tables are not worth parting.
	frozenAlways = 256 << 20 / 8192
)

// errTouched is what a frozen copy ends with, before it has copied anything, when
// somebody uses the table.
var errTouched = errors.New("the table is in use")

// freshQuery tells whether a table may be emptied without anybody's noticing:
// that is what makes it the transaction's own.
const freshQuery = `SELECT NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.oid)
	AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND r.oid IN (f.conrelid, f.confrelid))
	AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.oid) AND NOT EXISTS (SELECT FROM pg_publication p WHERE p.puballtables)
	AND NOT EXISTS (SELECT FROM pg_publication_namespace p WHERE p.pnnspid = r.relnamespace)
	AND NOT EXISTS (SELECT FROM pg_publication_rel p WHERE p.prrelid = r.oid OR p.prrelid IN (SELECT a FROM pg_partition_ancestors(r.oid) a))
	FROM pg_class r WHERE r.oid = %s::regclass AND r.relkind = 'r'`

// findFresh finds out whether a table is to be copied frozen. Of a table that
// is most of a large database several sessions copy parts instead, if there are
// more than two.
func (c *copier) findFresh(ctx context.Context, t *copied) error {
	lanes := int64(c.mostLanes())
	if !c.made || t.merged || t.pages < frozenPages || t.pages > c.w.engine.frozen || lanes > 2 && t.pages*lanes > 2*max(c.pages, frozenAlways) {
		return nil
	}
	row, err := one(c.local.ExecParams(ctx, fmt.Sprintf(freshQuery, pg.QuoteLiteral(t.quoted())), nil, nil, nil, nil).Read())
	if err != nil {
		return fmt.Errorf("look at %s.%s: %w", t.schema, t.name, err)
	}
	t.fresh = string(row[0]) == "t"
	return nil
}

// begin opens the transaction of a copy.
func (l *lane) begin(ctx context.Context, p *piece) error {
	const text = "BEGIN; SELECT pg_replication_origin_xact_setup('0/0', 'epoch')"
	err := runAll(ctx, l.local, text)
	if err != nil || !p.fresh {
		return err
	}
	if err = l.takeFresh(ctx, p.copied); errors.Is(err, errTouched) {
		p.fresh = false
		return errors.Join(l.rollback(ctx), runAll(ctx, l.local, text))
	}
	return err
}

// takeFresh makes a table the transaction's own, if nobody has written or reads it.
func (l *lane) takeFresh(ctx context.Context, t copied) error {
	if err := runAll(ctx, l.local, "LOCK TABLE ONLY "+t.quoted()+" IN ACCESS EXCLUSIVE MODE NOWAIT"); err != nil {
		if sqlState(err) == pgerrcode.LockNotAvailable {
			return errTouched
		}
		return err
	}
	row, err := one(l.local.ExecParams(ctx, "SELECT EXISTS (SELECT FROM ONLY "+t.quoted()+")", nil, nil, nil, nil).Read())
	if err != nil {
		return err
	}
	if string(row[0]) == "t" {
		return errTouched
	}
	return runAll(ctx, l.local, "TRUNCATE ONLY "+t.quoted())
}

package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// Gatekeeper is a session that has shut the gate by which apply workers are
// paused, or waits to.
//
// The gate is an advisory lock, which whoever may connect can take. Only those
// are believed who may pause the workers, or may become somebody who may; what
// others hold is passed by.
type Gatekeeper struct {
	PID      int32 // 0 is a prepared transaction
	Role     string
	Believed bool
	Holds    bool
}

const gatekeepersText = `SELECT coalesce(l.pid, 0), coalesce(a.usename::text, ''), EXISTS (SELECT FROM pg_roles m WHERE pg_has_role(a.usesysid, m.oid, 'MEMBER')
	AND (m.rolsuper OR has_function_privilege(m.oid, to_regprocedure('spock.pause_apply_workers()')::oid, 'EXECUTE'))), l.granted
	FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objid = 0 AND l.objsubid = 2 AND l.mode = 'ExclusiveLock'
	AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	ORDER BY l.granted DESC, l.pid`

// Gatekeepers are those of a database, the one who has shut the gate first.
func Gatekeepers(ctx context.Context, db *pgx.Conn) ([]Gatekeeper, error) {
	rows, err := db.Query(ctx, gatekeepersText, uint32(lockGate))
	if err != nil {
		return nil, fmt.Errorf("look who has shut the gate: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Gatekeeper])
	if err != nil {
		return nil, fmt.Errorf("look who has shut the gate: %w", err)
	}
	return all, nil
}

// Pausing is the one of them whom the workers wait for.
func Pausing(all []Gatekeeper) (Gatekeeper, bool) {
	at := slices.IndexFunc(all, func(k Gatekeeper) bool { return k.Believed })
	if at < 0 {
		return Gatekeeper{}, false
	}
	return all[at], true
}

// yield makes way at the gate for those who may have it, and takes it again where
// it was passed by. Others who wait for it do so in vain.
func (w *Worker) yield(ctx context.Context, barred bool) error {
	if !barred {
		if w.gated {
			return nil
		}
	} else {
		all, err := Gatekeepers(ctx, w.db)
		if err != nil {
			return err
		}
		if _, ok := Pausing(all); !ok {
			w.sayPassed(ctx, all)
			return nil
		}
	}
	if err := w.passBorder(ctx); err != nil {
		return err
	}
	if w.gated {
		if _, err := w.applier.session.query(ctx, fmt.Sprintf("SELECT pg_advisory_unlock_shared(%d, 0)", lockGate), nil); err != nil {
			return fmt.Errorf("open the gate: %w", err)
		}
		w.gated = false
	}
	return w.passGate(ctx)
}

// passGate waits while the apply workers are paused.
func (w *Worker) passGate(ctx context.Context) error {
	for {
		r, err := w.applier.session.query(ctx, fmt.Sprintf("SELECT pg_try_advisory_lock_shared(%d, 0)::text", lockGate), nil)
		if err != nil {
			return fmt.Errorf("pass the gate: %w", err)
		}
		if w.gated = string(r.rows[0][0].Data) == "true"; w.gated {
			if w.paused {
				w.log.WarnContext(ctx, "apply goes on")
			}
			w.paused, w.passed = false, ""
			return nil
		}
		all, err := Gatekeepers(ctx, w.db)
		if err != nil {
			return err
		}
		who, ok := Pausing(all)
		if !ok && len(all) > 0 {
			w.sayPassed(ctx, all)
			return nil
		}
		if ok {
			w.sayPaused(ctx, who)
		}
		if err := w.waitAtGate(ctx); err != nil {
			return err
		}
	}
}

// waitAtGate waits until the gate is open, or only those keep it shut who are not
// believed. It looks on from beside: the session itself hears nothing meanwhile.
func (w *Worker) waitAtGate(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(publicEvery)
		defer tick.Stop()
		for {
			select {
			case <-open:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := w.watchGate(ctx); err != nil {
				cancel(err) // the wait would have no end
				return
			}
		}
	})
	// What is taken here is given back at once: who has passed takes it as everybody does.
	_, err := w.applier.session.query(ctx, fmt.Sprintf("SELECT pg_advisory_lock_shared(%d, 0), pg_advisory_unlock_shared(%[1]d, 0)", lockGate), nil)
	close(open)
	group.Wait()
	if err != nil && sqlState(err) != pgerrcode.QueryCanceled {
		return fmt.Errorf("pass the gate: %w", err)
	}
	return nil
}

func (w *Worker) watchGate(ctx context.Context) error {
	all, err := Gatekeepers(ctx, w.db)
	if err != nil {
		return err
	}
	if who, ok := Pausing(all); ok {
		w.sayPaused(ctx, who)
	} else if len(all) > 0 {
		if _, err := w.db.Exec(ctx, "SELECT pg_cancel_backend($1)", w.pid); err != nil {
			return fmt.Errorf("pass the gate: %w", err)
		}
	}
	if w.applier.progress == nil {
		return nil // there is no stream yet
	}
	return w.tellBehind(ctx, max(w.applier.reached, w.idle))
}

// sayPaused says once who has paused the workers.
func (w *Worker) sayPaused(ctx context.Context, who Gatekeeper) {
	if !w.paused {
		w.paused = true
		w.log.WarnContext(ctx, "apply is paused", "pid", who.PID, "role", who.Role,
			"hint", "It goes on when that session calls spock.resume_apply_workers(), or ends.")
	}
}

// sayPassed says once whom the worker does not wait for.
func (w *Worker) sayPassed(ctx context.Context, all []Gatekeeper) {
	var names []string
	for _, k := range all {
		names = append(names, fmt.Sprintf("%d %s", k.PID, k.Role))
	}
	if now := strings.Join(names, ", "); now != w.passed {
		w.passed = now
		w.log.WarnContext(ctx, "apply goes on, though a session that may not pause it asks for that", "pid", all[0].PID, "role", all[0].Role,
			"hint", "Nobody pauses apply workers but who may execute spock.pause_apply_workers(). End that session: until then nobody can.")
	}
}

// locks are those of the worker's that its session holds, as its server lists them.
func (w *Worker) locks() string {
	all := fmt.Sprintf("%d %d ExclusiveLock", lockWorker, w.sub.id)
	if w.gated {
		all += fmt.Sprintf(",%d 0 ShareLock", lockGate)
	}
	return all
}

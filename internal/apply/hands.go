package apply

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// firstCopier is the first number of those origins that copies work under; below
// are those of sessions that apply.
const firstCopier = 100

// originOf is the name of the origin of a subscription's session.
func (w *Worker) originOf(n int) string {
	if n == 0 {
		return w.sub.slot
	}
	return fmt.Sprintf("%s/%d", w.sub.slot, n) // no slot's name has such a sign
}

// sessions is how many sessions apply for a subscription.
func (s settings) sessions() int {
	return max(1, min(int(s.number("spock.apply_workers")), firstCopier-1))
}

// makeOrigins makes an origin for each session. They stand for the provider in
// everybody's judgement, so they have to be there before that is read.
func (w *Worker) makeOrigins(ctx context.Context) error {
	for n := range w.sessions {
		if _, err := w.db.Exec(ctx, "SELECT pgdrover.origin_create($1, $2, $3, $4)", w.originOf(n), uint32(w.sub.provider), w.sub.id, n); err != nil {
			return fmt.Errorf("make origin: %w", err)
		}
	}
	return nil
}

// others is how the sessions are called that apply beside the first.
func (w *Worker) others() string {
	return fmt.Sprintf("spock apply %d:%d/", w.engine.database, w.sub.id)
}

// awaitOthers makes sure that no session of an earlier life is left that may yet
// commit. The first one's would hold its origin.
func (w *Worker) awaitOthers(ctx context.Context) error {
	var left int
	if err := w.db.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)", w.others()).Scan(&left); err != nil {
		return fmt.Errorf("look for sessions: %w", err)
	}
	if left > 0 {
		return fmt.Errorf("take over origin: %d sessions that apply have not ended yet", left)
	}
	return nil
}

// position is where the stream goes on: the highest position of all origins of
// the subscription's sessions. It becomes the first one's, which everybody looks
// at and may move while nothing runs; the others begin anew.
func (w *Worker) position(ctx context.Context) (pg.LSN, error) {
	rows, err := w.db.Query(ctx, `SELECT o.roname, o.worker, coalesce(pg_replication_origin_progress(o.roname, true), '0/0')::text
		FROM spock.pgdrover_origin o JOIN pg_replication_origin p ON p.roident = o.roident AND p.roname = o.roname
		WHERE o.roname = $1 OR o.sub_id = $2 AND o.worker BETWEEN 1 AND $3`, w.sub.slot, w.sub.id, firstCopier-1)
	if err != nil {
		return 0, fmt.Errorf("read progress: %w", err)
	}
	type origin struct {
		name   string
		worker int
		at     pg.LSN
	}
	origins, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (origin, error) {
		var o origin
		var at string
		if err := row.Scan(&o.name, &o.worker, &at); err != nil {
			return o, err
		}
		var err error
		o.at, err = pg.ParseLSN(at)
		return o, err
	})
	if err != nil {
		return 0, fmt.Errorf("read progress: %w", err)
	}
	var first, reached pg.LSN
	for _, o := range origins {
		if o.name == w.sub.slot {
			first = o.at
		}
		reached = max(reached, o.at)
	}
	if reached > first {
		if err := w.applier.moveOrigin(ctx, reached); err != nil {
			return 0, fmt.Errorf("gather progress: %w", err)
		}
	}
	for _, o := range origins {
		if o.name == w.sub.slot {
			continue
		}
		text := "SELECT pgdrover.origin_reset($1)"
		if o.worker >= w.sessions {
			text = "SELECT pgdrover.origin_retire($1)"
		}
		if _, err := w.db.Exec(ctx, text, o.name); err != nil {
			return 0, fmt.Errorf("give up origin %s: %w", o.name, err)
		}
	}
	return reached, nil
}

// openCrew opens the other sessions, as many as the server has room for.
func (w *Worker) openCrew(ctx context.Context) error {
	a := w.applier
	var sessions []*session
	var origins []string
	for n := 1; n < w.sessions; n++ {
		room, err := w.room(ctx, w.originOf(n))
		if err != nil {
			return closing(sessions, err)
		}
		if !room {
			w.log.WarnContext(ctx, "apply with fewer sessions than asked for: the server has no room for more origins", "sessions", n, "wanted", w.sessions)
			break
		}
		s, err := w.openApplying(ctx, fmt.Sprintf("/%d", n), a.session.wake)
		if err == nil {
			if err = s.run(ctx, "SELECT pg_replication_origin_session_setup("+pg.QuoteLiteral(w.originOf(n))+")"); err != nil {
				s.close()
			}
		}
		if pgerrcode.IsInsufficientResources(sqlState(err)) {
			w.log.WarnContext(ctx, "apply with fewer sessions than asked for", "sessions", n, "wanted", w.sessions, "error", err)
			break
		}
		if err != nil {
			return closing(sessions, fmt.Errorf("open session %d: %w", n, err))
		}
		sessions, origins = append(sessions, s), append(origins, w.originOf(n))
	}
	if len(sessions) > 0 {
		a.crew = newCrew(a, w.db, w.engine, sessions, origins)
	}
	return nil
}

// spareOrigins is how many origins the server shall still have room for: another
// subscription, and a copy.
const spareOrigins = 2

// room tells whether an origin may be used. The server has few places for those
// in use, and each keeps its place until it is dropped.
func (w *Worker) room(ctx context.Context, origin string) (bool, error) {
	var room bool
	if err := w.db.QueryRow(ctx, `SELECT count(*) < coalesce(current_setting('max_active_replication_origins', true),
		current_setting('max_replication_slots'))::int - $2 OR coalesce(bool_or(s.external_id = $1), false)
		FROM pg_replication_origin_status s`, origin, spareOrigins).Scan(&room); err != nil {
		return false, fmt.Errorf("count origins: %w", err)
	}
	return room, nil
}

func closing(sessions []*session, err error) error {
	for _, s := range sessions {
		s.close()
	}
	return err
}

// closeCrew ends the other sessions.
func (a *applier) closeCrew() {
	if a.crew == nil {
		return
	}
	for _, h := range a.crew.hands[1:] {
		h.session.close()
	}
}

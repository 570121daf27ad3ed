package spock

import "context"

// ChannelStats are counts for one table of one subscription: what to add, or the sums.
type ChannelStats struct {
	Subscription, Relation                     uint32
	Inserted, Updated, Deleted, Conflicts, DCA int64
	InsertExists                               int64
	UpdateOriginDiffers                        int64
	UpdateExists                               int64
	UpdateMissing                              int64
	DeleteOriginDiffers                        int64
	DeleteMissing                              int64
	DeleteExists                               int64
}

const (
	qAddChannelStats = `SELECT pgdrover.add_channel_stats($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`
	qChannelStats    = `
SELECT subid, relid, n_tup_ins, n_tup_upd, n_tup_del, n_conflict, n_dca, confl_insert_exists, confl_update_origin_differs,
       confl_update_exists, confl_update_missing, confl_delete_origin_differs, confl_delete_missing, confl_delete_exists
  FROM spock.pgdrover_channel_stats ORDER BY subid, relid`
	qAddCounter     = `SELECT pgdrover.add_counter($1, $2, $3)`
	qCounters       = `SELECT sub_id, name, value FROM spock.pgdrover_counter ORDER BY sub_id, name`
	qExceptionCount = `SELECT count(*) FROM spock.exception_log`
	qCleanup        = `SELECT spock.cleanup_resolutions($1)`
	qResolutions    = `SELECT count(*) FROM spock.resolutions`
)

// AddChannelStats adds to the statistics.
func (db *DB) AddChannelStats(ctx context.Context, stats []ChannelStats) error {
	var subs, rels []uint32
	sums := make([][]int64, 12)
	for _, s := range stats {
		subs, rels = append(subs, s.Subscription), append(rels, s.Relation)
		for i, n := range []int64{
			s.Inserted, s.Updated, s.Deleted, s.Conflicts, s.DCA, s.InsertExists, s.UpdateOriginDiffers, s.UpdateExists,
			s.UpdateMissing, s.DeleteOriginDiffers, s.DeleteMissing, s.DeleteExists,
		} {
			sums[i] = append(sums[i], n)
		}
	}
	args := []any{subs, rels}
	for _, column := range sums {
		args = append(args, column)
	}
	_, err := db.conn.Exec(ctx, qAddChannelStats, args...)
	return wrap("add to the statistics", err)
}

// ChannelStats returns the sums.
func (db *DB) ChannelStats(ctx context.Context) ([]ChannelStats, error) {
	return collect[ChannelStats](ctx, db.conn, "read the statistics", qChannelStats)
}

// Counter is a count of something that has no table; subscription 0 is the engine's own.
type Counter struct {
	Subscription uint32
	Name         string
	Value        int64
}

// AddCounter adds to one.
func (db *DB) AddCounter(ctx context.Context, c Counter) error {
	_, err := db.conn.Exec(ctx, qAddCounter, c.Subscription, c.Name, c.Value)
	return wrap("add to a counter", err)
}

// Counters returns all of them.
func (db *DB) Counters(ctx context.Context) ([]Counter, error) {
	return collect[Counter](ctx, db.conn, "read the counters", qCounters)
}

// Records returns how many rows the two tables of lost changes have.
func (db *DB) Records(ctx context.Context) (resolutions, exceptions int64, err error) {
	if resolutions, err = db.count(ctx, "count resolutions", qResolutions); err != nil {
		return 0, 0, err
	}
	exceptions, err = db.count(ctx, "count exceptions", qExceptionCount)
	return resolutions, exceptions, err
}

// CleanupResolutions removes what is older than days; nil means the setting. It returns how many.
func (db *DB) CleanupResolutions(ctx context.Context, days *int) (int64, error) {
	return db.count(ctx, "clean up resolutions", qCleanup, days)
}

package pgautofailover

import "time"

// Break has every call that waits for the server fail at once, now and later.
// Unlike the other methods it may be called from any goroutine: it is for
// calls that were given a context which cannot be cancelled.
func (db *DB) Break() {
	_ = db.conn.PgConn().Conn().SetDeadline(time.Unix(1, 0))
}

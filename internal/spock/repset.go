package spock

import "context"

// ReplicationSet is a set of the local node, or, of a subscription, of its provider.
type ReplicationSet struct {
	ID                               uint32
	Name                             string
	Insert, Update, Delete, Truncate bool
}

// Member is one table of one set.
type Member struct {
	Set       uint32
	Relation  uint32
	Columns   []string // empty: all
	RowFilter string   // empty: all rows
}

const (
	qSets = `
SELECT s.set_id, s.set_name::text, s.replicate_insert, s.replicate_update, s.replicate_delete, s.replicate_truncate
  FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid ORDER BY s.set_name`
	qMembers = `
SELECT t.set_id, t.set_reloid::oid, coalesce(t.set_att_list, '{}'), coalesce(pgdrover.filter_text(t.set_row_filter, t.set_reloid), '')
  FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
  JOIN spock.local_node l ON l.node_id = s.set_nodeid ORDER BY 1, 2`
	qRemoteSets = `
SELECT set_id, set_name::text, replicate_insert, replicate_update, replicate_delete, replicate_truncate
  FROM spock.pgdrover_remote_set WHERE sub_id = $1 ORDER BY 2`
	qRemoteMembers = `
SELECT set_id, set_reloid, coalesce(att_list, '{}'), coalesce(row_filter, '') FROM spock.pgdrover_remote_table
 WHERE sub_id = $1 ORDER BY 1, 2`
	qRepsetCreate      = `SELECT spock.repset_create($1, $2, $3, $4, $5)`
	qRepsetAlter       = `SELECT spock.repset_alter($1, $2, $3, $4, $5)`
	qRepsetDrop        = `SELECT spock.repset_drop($1, $2)`
	qRepsetAddTable    = `SELECT spock.repset_add_table($1, $2::regclass, $3, $4, $5, $6)`
	qRepsetAddAll      = `SELECT spock.repset_add_all_tables($1, $2, $3)`
	qRepsetRemoveTable = `SELECT spock.repset_remove_table($1, $2::regclass, $3)`
	qRepsetAddSeq      = `SELECT spock.repset_add_seq($1, $2::regclass, $3)`
	qRepsetAddAllSeqs  = `SELECT spock.repset_add_all_seqs($1, $2, $3)`
	qRepsetRemoveSeq   = `SELECT spock.repset_remove_seq($1, $2::regclass)`
	qRepsetAddPart     = `SELECT spock.repset_add_partition($1::regclass, $2::regclass, $3)`
	qRepsetRemovePart  = `SELECT spock.repset_remove_partition($1::regclass, $2::regclass)`
	qReplicateDDL      = `SELECT spock.replicate_ddl($1, $2)`
	qSyncSequences     = `SELECT pgdrover.sync_sequences()`
	qSequenceSpread    = `SELECT pgdrover.sequence_spread($1, $2)`
	qUnspread          = `
SELECT pgdrover.qualified_name(seq), pgdrover.qualified_name(rel) FROM pgdrover.unspread_sequences() ORDER BY 1, 2`
	qSyncEvent = `SELECT spock.sync_event($1)`
	qWaitEvent = `CALL spock.wait_for_sync_event(NULL, $1::name, $2::text::pg_lsn, $3, $4)`
)

// ReplicationSets returns the local node's sets.
func (db *DB) ReplicationSets(ctx context.Context) ([]ReplicationSet, error) {
	return collect[ReplicationSet](ctx, db.conn, "list the replication sets", qSets)
}

// Members returns the tables of the local node's sets.
func (db *DB) Members(ctx context.Context) ([]Member, error) {
	return collect[Member](ctx, db.conn, "list the tables of replication sets", qMembers)
}

// RemoteSets returns the provider's sets as of the point that its stream has reached here.
func (db *DB) RemoteSets(ctx context.Context, subscription uint32) ([]ReplicationSet, error) {
	return collect[ReplicationSet](ctx, db.conn, "list the provider's replication sets", qRemoteSets, subscription)
}

// RemoteMembers returns their tables, by the provider's oids.
func (db *DB) RemoteMembers(ctx context.Context, subscription uint32) ([]Member, error) {
	return collect[Member](ctx, db.conn, "list the tables of the provider's replication sets", qRemoteMembers, subscription)
}

// CreateReplicationSet makes a set; the id is computed.
func (db *DB) CreateReplicationSet(ctx context.Context, s ReplicationSet) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qRepsetCreate, s.Name, s.Insert, s.Update, s.Delete, s.Truncate).Scan(&id)
	return id, wrap("create replication set "+s.Name, err)
}

// AlterReplicationSet changes what a set replicates; nil leaves an action as it is.
func (db *DB) AlterReplicationSet(ctx context.Context, name string, ins, upd, del, trunc *bool) error {
	_, err := db.conn.Exec(ctx, qRepsetAlter, name, ins, upd, del, trunc)
	return wrap("alter replication set "+name, err)
}

// DropReplicationSet removes a set; false when there is none and ifExists.
func (db *DB) DropReplicationSet(ctx context.Context, name string, ifExists bool) (bool, error) {
	return db.ask(ctx, "drop replication set "+name, qRepsetDrop, name, ifExists)
}

// NewMember is a table that joins a set.
type NewMember struct {
	Set, Table        string
	SynchronizeData   bool
	Columns           []string // nil: all
	RowFilter         string
	WithoutPartitions bool
}

// AddTable puts a table into a set.
func (db *DB) AddTable(ctx context.Context, m NewMember) error {
	_, err := db.ask(ctx, "add table "+m.Table, qRepsetAddTable, m.Set, m.Table, m.SynchronizeData, m.Columns, null(m.RowFilter),
		!m.WithoutPartitions)
	return err
}

// AddAllTables puts every table of these schemas into a set.
func (db *DB) AddAllTables(ctx context.Context, set string, schemas []string, synchronize bool) error {
	_, err := db.ask(ctx, "add tables to "+set, qRepsetAddAll, set, list(schemas), synchronize)
	return err
}

// RemoveTable takes a table out of a set.
func (db *DB) RemoveTable(ctx context.Context, set, table string, withPartitions bool) error {
	_, err := db.ask(ctx, "remove table "+table, qRepsetRemoveTable, set, table, withPartitions)
	return err
}

// AddSequence puts a sequence into a set.
func (db *DB) AddSequence(ctx context.Context, set, sequence string, synchronize bool) error {
	_, err := db.ask(ctx, "add sequence "+sequence, qRepsetAddSeq, set, sequence, synchronize)
	return err
}

// AddAllSequences puts every sequence of these schemas into a set.
func (db *DB) AddAllSequences(ctx context.Context, set string, schemas []string, synchronize bool) error {
	_, err := db.ask(ctx, "add sequences to "+set, qRepsetAddAllSeqs, set, list(schemas), synchronize)
	return err
}

// RemoveSequence takes a sequence out of a set.
func (db *DB) RemoveSequence(ctx context.Context, set, sequence string) error {
	_, err := db.ask(ctx, "remove sequence "+sequence, qRepsetRemoveSeq, set, sequence)
	return err
}

// AddPartition puts one partition, or with "" all, into the sets of its parent; it returns how many memberships came.
func (db *DB) AddPartition(ctx context.Context, parent, partition, rowFilter string) (int64, error) {
	return db.count(ctx, "add partitions of "+parent, qRepsetAddPart, parent, null(partition), null(rowFilter))
}

// RemovePartition takes one partition, or with "" all, out of the sets of its parent; it returns how many memberships went.
func (db *DB) RemovePartition(ctx context.Context, parent, partition string) (int64, error) {
	return db.count(ctx, "remove partitions of "+parent, qRepsetRemovePart, parent, null(partition))
}

// ReplicateDDL runs statements here and sends them to the subscribers of these sets (nil: ddl_sql).
func (db *DB) ReplicateDDL(ctx context.Context, command string, sets []string) error {
	if sets == nil {
		sets = []string{"ddl_sql"}
	}
	_, err := db.ask(ctx, "replicate a statement", qReplicateDDL, command, sets)
	return err
}

// SyncSequences tells subscribers new values of sequences that came close to the last ones told; it returns how many.
func (db *DB) SyncSequences(ctx context.Context) (int64, error) {
	return db.count(ctx, "synchronize sequences", qSyncSequences)
}

// SpreadSequences lets the sequences behind member tables draw values of this
// node alone; a nil number is chosen. It returns how many it changed.
func (db *DB) SpreadSequences(ctx context.Context, maxNodes int, number *int) (int64, error) {
	return db.count(ctx, "spread sequences", qSequenceSpread, maxNodes, number)
}

// Unspread is a sequence behind a member table that may draw values which another node draws too.
type Unspread struct{ Sequence, Table string }

// UnspreadSequences returns them all.
func (db *DB) UnspreadSequences(ctx context.Context) ([]Unspread, error) {
	return collect[Unspread](ctx, db.conn, "look for sequences that are not spread", qUnspread)
}

// SyncEvent puts a mark into the stream and returns its position.
func (db *DB) SyncEvent(ctx context.Context, transactional bool) (Position, error) {
	at, err := lsn(db.conn.QueryRow(ctx, qSyncEvent, transactional), "put a mark into the stream")
	return Position(at), err
}

// WaitForSyncEvent waits until everything up to a mark of this node has been
// applied here; false when that took longer than seconds (0: without limit).
func (db *DB) WaitForSyncEvent(ctx context.Context, origin string, at Position, seconds int, evenDisabled bool) (bool, error) {
	return db.ask(ctx, "wait for a mark of "+origin, qWaitEvent, origin, at.String(), seconds, evenDisabled)
}

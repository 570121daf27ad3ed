package multimaster

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// bareStatement is pgbench's transaction as one statement, the cheapest form of
// it that we know, with the stamp that a replicated transaction needs.
const bareStatement = `WITH
	a AS (UPDATE pgbench_accounts SET bid = $1, abalance = $2, filler = $3 WHERE aid = $4),
	t AS (UPDATE pgbench_tellers SET bid = $5, tbalance = $6, filler = $7 WHERE tid = $8),
	b AS (UPDATE pgbench_branches SET bbalance = $9, filler = $10 WHERE bid = $11),
	h AS (INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler) VALUES ($12, $13, $14, $15, $16, $17))
	SELECT pg_replication_origin_xact_setup($18, $19)`

const (
	bareDatabase = "bare"

	bareWindow = 50 // transactions that are sent before the server is asked to answer
	bareAhead  = 4  // such windows that are on their way
)

// bare measures what SQL costs at least: pgbench's transactions made up on the
// spot and written by one session, prepared, pipelined and in binary form. There
// is no stream, no look at who wrote a row before, no tombstone and no progress,
// so nothing that applies by SQL statements, one transaction for one, is faster.
func (f *field) bare(b *testing.B, l load, n int) {
	b.Helper()
	if f.database(b, bareDatabase) {
		f.shell(b, fmt.Sprintf("%[1]s/pg_dump -n public --no-publications -t 'pgbench_*' '%[2]s' | grep -v pgdrover_ | %[1]s/psql -qX '%[3]s'", f.provider.Bin,
			f.provider.DSN(app), f.subscriber.DSN(bareDatabase)))
	}
	f.exec(b, f.subscriber, bareDatabase, "CHECKPOINT")
	config, err := pgconn.ParseConfig(f.subscriber.DSN(bareDatabase))
	if err != nil {
		b.Fatal(err)
	}
	maps.Copy(config.RuntimeParams, map[string]string{
		"synchronous_commit": "off", "plan_cache_mode": "force_generic_plan", "session_replication_role": "replica", "jit": "off",
	})
	conn, err := pgconn.ConnectConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(b.Context()) }()
	if _, err := conn.Exec(b.Context(), `SELECT pg_replication_origin_create('bare') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'bare');
		SELECT pg_replication_origin_session_setup('bare')`).ReadAll(); err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{"transaction": bareStatement, "chain": "COMMIT AND CHAIN"} {
		if _, err := conn.Prepare(b.Context(), name, text, nil); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := conn.Exec(b.Context(), "BEGIN").ReadAll(); err != nil {
		b.Fatal(err)
	}
	began, spent := time.Now(), f.applied(b)
	f.writeBare(b, conn, n)
	took, spent := time.Since(began).Seconds(), f.applied(b)-spent
	if _, err := conn.Exec(b.Context(), "COMMIT").ReadAll(); err != nil {
		b.Fatal(err)
	}
	measured.add(l.what, l.unit, l.aim, bare, float64(n)/took)
	measured.add(costOf(l), costUnit, aim{}, bare, float64(spent.Microseconds())/float64(n))
}

func (f *field) writeBare(b *testing.B, conn *pgconn.PgConn, n int) {
	b.Helper()
	narrow := func(v int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	wide := func(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }
	filler := []byte(strings.Repeat(" ", 88))
	binaryFormat := []int16{1}
	pipeline := conn.StartPipeline(b.Context())
	ahead := 0
	take := func() {
		for {
			result, err := pipeline.GetResults()
			if err != nil {
				b.Fatal(err)
			}
			switch r := result.(type) {
			case *pgconn.PipelineSync:
				ahead--
				return
			case *pgconn.ResultReader:
				if _, err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		account, teller, branch := narrow(rand.IntN(f.scale*100000)+1), narrow(rand.IntN(f.scale*10)+1), narrow(rand.IntN(f.scale)+1)
		balance, now := narrow(rand.IntN(10000)-5000), wide(time.Since(epoch).Microseconds())
		pipeline.SendQueryPrepared("transaction", [][]byte{
			branch, balance, filler[:84], account, branch, balance, filler[:84], teller, balance, filler, branch,
			teller, branch, account, balance, now, nil, wide(int64(i) + 1), now,
		}, binaryFormat, binaryFormat)
		pipeline.SendQueryPrepared("chain", nil, nil, nil)
		if i%bareWindow != bareWindow-1 && i < n-1 {
			continue
		}
		if err := pipeline.Sync(); err != nil {
			b.Fatal(err)
		}
		if ahead++; ahead > bareAhead {
			take()
		}
	}
	for ahead > 0 {
		take()
	}
	if err := pipeline.Close(); err != nil {
		b.Fatal(err)
	}
}

// costOf and costUnit are of the line of the report that says what a load costs.
func costOf(l load) string { return "– processor time at the subscriber, " + l.name }

const costUnit = "%.1f µs each"

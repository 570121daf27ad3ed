package apply

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// A message that is larger than all that may wait comes alone, and as it was
// received: its receiver waits until it was looked at.
func TestLargeMessageComesAlone(t *testing.T) {
	t.Parallel()
	b := newInbox()
	large := bytes.Repeat([]byte("c"), 2*inboxBytes)
	sent := []string{"a", "b", "c", "d", "e"}
	done := make(chan error, 1)
	go func() {
		for _, s := range sent {
			m := walreceiver.Message{Kind: walreceiver.Data, Data: []byte(s)}
			if s == "c" {
				m.Data = large
			}
			if err := b.put(t.Context(), m); err != nil {
				done <- err
				return
			}
			clear(m.Data) // it is the receiver's again
		}
		b.signal()
		done <- nil
	}()
	var got []string
	var empty batch
	for len(got) < len(sent) {
		<-b.wake
		full := b.take(empty)
		for _, m := range full.messages {
			got = append(got, string(full.data[m.from]))
			require.NotContains(t, full.data, byte(0))
		}
		if len(full.data) > inboxBytes {
			require.Len(t, full.messages, 1)
			require.Same(t, &large[0], &full.data[0], "it is not copied")
		}
		empty = full
	}
	require.NoError(t, <-done)
	require.Equal(t, sent, got)
	require.LessOrEqual(t, cap(b.take(batch{data: make([]byte, 5*inboxBytes)}).data), 4*inboxBytes)
	require.Nil(t, b.batch.data)
}

// What is sent is the same whether values are copied or not.
func TestValuesAside(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	s := &session{conn: client, prepared: map[string]string{}, wake: make(chan struct{}, 1)}
	written := make(chan error, 1)
	large, other := strings.Repeat("x", asideSize), strings.Repeat("y", 2*asideSize)
	binary := func(s string) pgoutput.Value { return pgoutput.Value{Kind: pgoutput.Binary, Data: []byte(s)} }
	s.execute("one", nil, []pgoutput.Value{textValue("small"), binary(large), {Kind: pgoutput.Null}, binary(other), textValue("end")}, op{})
	require.True(t, s.full())
	s.copyRows("copy", [][]pgoutput.Value{{binary("1"), binary("2")}, {binary(large), binary("3")}}, 2, op{})
	go func() {
		written <- s.flush()
		_ = client.Close()
	}()
	back := pgproto3.NewBackend(server, io.Discard)
	var parameters [][]byte
	var rows []byte
	for {
		m, err := back.Receive()
		if err != nil {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			break
		}
		switch m := m.(type) {
		case *pgproto3.Bind:
			if len(m.Parameters) > 0 {
				for _, p := range m.Parameters {
					parameters = append(parameters, slices.Clone(p))
				}
				require.Nil(t, parameters[2])
			}
		case *pgproto3.CopyData:
			rows = slices.Clone(m.Data)
		}
	}
	require.NoError(t, <-written)
	require.Len(t, parameters, 5)
	for i, want := range []string{"small", large, "", other, "end"} {
		require.True(t, bytes.Equal([]byte(want), parameters[i]), i)
	}
	require.True(t, strings.HasSuffix(string(rows), "\x00\x00\x00\x011\x00\x04\x00\x00"+large+"\x00\x02\x00\x00\x00\x012\x00\x00\x00\x013\xff\xff"))
	require.Empty(t, s.aside)
}

// Rows and messages of any size travel; a message of anybody's reaches nobody.
func TestLargeRows(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')", "", nil)
	a.exec(t, `SELECT pg_logical_emit_message(true, 'Spock', repeat('z', 3 * 1024 * 1024)); SELECT pg_logical_emit_message(false, 'x', repeat('z', 3 * 1024 * 1024));
		INSERT INTO t SELECT i, repeat(md5(i::text), 100000 * i) FROM generate_series(1, 4) i; UPDATE t SET v = v || 'x' WHERE id = 2`)
	a.exec(t, "BEGIN; INSERT INTO t VALUES (5, 'small'), (6, repeat('y', 2000000)); SELECT pg_logical_emit_message(true, 'pgdrover/a', repeat('1', 2000000)); INSERT INTO t VALUES (7, 'small'); COMMIT")
	settle(t, a, b)
	equal(t, "SELECT id, length(v), md5(v) FROM t ORDER BY id", a, b)
	require.Equal(t, "7", b.text(t, "SELECT count(*) FROM t"))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

package pgoutput

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/pg"
)

var rewrite = flag.Bool("rewrite", false, "write what is decoded from the captures as what is expected")

// captures are streams of a PostgreSQL 15 server, one message a line. The .sql
// file of the first part of the name made them; the .txt file says what they mean.
var captures = []struct {
	name    string
	version int
}{
	{"rows-v1", Version1},
	{"rows-v1-binary", Version1},
	{"streams-v2", Version2},
	{"streams-v2-binary", Version2},
	{"twophase-v3", Version3},
	{"twophase-v3-plain", Version3},
}

func capture(t testing.TB, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	require.NoError(t, err)
	var messages [][]byte
	for line := range strings.Lines(string(text)) {
		data, err := hex.DecodeString(strings.TrimSpace(line))
		require.NoError(t, err)
		messages = append(messages, data)
	}
	return messages
}

func decoder(t testing.TB, version int) *Decoder {
	t.Helper()
	d, err := NewDecoder(version)
	require.NoError(t, err)
	return d
}

func TestCaptures(t *testing.T) {
	t.Parallel()
	for _, c := range captures {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := decoder(t, c.version)
			var got strings.Builder
			for _, data := range capture(t, c.name) {
				inStream := d.InStream()
				m, err := d.Decode(data)
				require.NoError(t, err, "%x", data)
				require.Equal(t, KindOf(data), m.Kind())
				require.Equal(t, data, encode(m, inStream), m.String())
				fmt.Fprintln(&got, m)
			}
			golden := filepath.Join("testdata", c.name+".txt")
			if *rewrite {
				require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String())
		})
	}
}

// TestCapturesHoldEveryKind keeps the captures worth their name.
func TestCapturesHoldEveryKind(t *testing.T) {
	t.Parallel()
	seen := map[Kind]bool{}
	for _, c := range captures {
		for _, data := range capture(t, c.name) {
			seen[KindOf(data)] = true
		}
	}
	for _, kind := range kinds {
		require.True(t, seen[kind], "no %s in the captures", kind)
	}
	require.Len(t, seen, len(kinds))
}

var kinds = []Kind{
	KindBegin, KindCommit, KindOrigin, KindRelation, KindType, KindInsert, KindUpdate, KindDelete, KindTruncate,
	KindMessage, KindStreamStart, KindStreamStop, KindStreamCommit, KindStreamAbort, KindBeginPrepare, KindPrepare,
	KindCommitPrepared, KindRollbackPrepared, KindStreamPrepare,
}

func TestEveryKindHasAName(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, kind := range kinds {
		require.Greater(t, len(kind.String()), 3)
		names[kind.String()] = true
	}
	require.Len(t, names, len(kinds))
	require.Equal(t, "'w'", Kind('w').String())
}

// TestCutAnywhere cuts every captured message at every byte.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, c := range captures {
		d := decoder(t, c.version)
		for _, data := range capture(t, c.name) {
			inStream := d.InStream()
			for n := range data {
				m, err := d.DecodeOne(data[:n:n], inStream)
				require.Error(t, err, "%s cut to %d of %d bytes: %v", KindOf(data), n, len(data), m)
				var problem *Error
				require.ErrorAs(t, err, &problem)
				require.LessOrEqual(t, problem.Offset, n)
			}
			_, err := d.DecodeOne(append(bytes.Clone(data), 0), inStream)
			require.Error(t, err, "%s with a byte too many", KindOf(data))
			_, err = d.Decode(data)
			require.NoError(t, err)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func TestStreamAbort(t *testing.T) {
	t.Parallel()
	const short, long = "41 0000000a 0000000b", "41 0000000a 0000000b 0000000100000002 0000000000000003"
	tests := []struct {
		version int
		data    string
		want    *StreamAbort
		problem string
	}{
		{2, short, &StreamAbort{XID: 10, SubXID: 11}, ""},
		{3, short, &StreamAbort{XID: 10, SubXID: 11}, ""},
		// Version 4 has position and time only where streaming is parallel.
		{4, short, &StreamAbort{XID: 10, SubXID: 11}, ""},
		{4, long, &StreamAbort{XID: 10, SubXID: 11, AbortLSN: 0x1_0000_0002, AbortTime: 3}, ""},
		{3, long, nil, "decode Stream Abort message: more bytes than it should have at byte 9"},
		{4, long[:len(long)-2], nil, "decode Stream Abort message: cut short at byte 17"},
		{1, short, nil, "decode Stream Abort message: unknown message type in version 1 at byte 0"},
	}
	for _, tt := range tests {
		m, err := decoder(t, tt.version).Decode(unhex(t, tt.data))
		if tt.problem != "" {
			require.EqualError(t, err, tt.problem)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, m)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, data, problem string }{
		{"nothing", "", `decode '\x00' message: no bytes at byte 0`},
		{"unknown type", "77 00", "decode 'w' message: unknown message type at byte 0"},
		{"flags of a commit", "43 01 0000000000000001 0000000000000002 0000000000000003", "decode Commit message: unknown flags at byte 2"},
		{"endless text", "4f 0000000000000001 61 62", "decode Origin message: text without an end at byte 9"},
		{"negative columns", "49 00000001 4e ffff", "decode Insert message: impossible length at byte 8"},
		{"more columns than bytes", "49 00000001 4e 7fff 6e", "decode Insert message: impossible length at byte 8"},
		{"negative value", "49 00000001 4e 0001 74 ffffffff", "decode Insert message: cut short at byte 13"},
		{"huge value", "49 00000001 4e 0001 62 7fffffff 00", "decode Insert message: cut short at byte 13"},
		{"unknown value", "49 00000001 4e 0001 78", "decode Insert message: unknown form of a value at byte 9"},
		{"insert without a row", "49 00000001 4b 0001 6e", "decode Insert message: unknown part of a change at byte 6"},
		{"update with two keys", "55 00000001 4b 0001 6e 4b 0001 6e 4e 0001 6e", "decode Update message: unknown part of an update at byte 10"},
		{"delete of a new row", "44 00000001 4e 0001 6e", "decode Delete message: unknown form of an old row at byte 6"},
		{"truncate of many", "54 7fffffff 00 00000001", "decode Truncate message: impossible length at byte 5"},
		{"truncate of fewer than none", "54 ffffffff 00 00000001", "decode Truncate message: impossible length at byte 5"},
		{"truncate flags", "54 00000001 04 00000001", "decode Truncate message: unknown flags at byte 6"},
		{"message flags", "4d 02 0000000000000001 61 00 00000000", "decode Message message: unknown flags at byte 2"},
		{"identity", "52 00000001 61 00 62 00 71 0000", "decode Relation message: unknown replica identity at byte 10"},
		{"relation of many columns", "52 00000001 61 00 62 00 64 7fff", "decode Relation message: impossible length at byte 12"},
		{"stop before start", "45", "decode Stream Stop message: not expected outside a streamed block at byte 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := decoder(t, Version4).Decode(unhex(t, tt.data))
			require.EqualError(t, err, tt.problem)
		})
	}
}

func TestBlocksDoNotNest(t *testing.T) {
	t.Parallel()
	d := decoder(t, Version2)
	start, begin := unhex(t, "53 0000000a 01"), unhex(t, "42 0000000000000001 0000000000000002 0000000a")
	_, err := d.Decode(start)
	require.NoError(t, err)
	for _, data := range [][]byte{start, begin} {
		_, err = d.Decode(data)
		require.ErrorContains(t, err, "not expected inside a streamed block")
	}
	require.True(t, d.InStream())
	_, err = d.Decode([]byte{'E'})
	require.NoError(t, err)
	_, err = d.Decode(begin)
	require.NoError(t, err)
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for _, v := range []int{-1, 0, 5} {
		_, err := NewDecoder(v)
		require.ErrorContains(t, err, "only 1 to 4 exist")
	}
	_, err := decoder(t, Version2).Decode([]byte{'b'})
	require.ErrorContains(t, err, "unknown message type in version 2")
}

func TestBegun(t *testing.T) {
	t.Parallel()
	lsn, ok := Begun(&Begin{FinalLSN: 7})
	require.True(t, ok)
	require.Equal(t, pg.LSN(7), lsn)
	_, ok = Begun(&BeginPrepare{TwoPhase{LSN: 7}})
	require.True(t, ok)
	_, ok = Begun(&Commit{CommitLSN: 7})
	require.False(t, ok)
}

// TestValuesAliasTheInput is the promise that values are not copied, and that
// appending to one does not damage its neighbour.
func TestValuesAliasTheInput(t *testing.T) {
	t.Parallel()
	data := unhex(t, "49 00000001 4e 0003 74 00000002 6161 74 00000000 6e")
	m, err := decoder(t, Version1).Decode(data)
	require.NoError(t, err)
	row := m.(*Insert).New
	require.True(t, row.Complete())
	require.NotNil(t, row[1].Data, "an empty value is not a null")
	require.Empty(t, row[1].Data)
	require.Nil(t, row[2].Data)
	before := bytes.Clone(data)
	_ = append(row[0].Data, "zzz"...)
	require.Equal(t, before, data)
	data[bytes.IndexByte(data, 'a')] = 'b'
	require.Equal(t, "ba", string(row[0].Data))
}

func anyTuple(t *rapid.T, label string) Tuple {
	value := rapid.Custom(func(t *rapid.T) Value {
		kind := rapid.SampledFrom([]ValueKind{Null, Unchanged, Text, Binary}).Draw(t, "kind")
		if kind == Null || kind == Unchanged {
			return Value{Kind: kind}
		}
		data := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "data")
		return Value{Kind: kind, Data: append([]byte{}, data...)}
	})
	return append(Tuple{}, rapid.SliceOfN(value, 0, 6).Draw(t, label)...)
}

func anyText(t *rapid.T, label string) string {
	return strings.ReplaceAll(rapid.String().Draw(t, label), "\x00", "")
}

func anyTwoPhase(t *rapid.T) TwoPhase {
	return TwoPhase{
		LSN: pg.LSN(rapid.Uint64().Draw(t, "lsn")), EndLSN: pg.LSN(rapid.Uint64().Draw(t, "end")),
		Time: pg.Timestamp(rapid.Int64().Draw(t, "time")), XID: rapid.Uint32().Draw(t, "xid"), GID: anyText(t, "gid"),
	}
}

// anyMessage draws a message; streamed changes carry an xid.
func anyMessage(t *rapid.T, inStream bool) Message {
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	lsn := func(label string) pg.LSN { return pg.LSN(rapid.Uint64().Draw(t, label)) }
	when := func(label string) pg.Timestamp { return pg.Timestamp(rapid.Int64().Draw(t, label)) }
	id := func(label string) uint32 { return rapid.Uint32().Draw(t, label) }
	yes := func(label string) bool { return rapid.Bool().Draw(t, label) }
	var xid uint32
	if inStream {
		xid = id("xid")
	}
	switch kind {
	case KindBegin:
		return &Begin{FinalLSN: lsn("lsn"), CommitTime: when("time"), XID: id("xid")}
	case KindCommit:
		return &Commit{CommitLSN: lsn("lsn"), EndLSN: lsn("end"), CommitTime: when("time")}
	case KindOrigin:
		return &Origin{CommitLSN: lsn("lsn"), Name: anyText(t, "name")}
	case KindRelation:
		columns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Column {
			return Column{Name: anyText(t, "column"), Type: rapid.Uint32().Draw(t, "type"), Modifier: rapid.Int32().Draw(t, "modifier"), Key: rapid.Bool().Draw(t, "key")}
		}), 0, 5).Draw(t, "columns")
		identity := rapid.SampledFrom([]ReplicaIdentity{IdentityDefault, IdentityNothing, IdentityFull, IdentityIndex}).Draw(t, "identity")
		return &Relation{XID: xid, ID: id("oid"), Namespace: anyText(t, "schema") + "s", Name: anyText(t, "name"), Identity: identity, Columns: append([]Column{}, columns...)}
	case KindType:
		return &Type{XID: xid, ID: id("oid"), Namespace: "pg_catalog", Name: anyText(t, "name")}
	case KindInsert:
		return &Insert{XID: xid, Relation: id("oid"), New: anyTuple(t, "new")}
	case KindUpdate:
		u := &Update{XID: xid, Relation: id("oid"), Old: Tuple{}, New: anyTuple(t, "new")}
		if u.OldTuple = rapid.SampledFrom([]OldTuple{OldNone, OldKey, OldFull}).Draw(t, "has old"); u.OldTuple != OldNone {
			u.Old = anyTuple(t, "old")
		}
		return u
	case KindDelete:
		return &Delete{XID: xid, Relation: id("oid"), OldTuple: rapid.SampledFrom([]OldTuple{OldKey, OldFull}).Draw(t, "old kind"), Old: anyTuple(t, "old")}
	case KindTruncate:
		return &Truncate{XID: xid, Cascade: yes("cascade"), RestartIdentity: yes("restart"), Relations: append([]uint32{}, rapid.SliceOfN(rapid.Uint32(), 0, 4).Draw(t, "oids")...)}
	case KindMessage:
		content := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "content")
		return &LogicalMessage{XID: xid, Transactional: yes("transactional"), LSN: lsn("lsn"), Prefix: anyText(t, "prefix"), Content: append([]byte{}, content...)}
	case KindStreamStart:
		return &StreamStart{XID: id("xid"), First: yes("first")}
	case KindStreamStop:
		return &StreamStop{}
	case KindStreamCommit:
		return &StreamCommit{XID: id("xid"), CommitLSN: lsn("lsn"), EndLSN: lsn("end"), CommitTime: when("time")}
	case KindStreamAbort:
		return &StreamAbort{XID: id("xid"), SubXID: id("subxid"), AbortLSN: lsn("lsn"), AbortTime: when("time")}
	case KindBeginPrepare:
		return &BeginPrepare{anyTwoPhase(t)}
	case KindPrepare:
		return &Prepare{anyTwoPhase(t)}
	case KindStreamPrepare:
		return &StreamPrepare{anyTwoPhase(t)}
	case KindCommitPrepared:
		return &CommitPrepared{anyTwoPhase(t)}
	default:
		return &RollbackPrepared{
			PrepareEndLSN: lsn("prepare"), RollbackEndLSN: lsn("end"), PrepareTime: when("prepare time"), RollbackTime: when("time"),
			XID: id("xid"), GID: anyText(t, "gid"),
		}
	}
}

// TestRoundTrip encodes anything that a server could say and decodes it again,
// with one decoder for all, so that what is used again shows.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	d := decoder(t, Version4)
	rapid.Check(t, func(t *rapid.T) {
		inStream := rapid.Bool().Draw(t, "in stream")
		want := anyMessage(t, inStream)
		data := encode(want, inStream)
		got, err := d.DecodeOne(data, inStream)
		if problem := d.misplaced(want.Kind(), inStream); problem != "" {
			require.ErrorContains(t, err, problem)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.String(), got.String())
		require.Equal(t, data, encode(got, inStream))
	})
}

func FuzzDecode(f *testing.F) {
	for _, c := range captures {
		d := decoder(f, c.version)
		for _, data := range capture(f, c.name) {
			f.Add(uint8(c.version), d.InStream(), data)
			_, err := d.Decode(data)
			require.NoError(f, err)
		}
	}
	f.Add(uint8(4), false, unhex(f, "41 0000000a 0000000b 0000000100000002 0000000000000003"))
	f.Fuzz(func(t *testing.T, version uint8, inStream bool, data []byte) {
		d, err := NewDecoder(int(version))
		if err != nil {
			return
		}
		before := bytes.Clone(data)
		m, err := d.DecodeOne(data, inStream)
		require.Equal(t, before, data, "the input was written to")
		if err != nil {
			require.Nil(t, m)
			var problem *Error
			require.ErrorAs(t, err, &problem)
			require.LessOrEqual(t, problem.Offset, len(data))
			return
		}
		// What was understood means the same when it is said in the usual way.
		text := m.String()
		again, err := decoder(t, int(version)).DecodeOne(encode(m, inStream), inStream)
		require.NoError(t, err)
		require.Equal(t, text, again.String())
	})
}

// rowBytes are an insert, an update and a delete of a row of ten columns.
func rowBytes() [][]byte {
	row := make(Tuple, 10)
	for i := range row {
		row[i] = Value{Kind: Binary, Data: bytes.Repeat([]byte{byte(i)}, 8)}
	}
	row[3] = Value{Kind: Null}
	return [][]byte{
		encode(&Insert{Relation: 1, New: row}, false),
		encode(&Update{Relation: 1, OldTuple: OldKey, Old: row[:1], New: row}, false),
		encode(&Delete{Relation: 1, OldTuple: OldKey, Old: row[:1]}, false),
		encode(&Begin{FinalLSN: 1, CommitTime: 2, XID: 3}, false),
		encode(&Origin{CommitLSN: 1, Name: "spk_db_n1_sub"}, false),
		encode(&Commit{CommitLSN: 1, EndLSN: 2, CommitTime: 3}, false),
	}
}

func TestRowsNeedNoAllocation(t *testing.T) { //nolint:paralleltest // it counts allocations
	d, rows := decoder(t, Version1), rowBytes()
	allocations := testing.AllocsPerRun(100, func() {
		for _, data := range rows {
			if _, err := d.Decode(data); err != nil {
				t.Fatal(err)
			}
		}
	})
	require.Zero(t, allocations)
}

func BenchmarkDecode(b *testing.B) {
	for _, data := range rowBytes() {
		b.Run(KindOf(data).String(), func(b *testing.B) {
			d := decoder(b, Version1)
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := d.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCapture is the whole of a real stream.
func BenchmarkCapture(b *testing.B) {
	messages := capture(b, "rows-v1-binary")
	d := decoder(b, Version1)
	b.ReportAllocs()
	b.SetBytes(int64(len(bytes.Join(messages, nil))))
	for b.Loop() {
		for _, data := range messages {
			if _, err := d.Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A decoder does not hold on to a large message once the next one is there.
func TestDecoderLetsGoOfLargeMessages(t *testing.T) {
	t.Parallel()
	d, err := NewDecoder(Version1)
	require.NoError(t, err)
	large := bytes.Repeat([]byte("x"), largeMessage)
	for _, row := range []Message{
		&Insert{Relation: 1, New: Tuple{{Kind: Text, Data: large}}},
		&Update{Relation: 1, OldTuple: OldFull, Old: Tuple{{Kind: Text, Data: large}}, New: Tuple{{Kind: Text, Data: large}}},
		&Delete{Relation: 1, OldTuple: OldKey, Old: Tuple{{Kind: Text, Data: large}}},
	} {
		_, err := d.Decode(encode(row, false))
		require.NoError(t, err)
	}
	_, err = d.Decode(encode(&Begin{}, false))
	require.NoError(t, err)
	for _, tuple := range []Tuple{d.insert.New, d.update.New, d.update.Old, d.delete.Old} {
		require.Nil(t, tuple[:1][0].Data)
	}
}

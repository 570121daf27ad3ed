package apply

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Rows lose the blanks at the end of padded columns and nothing else, however
// they are cut up.
func TestTrimmer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		padded := rapid.SliceOfN(rapid.Bool(), 1, 6).Draw(t, "padded")
		extension := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "extension")
		sent := append([]byte("PGCOPY\n\xff\r\n\x00"), 0, 0, 0, 0)
		sent = append(binary.BigEndian.AppendUint32(sent, uint32(len(extension))), extension...)
		want := bytes.Clone(sent)
		value := rapid.StringOfN(rapid.SampledFrom([]rune("  ab é\x00\xff")), 0, 40, -1)
		large := rapid.SampledFrom([]int{0, 0, 0, trimmedSize})
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			sent = binary.BigEndian.AppendUint16(sent, uint16(len(padded)))
			want = binary.BigEndian.AppendUint16(want, uint16(len(padded)))
			for _, is := range padded {
				if rapid.Bool().Draw(t, "null") {
					sent, want = append(sent, 0xff, 0xff, 0xff, 0xff), append(want, 0xff, 0xff, 0xff, 0xff)
					continue
				}
				v := value.Draw(t, "value") + strings.Repeat("x", large.Draw(t, "large")) + strings.Repeat(" ", rapid.IntRange(0, 30).Draw(t, "blanks"))
				sent = append(binary.BigEndian.AppendUint32(sent, uint32(len(v))), v...)
				if is {
					v = strings.TrimRight(v, " ")
				}
				want = append(binary.BigEndian.AppendUint32(want, uint32(len(v))), v...)
			}
		}
		sent, want = append(sent, 0xff, 0xff), append(want, 0xff, 0xff)
		var got bytes.Buffer
		trim := &trimmer{w: &got, padded: padded}
		cut := rapid.SampledFrom([]int{1, 7, 100, 10000, len(sent)}).Draw(t, "cut") + len(sent)/1000
		for left := sent; len(left) > 0; {
			n := min(rapid.IntRange(1, cut).Draw(t, "size"), len(left))
			part := bytes.Clone(left[:n])
			written, err := trim.Write(part)
			require.NoError(t, err)
			require.Equal(t, n, written)
			require.Equal(t, left[:n], part, "a writer leaves alone what it is given")
			left = left[n:]
			require.Equal(t, len(left) > 0, trim.finish() != nil, "it is whole or not")
		}
		require.True(t, bytes.Equal(want, got.Bytes()))
	})
}

// What is not a COPY of that many columns is refused, not passed on in part.
func TestTrimmerOfNonsense(t *testing.T) {
	t.Parallel()
	trim := &trimmer{w: io.Discard, padded: []bool{true, false}}
	_, err := trim.Write(append([]byte("PGCOPY\n\xff\r\n\x00"), 0, 0, 0, 0, 0, 0, 0, 0, 0, 3))
	require.ErrorIs(t, err, errNoCopy)
}

// Rows do not travel one by one.
func TestTrimmerHandsOnMuch(t *testing.T) {
	t.Parallel()
	count := &writes{}
	trim := &trimmer{w: count, padded: []bool{true}, begun: true}
	row := []byte{0, 1, 0, 0, 0, 4, 'a', ' ', ' ', ' '}
	for range 100000 {
		_, err := trim.Write(row)
		require.NoError(t, err)
	}
	_, err := trim.Write([]byte{0xff, 0xff})
	require.NoError(t, err)
	require.Equal(t, 100000*7+2, count.bytes)
	require.Less(t, count.n, 10)
}

// A large value is not held a second time.
func TestTrimmerOfLargeValues(t *testing.T) {
	t.Parallel()
	count := &writes{}
	trim := &trimmer{w: count, padded: []bool{true, false}, begun: true}
	const size = 20 << 20
	row := append(binary.BigEndian.AppendUint32([]byte{0, 2, 0, 0, 0, 4, 'a', ' ', ' ', ' '}, size), make([]byte, size)...)
	for range 3 {
		_, err := trim.Write(row)
		require.NoError(t, err)
		require.Less(t, cap(trim.out)+cap(trim.rest), 1<<20)
	}
	_, err := trim.Write([]byte{0xff, 0xff})
	require.NoError(t, err)
	require.Equal(t, 3*(len(row)-3)+2, count.bytes)
}

// Names in an expression are told apart from what only looks like them.
func TestWordsOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`lower(title)`: "title",
		`regexp_replace(mail, '.*@'::text, ''::text)`:                    "mail",
		`(j ->> 'k'::text) , COALESCE((j ->> 'l'::text), '-'::text)`:     "j",
		`lower("At" COLLATE "C")`:                                        "At C COLLATE",
		`date_trunc('day'::text, ("T""x")::timestamp without time zone)`: `T"x without time zone`,
		`a || E'b\' c.*' , d`:                                            "a d",
		`(a)::"char"`:                                                    "a",
		`it''s`:                                                          "it s",
	} {
		words, ok := wordsOf(text)
		require.True(t, ok, text)
		require.ElementsMatch(t, strings.Fields(want), slices.Collect(maps.Keys(words)), text)
	}
	for _, text := range []string{`(t.*)::text`, `row_hash(m1.*)`, `f('a'::text, t.*)`} {
		_, ok := wordsOf(text)
		require.False(t, ok, text)
	}
}

type writes struct{ n, bytes int }

func (w *writes) Write(b []byte) (int, error) {
	w.n, w.bytes = w.n+1, w.bytes+len(b)
	return len(b), nil
}

// What is padded comes out padded as before, to the length that it has here;
// blanks that mean something stay.
func TestCopyOfPaddedValues(t *testing.T) {
	t.Parallel()
	for name, structure := range map[string]bool{"tables that come along": true, "tables of its own": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			const table = `CREATE DOMAIN code AS char(6);
				CREATE TABLE padded (k char(5), id int, c char(%d), other %s, free bpchar, d code, list char(4)[], v varchar(9), one "char", t text, PRIMARY KEY (k, id))`
			a.exec(t, fmt.Sprintf(table, 10, "char(8)")+`;
				INSERT INTO padded SELECT 'k' || i % 7, i, v, left(v, 8), v, left(v, 6), ARRAY[left(v, 4), NULL], left(v, 9), 'x', v
					FROM generate_series(1, 3000) i, LATERAL (SELECT (ARRAY['', ' ', 'a', 'a b ', '  x', 'äöü  ', 'ten chars.', 'été       ', NULL])[i % 9 + 1]) r (v);
				SELECT spock.repset_add_table('default', 'padded')`)
			options, other := wholeCopy, "8"
			if !structure {
				b.exec(t, fmt.Sprintf(table, 12, "char(9)"))
				options, other = ", synchronize_data := true", "9"
			}
			b.subscribe(t, a, options)
			equal(t, `SELECT count(*), count(c), min(octet_length(c)) IS NOT NULL, sum(hashtext(ROW(k, id, c::text, other::text, free, d, list, v, one, t)::text)::bigint),
				string_agg(DISTINCT octet_length(free)::text, ',') FROM padded`, a, b)
			require.Equal(t, other, b.text(t, "SELECT string_agg(DISTINCT char_length(replace(format('%s', other), ' ', '.'))::text, ',') FROM padded WHERE other IS NOT NULL"))
			require.Equal(t, "0", b.text(t, "SELECT count(*) FROM padded WHERE char_length(replace(format('%s', k), ' ', '.')) <> 5 OR d IS NOT NULL AND char_length(replace(format('%s', d), ' ', '.')) <> 6"))
			a.exec(t, "UPDATE padded SET c = 'new', other = 'ü' WHERE id % 10 = 0; DELETE FROM padded WHERE k = 'k1' AND id % 3 = 0")
			lsn := a.text(t, "SELECT spock.sync_event()")
			b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
			equal(t, "SELECT count(*), sum(hashtext(ROW(k, id, c::text, other::text, free, d, list, v, one, t)::text)::bigint) FROM padded", a, b)
		})
	}
}

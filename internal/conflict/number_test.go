package conflict

import (
	"encoding/hex"
	"math/big"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func asText(s string) Value { return Value{Data: []byte(s)} }

func asBinary(t require.TestingT, s string) Value {
	data, err := hex.DecodeString(s)
	require.NoError(t, err)
	return Value{Data: data, Binary: true}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	const numeric42 = (4<<16 | 2) + 4 // numeric(4, 2)
	tests := []struct {
		name                     string
		oid                      uint32
		modifier                 int32
		held, next, before, want string
		problem                  string
	}{
		{name: "int2", oid: Int2, held: "100", next: "7", before: "10", want: "97"},
		{name: "int2 to its end", oid: Int2, held: "32000", next: "767", before: "0", want: "32767"},
		{name: "int2 beyond", oid: Int2, held: "32000", next: "768", before: "0", problem: "add 32000 + (768 - 0): value out of range"},
		{name: "int2 below", oid: Int2, held: "-32000", next: "0", before: "769", problem: "out of range"},
		{name: "int4", oid: Int4, held: "-5", next: "-6", before: "-1", want: "-10"},
		{name: "only the sum must fit", oid: Int4, held: "-2147483648", next: "2147483647", before: "-1", want: "0"},
		{name: "int4 beyond", oid: Int4, held: "2147483647", next: "1", before: "0", problem: "out of range"},
		{name: "only the sum must fit int8", oid: Int8, held: "-9223372036854775808", next: "9223372036854775807", before: "-1", want: "0"},
		{name: "int8 beyond", oid: Int8, held: "9223372036854775807", next: "1", before: "0", problem: "out of range"},
		{name: "int8 far beyond", oid: Int8, held: "9223372036854775807", next: "9223372036854775807", before: "-9223372036854775808", problem: "out of range"},
		{name: "int8 below", oid: Int8, held: "-9223372036854775808", next: "-9223372036854775808", before: "9223372036854775807", problem: "out of range"},
		{name: "no integer", oid: Int4, held: "1", next: "one", before: "0", problem: "read integer"},
		{name: "money", oid: Money, held: "$1.00", next: "$2.00", before: "$0.00", problem: "add money as text"},
		{name: "float8", oid: Float8, held: "1.5", next: "2.25", before: "1", want: "2.75"},
		{name: "float8 infinity", oid: Float8, held: "1.5", next: "Infinity", before: "1", want: "Infinity"},
		{name: "float8 minus infinity", oid: Float8, held: "1.5", next: "1", before: "Infinity", want: "-Infinity"},
		{name: "float8 nan", oid: Float8, held: "1.5", next: "Infinity", before: "Infinity", want: "NaN"},
		{name: "float8 beyond", oid: Float8, held: "1.7e308", next: "1.7e308", before: "0", problem: "out of range"},
		{name: "float4 beyond", oid: Float4, held: "3e38", next: "3e38", before: "0", problem: "out of range"},
		{name: "numeric", oid: Numeric, modifier: -1, held: "10", next: "7.25", before: "0.1", want: "17.15"},
		{name: "numeric below zero", oid: Numeric, modifier: -1, held: "1", next: "0.5", before: "2", want: "-0.5"},
		{name: "numeric zero", oid: Numeric, modifier: -1, held: "-1.00", next: "1.0", before: "0", want: "0.00"},
		{name: "numeric nan", oid: Numeric, modifier: -1, held: "NaN", next: "1.0", before: "0", want: "NaN"},
		{name: "numeric infinity", oid: Numeric, modifier: -1, held: "1", next: "-Infinity", before: "0", want: "-Infinity"},
		{name: "numeric infinities", oid: Numeric, modifier: -1, held: "1", next: "Infinity", before: "Infinity", want: "NaN"},
		{name: "numeric(4,2)", oid: Numeric, modifier: numeric42, held: "99.00", next: "0.99", before: "0.00", want: "99.99"},
		{name: "numeric(4,2) beyond", oid: Numeric, modifier: numeric42, held: "99.00", next: "1.00", before: "0.00", problem: "out of range"},
		{name: "numeric(4,2) infinity", oid: Numeric, modifier: numeric42, held: "Infinity", next: "1.00", before: "0.00", problem: "out of range"},
		{name: "no numeric", oid: Numeric, modifier: -1, held: "1", next: "1e5", before: "0", problem: "invalid number"},
		{name: "empty numeric", oid: Numeric, modifier: -1, held: "1", next: "", before: "0", problem: "invalid number"},
		{name: "text", oid: 25, held: "1", next: "1", before: "0", problem: "it does not add up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Add(tt.oid, tt.modifier, asText(tt.held), asText(tt.next), asText(tt.before))
			if tt.problem != "" {
				require.ErrorContains(t, err, tt.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got.Data))
			require.True(t, AddsUp(tt.oid))
		})
	}
	require.False(t, AddsUp(25))
}

// TestAddBinary uses what the send functions of a server gave.
func TestAddBinary(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                     string
		oid                      uint32
		held, next, before, want string
	}{
		{"int2", Int2, "0064", "fff9", "0001", "005c"},
		{"int4", Int4, "00000064", "fffffff9", "00000001", "0000005c"},
		{"int8", Int8, "0000000000000064", "fffffffffffffff9", "0000000000000001", "000000000000005c"},
		{"money", Money, "0000000000000064", "fffffffffffffff9", "0000000000000001", "000000000000005c"},
		{"float4 1.5 + (2.25 - 1)", Float4, "3fc00000", "40100000", "3f800000", "40300000"},
		{"float8 1.5 + (2.25 - 1)", Float8, "3ff8000000000000", "4002000000000000", "3ff0000000000000", "4006000000000000"},
		{"numeric 12345.67 + (1.5 - 0)", Numeric, "0003000100000002000109291a2c", "000200000000000100011388", "0000000000000000", "0003000100000002" + "0001" + "092b" + "06a4"},
		{"numeric -0.05 + (0.05 - 0)", Numeric, "0001ffff4000000201f4", "0001ffff0000000201f4", "0000000000000000", "0000000000000002"},
		{"numeric nan", Numeric, "00000000c0000000", "000200000000000100011388", "0000000000000000", "00000000c0000000"},
		{"numeric infinity", Numeric, "00000000d0000000", "000200000000000100011388", "0000000000000000", "00000000d0000000"},
		{"numeric minus infinity", Numeric, "00000000f0000000", "000200000000000100011388", "0000000000000000", "00000000f0000000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Add(tt.oid, -1, asBinary(t, tt.held), asBinary(t, tt.next), asBinary(t, tt.before))
			require.NoError(t, err)
			require.Equal(t, tt.want, hex.EncodeToString(got.Data))
		})
	}
	for _, oid := range []uint32{Int2, Int4, Int8, Float4, Float8, Numeric} {
		_, err := Add(oid, -1, asBinary(t, "000000"), asBinary(t, "000000"), asBinary(t, "000000"))
		require.ErrorIs(t, err, errNumber)
	}
	for _, bad := range []string{"0001000000000000", "0001000012340000" + "0001", "00010000000000002710", "000000000000ffff"} {
		_, err := Add(Numeric, -1, asBinary(t, bad), asText("0"), asText("0"))
		require.ErrorIs(t, err, errNumber, bad)
	}
}

func TestIntegersAgainstBig(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var v [3]int64
		exact := new(big.Int)
		for i := range v {
			v[i] = rapid.Int64().Draw(t, "value")
		}
		exact.Add(big.NewInt(v[0]), big.NewInt(v[1]))
		exact.Sub(exact, big.NewInt(v[2]))
		got, err := Add(Int8, -1, asText(strconv.FormatInt(v[0], 10)), asText(strconv.FormatInt(v[1], 10)), asText(strconv.FormatInt(v[2], 10)))
		if !exact.IsInt64() {
			require.ErrorIs(t, err, ErrOutOfRange)
			return
		}
		require.NoError(t, err)
		require.Equal(t, exact.String(), string(got.Data))
	})
}

func anyNumeric(t *rapid.T) string {
	return rapid.StringMatching(`-?[1-9][0-9]{0,12}\.[0-9]{1,9}|-?[1-9][0-9]{0,12}|-?0\.[0-9]{1,9}|0`).Draw(t, "number")
}

func TestNumericsAgainstBig(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyNumeric(t), anyNumeric(t), anyNumeric(t)
		sum := new(big.Rat)
		for i, s := range []string{a, b, c} {
			r, ok := new(big.Rat).SetString(s)
			require.True(t, ok)
			if i == 2 {
				r.Neg(r)
			}
			sum.Add(sum, r)
		}
		scale := 0
		for _, s := range []string{a, b, c} {
			n, err := parseNumeric(asText(s))
			require.NoError(t, err)
			scale = max(scale, n.scale)
		}
		want := sum.FloatString(scale)
		if sum.Sign() == 0 && want[0] == '-' {
			want = want[1:]
		}
		got, err := Add(Numeric, -1, asText(a), asText(b), asText(c))
		require.NoError(t, err)
		require.Equal(t, want, string(got.Data))

		// The binary form goes there and back.
		n, err := parseNumeric(got)
		require.NoError(t, err)
		back, err := parseNumeric(Value{Data: n.binary(), Binary: true})
		require.NoError(t, err)
		require.Equal(t, want, back.String())
	})
}

func FuzzNumeric(f *testing.F) {
	f.Add([]byte("12.5"), false)
	f.Add([]byte("\x00\x01\x00\x00\x00\x00\x00\x02\x00\x01"), true)
	f.Fuzz(func(t *testing.T, data []byte, isBinary bool) {
		v := Value{Data: data, Binary: isBinary}
		n, err := parseNumeric(v)
		if err != nil {
			return
		}
		back, err := parseNumeric(Value{Data: n.binary(), Binary: true})
		require.NoError(t, err)
		require.Equal(t, n.String(), back.String())
	})
}

func TestFloatsAreOfTheirSize(t *testing.T) {
	t.Parallel()
	got, err := Add(Float4, -1, asText("0.1"), asText("0.2"), asText("0"))
	require.NoError(t, err)
	require.Equal(t, strconv.FormatFloat(float64(float32(0.1)+float32(0.2)), 'g', -1, 32), string(got.Data))
	got, err = Add(Float8, -1, asText("0.1"), asText("0.2"), asText("0"))
	require.NoError(t, err)
	require.Equal(t, "0.30000000000000004", string(got.Data))
}

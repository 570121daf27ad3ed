package conflict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// The types of columns that can add up, by their oids.
const (
	Int8    uint32 = 20
	Int2    uint32 = 21
	Int4    uint32 = 23
	Float4  uint32 = 700
	Float8  uint32 = 701
	Money   uint32 = 790
	Numeric uint32 = 1700
)

// AddsUp tells whether a column of that type can add up.
func AddsUp(typeOID uint32) bool {
	switch typeOID {
	case Int2, Int4, Int8, Float4, Float8, Money, Numeric:
		return true
	default:
		return false
	}
}

var (
	// ErrOutOfRange is a sum that the column's type cannot hold.
	ErrOutOfRange = errors.New("value out of range")
	errNumber     = errors.New("invalid number")
)

// Value is a number as PostgreSQL sends it.
type Value struct {
	Data   []byte
	Binary bool
}

// Add returns held + (next − before) in the form of next, computed so that only
// the sum has to fit the type. The modifier is the column's, -1 when it has
// none: a numeric may be narrower than its type.
func Add(typeOID uint32, modifier int32, held, next, before Value) (Value, error) {
	switch typeOID {
	case Int2:
		return addIntegers(16, held, next, before)
	case Int4:
		return addIntegers(32, held, next, before)
	case Int8:
		return addIntegers(64, held, next, before)
	case Money:
		// Its text depends on a setting of the server.
		if !held.Binary || !next.Binary || !before.Binary {
			return Value{}, fmt.Errorf("add money as text: %w", errNumber)
		}
		return addIntegers(64, held, next, before)
	case Float4:
		return addFloats(32, held, next, before)
	case Float8:
		return addFloats(64, held, next, before)
	case Numeric:
		return addNumerics(modifier, held, next, before)
	default:
		return Value{}, fmt.Errorf("add values of type %d: it does not add up", typeOID)
	}
}

func (v Value) integer(size int) (int64, error) {
	if !v.Binary {
		n, err := strconv.ParseInt(string(v.Data), 10, size)
		if err != nil {
			return 0, fmt.Errorf("read integer: %w", err)
		}
		return n, nil
	}
	if len(v.Data) != size/8 {
		return 0, fmt.Errorf("read integer of %d bytes: %w", len(v.Data), errNumber)
	}
	switch size {
	case 16:
		return int64(int16(binary.BigEndian.Uint16(v.Data))), nil //nolint:gosec // the sign is meant
	case 32:
		return int64(int32(binary.BigEndian.Uint32(v.Data))), nil //nolint:gosec // the sign is meant
	default:
		return int64(binary.BigEndian.Uint64(v.Data)), nil //nolint:gosec // the sign is meant
	}
}

// wide is a number of 128 bits in two's complement.
type wide struct {
	high int64
	low  uint64
}

func widen(n int64) wide { return wide{n >> 63, uint64(n)} } //nolint:gosec // two's complement

func (w wide) add(n int64) wide {
	v := widen(n)
	low, carry := bits.Add64(w.low, v.low, 0)
	return wide{w.high + v.high + int64(carry), low} //nolint:gosec // 0 or 1
}

func (w wide) sub(n int64) wide {
	v := widen(n)
	low, borrow := bits.Sub64(w.low, v.low, 0)
	return wide{w.high - v.high - int64(borrow), low} //nolint:gosec // 0 or 1
}

func addIntegers(size int, held, next, before Value) (Value, error) {
	h, err1 := held.integer(size)
	n, err2 := next.integer(size)
	b, err3 := before.integer(size)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Value{}, err
	}
	exact := widen(h).add(n).sub(b)
	sum := int64(exact.low) //nolint:gosec // checked in the next line
	if widen(sum) != exact || sum>>(size-1) != sum>>63 {
		return Value{}, fmt.Errorf("add %d + (%d - %d): %w", h, n, b, ErrOutOfRange)
	}
	if !next.Binary {
		return Value{Data: strconv.AppendInt(nil, sum, 10)}, nil
	}
	data := binary.BigEndian.AppendUint64(nil, uint64(sum)) //nolint:gosec // two's complement
	return Value{Data: data[8-size/8:], Binary: true}, nil
}

func (v Value) float(size int) (float64, error) {
	if !v.Binary {
		f, err := strconv.ParseFloat(string(v.Data), size)
		if err != nil {
			return 0, fmt.Errorf("read float: %w", err)
		}
		return f, nil
	}
	if len(v.Data) != size/8 {
		return 0, fmt.Errorf("read float of %d bytes: %w", len(v.Data), errNumber)
	}
	if size == 32 {
		return float64(math.Float32frombits(binary.BigEndian.Uint32(v.Data))), nil
	}
	return math.Float64frombits(binary.BigEndian.Uint64(v.Data)), nil
}

func addFloats(size int, held, next, before Value) (Value, error) {
	h, err1 := held.float(size)
	n, err2 := next.float(size)
	b, err3 := before.float(size)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Value{}, err
	}
	sum := h + (n - b)
	if size == 32 {
		sum = float64(float32(h) + (float32(n) - float32(b)))
	}
	if math.IsInf(sum, 0) && !math.IsInf(h, 0) && !math.IsInf(n, 0) && !math.IsInf(b, 0) {
		return Value{}, fmt.Errorf("add %g + (%g - %g): %w", h, n, b, ErrOutOfRange)
	}
	switch {
	case !next.Binary && math.IsInf(sum, 1):
		return Value{Data: []byte("Infinity")}, nil
	case !next.Binary && math.IsInf(sum, -1):
		return Value{Data: []byte("-Infinity")}, nil
	case !next.Binary:
		return Value{Data: strconv.AppendFloat(nil, sum, 'g', -1, size)}, nil
	case size == 32:
		return Value{Data: binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(sum))), Binary: true}, nil
	default:
		return Value{Data: binary.BigEndian.AppendUint64(nil, math.Float64bits(sum)), Binary: true}, nil
	}
}

package conflict

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// numeric is a PostgreSQL numeric: digits of which the last scale ones stand
// behind the point, or one of the three values that are no numbers.
type numeric struct {
	special  string // "NaN", "Infinity", "-Infinity"
	negative bool
	digits   []byte // 0 … 9, the most significant first; no zeros in front of the point's first
	scale    int
}

const (
	maxNumericScale  = 16383
	maxNumericDigits = 131072 // before the point

	numericNegative = 0x4000
	numericNaN      = 0xC000
	numericInf      = 0xD000
	numericNegInf   = 0xF000
)

func addNumerics(modifier int32, held, next, before Value) (Value, error) {
	h, err1 := parseNumeric(held)
	n, err2 := parseNumeric(next)
	b, err3 := parseNumeric(before)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Value{}, err
	}
	sum := h.add(n.add(b.negate()))
	if err := sum.fits(modifier); err != nil {
		return Value{}, err
	}
	if next.Binary {
		return Value{Data: sum.binary(), Binary: true}, nil
	}
	return Value{Data: []byte(sum.String())}, nil
}

// fits checks a sum against numeric(precision, scale) and the type's own limit.
func (n numeric) fits(modifier int32) error {
	limit := maxNumericDigits
	if modifier >= 4 {
		scale := ((modifier-4)&0x7ff ^ 0x400) - 0x400
		limit = int(((modifier-4)>>16)&0xffff - scale)
		if n.special == "Infinity" || n.special == "-Infinity" {
			return fmt.Errorf("store %s: %w", n.special, ErrOutOfRange)
		}
	}
	if whole := len(bytes.TrimLeft(n.digits, "\x00")) - n.scale; whole > limit {
		return fmt.Errorf("store number of %d digits before the point, of %d: %w", whole, limit, ErrOutOfRange)
	}
	return nil
}

func parseNumeric(v Value) (numeric, error) {
	if v.Binary {
		return parseBinaryNumeric(v.Data)
	}
	s := string(v.Data)
	switch s {
	case "NaN", "Infinity", "-Infinity":
		return numeric{special: s}, nil
	}
	n := numeric{}
	s, n.negative = strings.CutPrefix(s, "-")
	whole, fraction, _ := strings.Cut(s, ".")
	n.scale = len(fraction)
	for _, c := range []byte(whole + fraction) {
		if c < '0' || c > '9' {
			return numeric{}, fmt.Errorf("read numeric %q: %w", v.Data, errNumber)
		}
		n.digits = append(n.digits, c-'0')
	}
	if len(n.digits) == 0 || n.scale > maxNumericScale {
		return numeric{}, fmt.Errorf("read numeric %q: %w", v.Data, errNumber)
	}
	return n, nil
}

// parseBinaryNumeric reads groups of four digits; weight is the power of 10,000
// of the first.
func parseBinaryNumeric(data []byte) (numeric, error) {
	bad := fmt.Errorf("read numeric of %d bytes: %w", len(data), errNumber)
	if len(data) < 8 {
		return numeric{}, bad
	}
	groups := int(binary.BigEndian.Uint16(data))
	weight := int(int16(binary.BigEndian.Uint16(data[2:]))) //nolint:gosec // the sign is meant
	sign, scale := binary.BigEndian.Uint16(data[4:]), int(binary.BigEndian.Uint16(data[6:]))
	switch sign {
	case numericNaN:
		return numeric{special: "NaN"}, nil
	case numericInf:
		return numeric{special: "Infinity"}, nil
	case numericNegInf:
		return numeric{special: "-Infinity"}, nil
	case 0, numericNegative:
	default:
		return numeric{}, bad
	}
	if len(data) != 8+2*groups || scale > maxNumericScale {
		return numeric{}, bad
	}
	n := numeric{negative: sign == numericNegative, scale: scale}
	group := func(power int) int {
		if i := weight - power; i >= 0 && i < groups {
			return int(binary.BigEndian.Uint16(data[8+2*i:]))
		}
		return 0
	}
	for power := max(weight, 0); len(n.digits) < 4*(max(weight, 0)+1)+scale; power-- {
		g := group(power)
		if g > 9999 {
			return numeric{}, bad
		}
		n.digits = append(n.digits, byte(g/1000), byte(g/100%10), byte(g/10%10), byte(g%10)) //nolint:gosec // one digit each
	}
	n.digits = n.digits[:4*(max(weight, 0)+1)+scale]
	return n, nil
}

func (n numeric) negate() numeric {
	switch n.special {
	case "Infinity":
		n.special = "-Infinity"
	case "-Infinity":
		n.special = "Infinity"
	}
	n.negative = !n.negative
	return n
}

func (n numeric) add(m numeric) numeric {
	switch {
	case n.special != "" && m.special != "" && n.special != m.special:
		return numeric{special: "NaN"}
	case n.special != "":
		return numeric{special: n.special}
	case m.special != "":
		return numeric{special: m.special}
	}
	scale := max(n.scale, m.scale)
	size := max(len(n.digits)-n.scale, len(m.digits)-m.scale) + scale + 1
	a, b := n.aligned(size, scale), m.aligned(size, scale)
	sum := numeric{negative: n.negative, scale: scale, digits: make([]byte, size)}
	subtract := n.negative != m.negative
	if subtract && bytes.Compare(a, b) < 0 {
		a, b, sum.negative = b, a, m.negative
	}
	carry := 0
	for i := size - 1; i >= 0; i-- {
		d := int(a[i]) + int(b[i]) + carry
		if subtract {
			d = int(a[i]) - int(b[i]) + carry
		}
		carry = 0
		if d > 9 {
			d, carry = d-10, 1
		} else if d < 0 {
			d, carry = d+10, -1
		}
		sum.digits[i] = byte(d) //nolint:gosec // one digit
	}
	return sum
}

// aligned returns the digits with that many behind the point and in all.
func (n numeric) aligned(size, scale int) []byte {
	digits := make([]byte, size)
	copy(digits[size-scale-(len(n.digits)-n.scale):], n.digits)
	return digits
}

// String is the number as PostgreSQL prints it.
func (n numeric) String() string {
	if n.special != "" {
		return n.special
	}
	var b strings.Builder
	zero := len(bytes.Trim(n.digits, "\x00")) == 0
	if n.negative && !zero {
		b.WriteByte('-')
	}
	whole := bytes.TrimLeft(n.digits[:len(n.digits)-n.scale], "\x00")
	if len(whole) == 0 {
		b.WriteByte('0')
	}
	for _, d := range whole {
		b.WriteByte('0' + d)
	}
	if n.scale > 0 {
		b.WriteByte('.')
	}
	for _, d := range n.digits[len(n.digits)-n.scale:] {
		b.WriteByte('0' + d)
	}
	return b.String()
}

// binary is the number as numeric's send function writes it.
func (n numeric) binary() []byte {
	switch n.special {
	case "NaN":
		return binary.BigEndian.AppendUint64(nil, numericNaN<<16)
	case "Infinity":
		return binary.BigEndian.AppendUint64(nil, numericInf<<16)
	case "-Infinity":
		return binary.BigEndian.AppendUint64(nil, numericNegInf<<16)
	}
	// Whole groups on both sides of the point.
	whole := len(n.digits) - n.scale
	digits := slices.Concat(make([]byte, (4-whole%4)%4), n.digits, make([]byte, (4-n.scale%4)%4))
	weight := (whole+3)/4 - 1
	for len(digits) > 0 && !slices.ContainsFunc(digits[:4], nonzero) {
		digits = digits[4:]
		weight--
	}
	for len(digits) > 0 && !slices.ContainsFunc(digits[len(digits)-4:], nonzero) {
		digits = digits[:len(digits)-4]
	}
	sign := uint16(0)
	if n.negative && len(digits) > 0 {
		sign = numericNegative
	}
	if len(digits) == 0 {
		weight = 0
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(digits)/4)) //nolint:gosec // fits, by the type's limits
	b = binary.BigEndian.AppendUint16(b, uint16(weight))
	b = binary.BigEndian.AppendUint16(b, sign)
	b = binary.BigEndian.AppendUint16(b, uint16(n.scale)) //nolint:gosec // as above
	for i := 0; i < len(digits); i += 4 {
		b = binary.BigEndian.AppendUint16(b,
			uint16(digits[i])*1000+uint16(digits[i+1])*100+uint16(digits[i+2])*10+uint16(digits[i+3]))
	}
	return b
}

func nonzero(d byte) bool { return d != 0 }

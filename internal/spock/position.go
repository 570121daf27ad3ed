package spock

import (
	"database/sql/driver"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Position is a pg.LSN that the driver reads and writes; NULL reads as 0.
type Position pg.LSN

// Scan implements sql.Scanner.
func (p *Position) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*p = 0
		return nil
	case string:
		at, err := pg.ParseLSN(v)
		*p = Position(at)
		return err
	case uint64:
		*p = Position(v)
		return nil
	}
	return fmt.Errorf("read a WAL position: unexpected %T", src)
}

// Value implements driver.Valuer.
func (p Position) Value() (driver.Value, error) { return pg.LSN(p).String(), nil }

// LSN is the position in the words of package pg.
func (p Position) LSN() pg.LSN { return pg.LSN(p) }

// String is X/X.
func (p Position) String() string { return pg.LSN(p).String() }

package walreceiver

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// System is what a server says about itself.
type System struct {
	ID       pg.SystemID
	Timeline pg.Timeline
	Flushed  pg.LSN // end of its log on disk
	Database string
}

// IdentifySystem asks the server who it is.
func (c *Conn) IdentifySystem(ctx context.Context) (System, error) {
	row, _, err := c.row(ctx, "IDENTIFY_SYSTEM", 4)
	if err != nil {
		return System{}, fail(opIdentify, err, true)
	}
	s := System{Database: row[3]}
	if s.ID, err = pg.ParseSystemID(row[0]); err != nil {
		return System{}, fail(opIdentify, err, true)
	}
	if s.Timeline, err = pg.ParseTimeline(row[1]); err != nil {
		return System{}, fail(opIdentify, err, true)
	}
	if s.Flushed, err = pg.ParseLSN(row[2]); err != nil {
		return System{}, fail(opIdentify, err, true)
	}
	return s, nil
}

// TimelineHistory returns the server's timelines up to that one, and where each
// began.
func (c *Conn) TimelineHistory(ctx context.Context, tli pg.Timeline) (pg.History, error) {
	text := ""
	if tli > 1 { // the first has no history
		row, _, err := c.row(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli), 2)
		if err != nil {
			return nil, fail(opHistory, err, true)
		}
		text = row[1]
	}
	h, err := pg.ParseHistory(tli, text)
	if err != nil {
		return nil, fail(opHistory, err, true)
	}
	return h, nil
}

// Snapshot says what becomes of the snapshot at which a slot begins.
type Snapshot string

// The ways to treat the snapshot.
const (
	// SnapshotExport keeps it for other sessions, under the name in Slot, until
	// the next command on this connection.
	SnapshotExport  Snapshot = "export"
	SnapshotNothing Snapshot = "nothing"
)

// SlotConfig describes a logical slot to be made.
type SlotConfig struct {
	Name      string
	Plugin    string
	Temporary bool // it goes away with this connection
	TwoPhase  bool
	Failover  bool     // 17 and later
	Snapshot  Snapshot // empty is SnapshotNothing
}

// Slot is a slot that was made.
type Slot struct {
	Name            string
	ConsistentPoint pg.LSN // changes that commit behind this position are streamed
	Snapshot        string // for SET TRANSACTION SNAPSHOT; empty when not exported
	Plugin          string
}

// CreateSlot makes a logical slot. The server waits for all transactions that
// are running, without bound: the context is the bound.
func (c *Conn) CreateSlot(ctx context.Context, cfg SlotConfig) (Slot, error) {
	row, answered, err := c.row(ctx, cfg.command(), 4)
	if err != nil {
		return Slot{}, fail(opCreate, err, answered || cfg.Temporary)
	}
	point, err := pg.ParseLSN(row[1])
	if err != nil {
		return Slot{}, fail(opCreate, err, false)
	}
	return Slot{Name: row[0], ConsistentPoint: point, Snapshot: row[2], Plugin: row[3]}, nil
}

func (cfg SlotConfig) command() string {
	var b strings.Builder
	b.WriteString("CREATE_REPLICATION_SLOT " + quote(cfg.Name, `"`))
	if cfg.Temporary {
		b.WriteString(" TEMPORARY")
	}
	snapshot := cfg.Snapshot
	if snapshot == "" {
		snapshot = SnapshotNothing
	}
	b.WriteString(" LOGICAL " + quote(cfg.Plugin, `"`) + " (SNAPSHOT " + quote(string(snapshot), `'`))
	if cfg.TwoPhase {
		b.WriteString(", TWO_PHASE true")
	}
	if cfg.Failover {
		b.WriteString(", FAILOVER true")
	}
	b.WriteString(")")
	return b.String()
}

// DropSlot drops a slot. One that has a receiver is waited for when wait is set,
// and is an error otherwise ([SlotInUse]).
func (c *Conn) DropSlot(ctx context.Context, name string, wait bool) error {
	sql := "DROP_REPLICATION_SLOT " + quote(name, `"`)
	if wait {
		sql += " WAIT"
	}
	if _, _, err := c.command(ctx, sql, false); err != nil {
		return fail(opDropSlot, err, true)
	}
	return nil
}

// row runs a command that answers with one row.
func (c *Conn) row(ctx context.Context, sql string, columns int) (row []string, answered bool, err error) {
	rows, answered, err := c.command(ctx, sql, false)
	if err != nil {
		return nil, answered, err
	}
	if len(rows) != 1 || len(rows[0]) < columns {
		return nil, answered, fmt.Errorf("%w: %d rows", errProtocol, len(rows))
	}
	return rows[0], answered, nil
}

// Option is an option of the output plugin.
type Option struct{ Name, Value string }

// Pgoutput are the options of pgoutput.
type Pgoutput struct {
	Version      int // of the protocol
	Publications []string
	Binary       bool
	Messages     bool   // also what pg_logical_emit_message wrote
	Streaming    string // "on", "parallel" (16 and later); empty is off
	TwoPhase     bool
	Origin       string // "none" or "any", 16 and later; empty is the server's default
}

// Options are those that differ from the server's defaults.
func (p Pgoutput) Options() []Option {
	names := make([]string, len(p.Publications))
	for i, name := range p.Publications {
		names[i] = quote(name, `"`)
	}
	options := []Option{
		{"proto_version", fmt.Sprint(p.Version)},
		{"publication_names", strings.Join(names, ",")},
	}
	for _, o := range []struct {
		name string
		on   bool
	}{{"binary", p.Binary}, {"messages", p.Messages}, {"two_phase", p.TwoPhase}} {
		if o.on {
			options = append(options, Option{o.name, "true"})
		}
	}
	if p.Streaming != "" {
		options = append(options, Option{"streaming", p.Streaming})
	}
	if p.Origin != "" {
		options = append(options, Option{"origin", p.Origin})
	}
	return options
}

// StartConfig says what to stream.
type StartConfig struct {
	Slot string
	// From is the progress of the caller: transactions that end at or before it
	// are not sent. The server goes back no further than the slot does, and says
	// nothing when that is behind From.
	From    pg.LSN
	Options []Option
}

// StartLogical makes the connection a stream of changes.
func (c *Conn) StartLogical(ctx context.Context, cfg StartConfig) error {
	if _, _, err := c.command(ctx, cfg.command(), true); err != nil {
		return fail(opStart, err, true)
	}
	c.streaming = true
	return nil
}

func (cfg StartConfig) command() string {
	var b strings.Builder
	fmt.Fprintf(&b, "START_REPLICATION SLOT %s LOGICAL %s", quote(cfg.Slot, `"`), cfg.From)
	for i, o := range cfg.Options {
		if i == 0 {
			b.WriteString(" (")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(quote(o.Name, `"`) + " " + quote(o.Value, `'`))
	}
	if len(cfg.Options) > 0 {
		b.WriteString(")")
	}
	return b.String()
}

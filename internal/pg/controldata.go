package pg

import (
	"fmt"
	"strconv"
	"strings"
)

// ControlData is what pg_controldata says of a data directory.
type ControlData struct {
	ControlVersion int
	CatalogVersion int
	SystemID       SystemID
	// State is the cluster state in English, for example "in production".
	State string
	// Checkpoint is the location of the latest checkpoint record, Redo where
	// its redo begins, TLI and PrevTLI its timelines.
	Checkpoint LSN
	Redo       LSN
	TLI        Timeline
	PrevTLI    Timeline
	// MinRecovery is how far a standby must replay before it is consistent.
	MinRecovery    LSN
	MinRecoveryTLI Timeline
	Checksums      bool
	WalSegmentSize int64
	// Needs is what a standby that replays this WAL must be configured for.
	Needs [5]Need
}

// Need is the least value of a setting with which a standby starts.
type Need struct {
	Setting string
	AtLeast int
}

// States of a cluster that was stopped in an orderly way.
const (
	stateShutDown           = "shut down"
	stateShutDownInRecovery = "shut down in recovery"
)

// CleanShutdown reports that the server ended as a primary with a shutdown
// checkpoint: Checkpoint is the last record it wrote. The control file says so
// while WAL senders are still sending that record.
func (c ControlData) CleanShutdown() bool { return c.State == stateShutDown }

// RanAsPrimary reports that the last run of the server was one out of
// recovery, however it ended.
func (c ControlData) RanAsPrimary() bool {
	return c.State == stateShutDown || c.State == "in production" || c.State == "shutting down"
}

// NeedsRecovery reports whether the next start has to replay WAL because the
// last run was not ended in an orderly way.
func (c ControlData) NeedsRecovery() bool {
	return c.State != stateShutDown && c.State != stateShutDownInRecovery
}

// String sums it up for logs.
func (c ControlData) String() string {
	return fmt.Sprintf("system %s, timeline %d, checkpoint %s, %s", c.SystemID, c.TLI, c.Checkpoint, c.State)
}

// ParseControlData reads the output of pg_controldata run in the C locale.
// Lines that it does not know are skipped, missing ones are an error.
func ParseControlData(text string) (ControlData, error) {
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			values[key] = strings.TrimSpace(value)
		}
	}
	p := controlParser{values: values}
	c := ControlData{
		ControlVersion: int(p.number("pg_control version number")),
		CatalogVersion: int(p.number("Catalog version number")),
		SystemID:       p.systemID("Database system identifier"),
		State:          p.text("Database cluster state"),
		Checkpoint:     p.lsn("Latest checkpoint location"),
		Redo:           p.lsn("Latest checkpoint's REDO location"),
		TLI:            Timeline(p.number("Latest checkpoint's TimeLineID")),
		PrevTLI:        Timeline(p.number("Latest checkpoint's PrevTimeLineID")),
		MinRecovery:    p.lsn("Minimum recovery ending location"),
		MinRecoveryTLI: Timeline(p.number("Min recovery ending loc's timeline")),
		Checksums:      p.number("Data page checksum version") != 0,
		WalSegmentSize: int64(p.number("Bytes per WAL segment")),
	}
	for n, need := range []struct{ setting, key string }{
		{"max_connections", "max_connections setting"},
		{"max_worker_processes", "max_worker_processes setting"},
		{"max_wal_senders", "max_wal_senders setting"},
		{"max_prepared_transactions", "max_prepared_xacts setting"},
		{"max_locks_per_transaction", "max_locks_per_xact setting"},
	} {
		if _, told := values[need.key]; told {
			c.Needs[n] = Need{Setting: need.setting, AtLeast: int(p.number(need.key))}
		}
	}
	if p.err != nil {
		return ControlData{}, p.err
	}
	return c, nil
}

type controlParser struct {
	values map[string]string
	err    error
}

func (p *controlParser) fail(key string) {
	if p.err == nil {
		p.err = fmt.Errorf("parse pg_controldata, %q is %q: %w", key, p.values[key], ErrSyntax)
	}
}

func (p *controlParser) text(key string) string {
	if p.values[key] == "" {
		p.fail(key)
	}
	return p.values[key]
}

func (p *controlParser) number(key string) uint32 {
	v, err := strconv.ParseUint(p.values[key], 10, 32)
	if err != nil {
		p.fail(key)
	}
	return uint32(v)
}

func (p *controlParser) systemID(key string) SystemID {
	id, err := ParseSystemID(p.values[key])
	if err != nil {
		p.fail(key)
	}
	return id
}

func (p *controlParser) lsn(key string) LSN {
	v, err := ParseLSN(p.values[key])
	if err != nil {
		p.fail(key)
	}
	return v
}

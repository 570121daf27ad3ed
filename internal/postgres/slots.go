package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Slot is one physical replication slot.
type Slot struct {
	Name    string
	Active  bool
	Restart pg.LSN
	// Lost says that WAL the slot needs is gone.
	Lost bool
}

// SlotWant is a slot that should be there for node ID.
type SlotWant struct {
	ID int64
	// Advance moves an inactive slot up to this position when it is not zero and not behind the slot.
	Advance pg.LSN
}

// Slots lists the physical slots.
func (s *Session) Slots(ctx context.Context) ([]Slot, error) {
	const query = `
SELECT slot_name, active, coalesce(restart_lsn, '0/0')::text, coalesce(wal_status, '') = 'lost'
FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY slot_name`
	rows, err := s.conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("list replication slots: %w", err)
	}
	slots, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Slot, error) {
		var slot Slot
		var restart string
		if err := row.Scan(&slot.Name, &slot.Active, &restart, &slot.Lost); err != nil {
			return Slot{}, err
		}
		var err error
		slot.Restart, err = pg.ParseLSN(restart)
		return slot, err
	})
	if err != nil {
		return nil, fmt.Errorf("list replication slots: %w", err)
	}
	return slots, nil
}

// ours reports whether a slot belongs to a node of the group, the one name of
// the first releases of pg_auto_failover included.
func ours(name string) bool {
	_, ok := pg.ParseStandbyName(name)
	return ok || name == strings.TrimSuffix(pg.StandbyPrefix, "_")
}

// EnsureSlots has one slot for every wanted node, none of ours besides unless
// it is in use, and inactive ones moved to where their nodes are.
func (s *Session) EnsureSlots(ctx context.Context, want []SlotWant) error {
	slots, err := s.Slots(ctx)
	if err != nil {
		return err
	}
	have := make(map[string]Slot)
	for _, slot := range slots {
		have[slot.Name] = slot
		wanted := slices.ContainsFunc(want, func(w SlotWant) bool { return pg.StandbyName(w.ID) == slot.Name })
		if ours(slot.Name) && !slot.Active && (!wanted || slot.Lost) {
			if err := s.DropSlot(ctx, slot.Name); err != nil {
				return err
			}
			delete(have, slot.Name)
		}
	}
	for _, w := range want {
		name := pg.StandbyName(w.ID)
		slot, exists := have[name]
		if !exists {
			if err := s.CreateSlot(ctx, name); err != nil {
				return err
			}
			continue
		}
		if w.Advance == 0 || slot.Active || w.Advance <= slot.Restart {
			continue
		}
		if err := s.AdvanceSlot(ctx, name, w.Advance); err != nil {
			return err
		}
	}
	return nil
}

// DropSlots drops every slot of ours; one in use is an error after the others are gone.
func (s *Session) DropSlots(ctx context.Context) error {
	slots, err := s.Slots(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, slot := range slots {
		if !ours(slot.Name) {
			continue
		}
		if err := s.DropSlot(ctx, slot.Name); err != nil {
			failed = err
		}
	}
	return failed
}

// CreateSlot creates a physical slot that holds WAL from now on; one that exists is fine.
func (s *Session) CreateSlot(ctx context.Context, name string) error {
	const query = `
SELECT pg_create_physical_replication_slot($1::text::name, true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text)`
	return s.exec(ctx, "create replication slot "+name, query, name)
}

// DropSlot drops a slot; one that does not exist is fine.
func (s *Session) DropSlot(ctx context.Context, name string) error {
	const query = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1::text`
	return s.exec(ctx, "drop replication slot "+name, query, name)
}

// AdvanceSlot moves an inactive slot forward, no further than this server's own position.
func (s *Session) AdvanceSlot(ctx context.Context, name string, to pg.LSN) error {
	const query = `
SELECT pg_replication_slot_advance(slot_name, least($2::text::pg_lsn,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END))
FROM pg_replication_slots
WHERE slot_name = $1::text AND NOT active AND restart_lsn < least($2::text::pg_lsn,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)`
	return s.exec(ctx, "advance replication slot "+name, query, name, to.String())
}

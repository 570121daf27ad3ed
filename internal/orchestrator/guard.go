package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// What a join takes of the nodes' disks: the old nodes keep WAL for the new ones
// until these follow them, and the new ones get the copy.

// The shares of a disk at which a join is warned of, and ended. What an old node
// keeps is compared with the room that it has for it: what it keeps and what is
// free. A new node's disk is compared with itself.
const (
	warnShare, endShare       = 70, 90
	warnNewShare, endNewShare = 90, 97
	// leastRoom is what nobody may come below.
	leastRoom = 128 << 20
	// roomEvery is the pause between two looks at a disk, tellEvery that between
	// two words about it.
	roomEvery = 10 * time.Second
	tellEvery = time.Minute
)

// guards watch what the nodes keep, and what is left of their disks.
func guards(j workflow.Joining, limit int64) []Guard {
	var all []Guard
	for i, r := range append([]workflow.Member{j.Source}, j.Replicas...) {
		var slots []string
		for _, n := range j.New {
			switch {
			case i == 0 && n.SourceSlot != "":
				slots = append(slots, n.SourceSlot)
			case i > 0 && i <= len(n.Slots):
				slots = append(slots, n.Slots[i-1])
			}
		}
		if len(slots) == 0 {
			continue
		}
		kept := &keptGuard{node: r.Name, slots: slots, limit: limit}
		all = append(all, Guard{Node: r.Name, Look: kept.look}, Guard{Node: r.Name, Look: kept.room, Every: roomEvery})
	}
	for _, n := range j.New {
		all = append(all, Guard{Node: n.Name, Look: (&roomGuard{}).newcomer, Every: roomEvery})
	}
	return all
}

// keptGuard watches the WAL that a node keeps for the new ones.
type keptGuard struct {
	node  string
	slots []string
	limit int64 // of the operator; 0 is none

	roomGuard
	told  time.Time // by the guard of the disk alone
	last  int64
	lastT time.Time
}

// qRetained says what slots keep, when that is much, and whether it is too much.
// What a server may still write before it throws that away is its own limit.
const qRetained = `SELECT format('slot %s keeps %s of WAL for the new node%s', s.slot_name, pg_catalog.pg_size_pretty(s.kept),
       CASE WHEN s.wal_status = 'lost' THEN ', and has lost some' WHEN s.wal_status = 'unreserved' THEN ', and is about to lose some'
            WHEN s.most > 0 THEN ', of at most ' || pg_catalog.pg_size_pretty(s.most) END) AS said,
       s.wal_status IN ('lost', 'unreserved') OR s.own > 0 AND s.kept >= s.own AS too_much, s.slot_name AS about
  FROM (SELECT r.slot_name, r.wal_status, k.own, k.kept, coalesce(least(nullif(k.own, 0), k.kept + r.safe_wal_size), 0) AS most
          FROM pg_catalog.pg_replication_slots r,
               LATERAL (SELECT $1::bigint AS own, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), r.restart_lsn)::bigint AS kept) k
         WHERE r.slot_name = ANY ($2::text[]::name[])) s
 WHERE s.wal_status IN ('lost', 'unreserved') OR s.most > 0 AND 100 * s.kept >= 70 * s.most`

// look compares what is kept with the server's and the operator's limits.
func (g *keptGuard) look(ctx context.Context, server Server) ([]Finding, error) {
	answer, err := server.Ask(ctx, qRetained, new(strconv.FormatInt(g.limit, 10)), new(workflow.ListLiteral(g.slots)))
	if err != nil {
		return nil, err
	}
	var all []Finding
	for i := range answer.Rows {
		row := Result{Rows: answer.Rows[i : i+1]}
		all = append(all, Finding{Text: row.text(0), About: row.text(2), End: row.text(1) == "t"})
	}
	return all, nil
}

// qKept is how much WAL the oldest of some slots keeps.
const qKept = `SELECT coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), restart_lsn)), 0)::bigint
  FROM pg_catalog.pg_replication_slots WHERE slot_name = ANY ($1::text[]::name[])`

// room compares what is kept with the room that the disk has for it.
func (g *keptGuard) room(ctx context.Context, server Server) ([]Finding, error) {
	answer, err := server.Ask(ctx, qKept, new(workflow.ListLiteral(g.slots)))
	if err != nil {
		return nil, err
	}
	kept, err := strconv.ParseInt(answer.text(0), 10, 64)
	if err != nil || kept == 0 {
		return nil, err
	}
	_, wal, known, err := g.ask(ctx, server)
	if err != nil || !known {
		return nil, err
	}
	now := time.Now()
	text := fmt.Sprintf("%s keeps %s of WAL for the new node%s, %s of its disk are free", g.node, ByteText(kept), g.rate(now, kept, wal.free), ByteText(wal.free))
	share := 100 * kept / (kept + wal.free)
	f := Finding{Text: text, About: "room", End: share >= endShare || wal.free < leastRoom}
	switch {
	case f.End:
	case share >= warnShare:
		f.About = "little room"
		f.Again = now.Sub(g.told) >= tellEvery
	default:
		f.Note, f.Again = true, true
		if g.told.IsZero() {
			g.told = now // what is kept from the beginning is worth no word
		}
		if now.Sub(g.told) < tellEvery {
			return nil, nil
		}
	}
	g.told = now
	return []Finding{f}, nil
}

// rate words how fast that grows, and when the disk is full then.
func (g *keptGuard) rate(now time.Time, kept, free int64) string {
	last, at := g.last, g.lastT
	if at.IsZero() || now.Sub(at) >= tellEvery {
		g.last, g.lastT = kept, now
	}
	seconds := now.Sub(at).Seconds()
	if at.IsZero() || seconds <= 0 || kept <= last {
		return ""
	}
	perSecond := float64(kept-last) / seconds
	text := ", " + ByteText(int64(perSecond)) + " more a second"
	if full := float64(free) / perSecond; full < (30 * 24 * time.Hour).Seconds() {
		text += ", enough for " + time.Duration(full*float64(time.Second)).Round(time.Second).String()
	}
	return text
}

// roomGuard asks a server for its disks, unless that has refused it once.
type roomGuard struct{ refused bool }

func (g *roomGuard) ask(ctx context.Context, server Server) (data, wal room, known bool, err error) {
	if g.refused {
		return data, wal, false, nil
	}
	data, wal, err = roomOf(ctx, server)
	g.refused = spock.SQLState(err) != "" && !passing(err) || errors.Is(err, errRoom) // the check before the join has said so
	return data, wal, err == nil, err
}

// newcomer looks at the disk that gets the copy.
func (g *roomGuard) newcomer(ctx context.Context, server Server) ([]Finding, error) {
	data, wal, known, err := g.ask(ctx, server)
	if err != nil || !known {
		return nil, err
	}
	var all []Finding
	for _, place := range []struct {
		what string
		room
	}{{"the data", data}, {"the WAL", wal}} {
		used := 100 - int64(100*float64(place.free)/float64(max(place.total, 1)))
		if used < warnNewShare && place.free >= leastRoom {
			continue
		}
		all = append(all, Finding{
			Text:  fmt.Sprintf("%s of %s are left on the disk that has %s of the new node", ByteText(place.free), ByteText(place.total), place.what),
			About: place.what, End: used >= endNewShare || place.free < leastRoom,
		})
	}
	return all, nil
}

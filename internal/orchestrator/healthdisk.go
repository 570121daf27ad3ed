package orchestrator

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// room is how much a file system holds, and how much more it can, in bytes.
type room struct{ total, free int64 }

// qRoom asks the server's operating system; SQL has no function for it. What it
// needs for that goes with its transaction.
const qRoom = `BEGIN READ WRITE; CREATE TEMPORARY TABLE pgdrover_room (line text) ON COMMIT DROP;
COPY pgdrover_room FROM PROGRAM 'df -Pk . pg_wal' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')`

// roomOf is the room below a server's data directory, and where its WAL is.
func roomOf(ctx context.Context, server Server) (data, wal room, err error) {
	defer func() {
		_, endErr := server.Run(ctx, "ROLLBACK")
		err = errors.Join(err, endErr)
	}()
	if _, err = server.Run(ctx, qRoom); err != nil {
		return data, wal, err
	}
	answer, err := server.Ask(ctx, "SELECT line FROM pg_temp.pgdrover_room")
	if err != nil {
		return data, wal, err
	}
	var lines []string
	for _, row := range answer.Rows {
		lines = append(lines, *row[0])
	}
	return parseRoom(lines)
}

var errRoom = errors.New("df says nothing that can be read")

// parseRoom reads what df -Pk says of two places.
func parseRoom(lines []string) (data, wal room, err error) {
	if len(lines) != 3 {
		return data, wal, errRoom
	}
	for i, line := range lines[1:] {
		fields := strings.Fields(line)
		// A device may have blanks in its name; what follows it are three numbers and a percentage.
		at := -1
		for k := range fields {
			if strings.HasSuffix(fields[k], "%") && k >= 4 {
				at = k
				break
			}
		}
		if at < 0 {
			return data, wal, errRoom
		}
		total, errTotal := strconv.ParseInt(fields[at-3], 10, 64)
		free, errFree := strconv.ParseInt(fields[at-1], 10, 64)
		if errTotal != nil || errFree != nil {
			return data, wal, errRoom
		}
		*[]*room{&data, &wal}[i] = room{total << 10, free << 10}
	}
	return data, wal, nil
}

// room checks that a new node's disk holds the copy.
func (h *health) room(ctx context.Context) {
	size := int64(0)
	h.must(ctx, h.cfg.Source, "size of the database of "+h.cfg.Source.Name, func(server Server) error {
		answer, err := server.Ask(ctx, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
		if err == nil {
			size, err = strconv.ParseInt(answer.text(0), 10, 64)
		}
		return err
	})
	m := h.cfg.New
	_ = h.on(ctx, m, func(server Server) error {
		data, _, err := roomOf(ctx, server)
		if err != nil {
			h.add(Warn, m.Name, "nobody knows how much room the disk of new node %s has: %s", m.Name, reason(err))
			return nil
		}
		needed := size + size/10 // the WAL of the copy, and what is written meanwhile
		h.verdict(data.free > needed, m.Name,
			"the disk of new node "+m.Name+" has room for the copy: "+ByteText(data.free)+" are free, it needs "+ByteText(needed),
			"the disk of new node "+m.Name+" has no room for the copy: "+ByteText(data.free)+" are free, it needs "+ByteText(needed))
		return nil
	})
}

// walRoom checks that a node of the cluster has room for what it will keep for the new one.
func (h *health) walRoom(ctx context.Context, m workflow.Member) {
	if h.cfg.New.Name == "" || h.cfg.Post {
		return
	}
	_ = h.on(ctx, m, func(server Server) error {
		_, wal, err := roomOf(ctx, server)
		if err != nil {
			h.add(Warn, m.Name, "nobody knows how much room %s has for WAL: %s", m.Name, reason(err))
			return nil
		}
		h.add(walVerdict(wal), m.Name, "%s has %s of %s free for the WAL that it keeps for the new node", m.Name, ByteText(wal.free), ByteText(wal.total))
		return nil
	})
}

// walVerdict judges the room for WAL: a server without any ends.
func walVerdict(wal room) Verdict {
	const segments = 64 << 20
	switch {
	case wal.free < segments:
		return Fail
	case wal.free < wal.total/20:
		return Warn
	}
	return Pass
}

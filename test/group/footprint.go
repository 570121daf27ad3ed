package group

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Footprint is what a command that was refused must leave as it was: files, what
// the monitor knows, and which servers run. Each line is one fact.
type Footprint []string

// Footprint looks at the group's configuration, state and pid files, and at
// further places. Of a running server's own files only the server itself counts.
func (g *Group) Footprint(t testing.TB, places ...string) Footprint {
	t.Helper()
	var all Footprint
	for _, place := range []string{filepath.Join(g.root, "home"), filepath.Join(g.root, "run")} {
		// Neither empty directories nor a lock that nobody holds mean anything.
		all = append(all, slices.DeleteFunc(files(t, place), func(line string) bool {
			return strings.HasPrefix(line, "directory ") || strings.Contains(line, ".lock ")
		})...)
	}
	for _, place := range places {
		all = append(all, files(t, place)...)
	}
	for _, query := range []string{
		`SELECT format('node %s %s %s %s:%s in %s/%s: %s/%s priority %s quorum %s system %s', nodeid, nodename, nodecluster, nodehost, nodeport,
			formationid, groupid, reportedstate, goalstate, candidatepriority, replicationquorum, sysidentifier)
			FROM pgautofailover.node ORDER BY nodeid`,
		`SELECT format('formation %s %s %s secondary %s number_sync_standbys %s', formationid, kind, dbname, opt_secondary, number_sync_standbys) FROM pgautofailover.formation ORDER BY formationid`,
	} {
		err := g.query(func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, query)
			if err != nil {
				return err
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			all = append(all, lines...)
			return err
		})
		if err != nil {
			t.Fatalf("read what is registered: %v", err)
		}
	}
	for _, m := range append([]*Member{g.Monitor}, g.Nodes...) {
		all = append(all, fmt.Sprintf("server of %s is process %d, its keeper %d", m.Name, m.Postmaster(t), m.proc.Pid))
	}
	return all
}

// files lists a directory with everything below it, and the contents of all
// files but those that a running program of ours writes all the time.
func files(t testing.TB, place string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		kind := "file"
		if d.IsDir() {
			kind = "directory"
		}
		line := fmt.Sprintf("%s %s %s", kind, path, info.Mode())
		if info.Mode().IsRegular() && filepath.Ext(path) != ".state" {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(text), sha256.Sum256(text))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("look at files: %v", err)
	}
	return lines
}

// Diff says what is in one of two footprints only.
func (f Footprint) Diff(later Footprint) string {
	var b strings.Builder
	for _, line := range f {
		if !slices.Contains(later, line) {
			fmt.Fprintf(&b, "\n\t- %s", line)
		}
	}
	for _, line := range later {
		if !slices.Contains(f, line) {
			fmt.Fprintf(&b, "\n\t+ %s", line)
		}
	}
	return b.String()
}

package keeper

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// stateFileSize is the size of the state file and of the init file.
const stateFileSize = 1024

// The two layouts of the state file; the second one adds a byte.
const (
	stateVersion1 = 1
	stateVersion2 = 2
)

// Offsets in the state file: little endian, natural alignment.
const (
	offVersion       = 0
	offPgVersion     = 4
	offControl       = 8
	offCatalog       = 12
	offSystemID      = 16
	offNodeID        = 24
	offGroup         = 28
	offAssigned      = 32
	offNodesVersion  = 40
	offMonitor       = 48
	offCurrent       = 56
	offSecondary     = 64
	offXlogLag       = 72
	offPaused        = 80
	offMaintenance   = 84
	stateLayoutBytes = 88
)

// State is the content of pg_autoctl.state: what a keeper knows after a
// restart. It is on disk before the monitor hears of it.
type State struct {
	Version        int32
	PgVersion      int32
	ControlVersion uint32
	CatalogVersion uint32
	SystemID       pg.SystemID
	// NodeID is -1 until the node is registered.
	NodeID int32
	Group  int32
	// Assigned is the goal, Current the state that the node has reached.
	Assigned fsm.State
	Current  fsm.State
	// NodesVersion, XlogLag and Paused are kept as found.
	NodesVersion uint64
	XlogLag      int64
	Paused       int32
	// The contacts are zero when there never was one. The file keeps whole seconds.
	LastMonitorContact   time.Time
	LastSecondaryContact time.Time
	// MaintenanceOnStop says that the node went to maintenance because its
	// service was stopped, and leaves it at the next start.
	MaintenanceOnStop bool
}

// NewState returns the state of a node that is not registered yet.
func NewState() State {
	return State{
		Version: stateVersion1, NodeID: -1, XlogLag: -1,
		Assigned: fsm.Init, Current: fsm.Init,
	}
}

// fileRoles is the order of the roles in the state file, which is not that of
// the SQL enum.
func fileRoles() []fsm.State {
	return []fsm.State{
		fsm.Unknown, fsm.Init, fsm.Single, fsm.Primary, fsm.WaitPrimary, fsm.WaitStandby,
		fsm.Demoted, fsm.DemoteTimeout, fsm.Draining, fsm.Secondary, fsm.CatchingUp,
		fsm.PreparePromotion, fsm.StopReplication, fsm.Maintenance, fsm.JoinPrimary,
		fsm.ApplySettings, fsm.PrepareMaintenance, fsm.WaitMaintenance, fsm.ReportLSN,
		fsm.FastForward, fsm.JoinSecondary, fsm.Dropped,
	}
}

func roleToFile(s fsm.State) (uint32, error) {
	for i, role := range fileRoles() {
		if role == s {
			return uint32(i), nil
		}
	}
	return 0, fmt.Errorf("encode role %s: not in the table", s)
}

func roleFromFile(n uint32) (fsm.State, error) {
	roles := fileRoles()
	if uint64(n) >= uint64(len(roles)) {
		return fsm.Unknown, fmt.Errorf("decode role %d: not in the table", n)
	}
	return roles[n], nil
}

// MarshalBinary renders the file. The first layout is written unless the byte
// that only the second one has is set, so that older programs can read it.
func (s State) MarshalBinary() ([]byte, error) {
	b := make([]byte, stateFileSize)
	le := binary.LittleEndian
	assigned, err := roleToFile(s.Assigned)
	if err != nil {
		return nil, err
	}
	current, err := roleToFile(s.Current)
	if err != nil {
		return nil, err
	}
	version := uint32(stateVersion1)
	if s.MaintenanceOnStop {
		version = stateVersion2
		b[offMaintenance] = 1
	}
	le.PutUint32(b[offVersion:], version)
	le.PutUint32(b[offPgVersion:], uint32(s.PgVersion)) //nolint:gosec // same bits
	le.PutUint32(b[offControl:], s.ControlVersion)
	le.PutUint32(b[offCatalog:], s.CatalogVersion)
	le.PutUint64(b[offSystemID:], uint64(s.SystemID))
	le.PutUint32(b[offNodeID:], uint32(s.NodeID)) //nolint:gosec // same bits
	le.PutUint32(b[offGroup:], uint32(s.Group))   //nolint:gosec // same bits
	le.PutUint32(b[offAssigned:], assigned)
	le.PutUint64(b[offNodesVersion:], s.NodesVersion)
	le.PutUint64(b[offMonitor:], epoch(s.LastMonitorContact))
	le.PutUint32(b[offCurrent:], current)
	le.PutUint64(b[offSecondary:], epoch(s.LastSecondaryContact))
	le.PutUint64(b[offXlogLag:], uint64(s.XlogLag)) //nolint:gosec // same bits
	le.PutUint32(b[offPaused:], uint32(s.Paused))   //nolint:gosec // same bits
	return b, nil
}

// UnmarshalBinary reads both layouts.
func (s *State) UnmarshalBinary(b []byte) error {
	if len(b) < stateLayoutBytes {
		return fmt.Errorf("read %d bytes: short file", len(b))
	}
	le := binary.LittleEndian
	version := le.Uint32(b[offVersion:])
	if version != stateVersion1 && version != stateVersion2 {
		return fmt.Errorf("read layout version %d: unknown", version)
	}
	assigned, err := roleFromFile(le.Uint32(b[offAssigned:]))
	if err != nil {
		return err
	}
	current, err := roleFromFile(le.Uint32(b[offCurrent:]))
	if err != nil {
		return err
	}
	*s = State{
		Version:              int32(version),                     //nolint:gosec // 1 or 2
		PgVersion:            int32(le.Uint32(b[offPgVersion:])), //nolint:gosec // same bits
		ControlVersion:       le.Uint32(b[offControl:]),
		CatalogVersion:       le.Uint32(b[offCatalog:]),
		SystemID:             pg.SystemID(le.Uint64(b[offSystemID:])),
		NodeID:               int32(le.Uint32(b[offNodeID:])), //nolint:gosec // same bits
		Group:                int32(le.Uint32(b[offGroup:])),  //nolint:gosec // same bits
		Assigned:             assigned,
		Current:              current,
		NodesVersion:         le.Uint64(b[offNodesVersion:]),
		XlogLag:              int64(le.Uint64(b[offXlogLag:])), //nolint:gosec // same bits
		Paused:               int32(le.Uint32(b[offPaused:])),  //nolint:gosec // same bits
		LastMonitorContact:   fromEpoch(le.Uint64(b[offMonitor:])),
		LastSecondaryContact: fromEpoch(le.Uint64(b[offSecondary:])),
		MaintenanceOnStop:    version == stateVersion2 && b[offMaintenance] != 0,
	}
	return nil
}

func epoch(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.Unix()) //nolint:gosec // after 1970
}

func fromEpoch(n uint64) time.Time {
	if n == 0 || n > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(int64(n), 0)
}

// ReadState reads a state file. os.ErrNotExist stays visible; a file that
// cannot be understood is a *StateError.
func ReadState(path string) (State, error) {
	b, err := os.ReadFile(path) //nolint:gosec // one of Paths
	if err != nil {
		return State{}, fmt.Errorf("read state file: %w", err)
	}
	var s State
	if err := s.UnmarshalBinary(b); err != nil {
		return State{}, &StateError{Path: path, Err: err}
	}
	return s, nil
}

// WriteState replaces a state file; the new content is on disk when it returns.
func WriteState(path string, s State) error {
	b, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	if err := replaceFile(path, ".new", b, 0o600); err != nil {
		return fmt.Errorf("write state file %q: %w", path, err)
	}
	return nil
}

// PreInit is what the data directory held when the node was registered, as
// the init file keeps it until creation is over.
type PreInit int32

// The four answers.
const (
	PreInitUnknown PreInit = iota
	PGDataAbsent
	PGDataExists
	PGDataRunning
	PGDataPrimary
)

const initFileVersion = 1

// ReadInit reads an init file. os.ErrNotExist stays visible.
func ReadInit(path string) (PreInit, error) {
	b, err := os.ReadFile(path) //nolint:gosec // one of Paths
	if err != nil {
		return PreInitUnknown, fmt.Errorf("read init file: %w", err)
	}
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != initFileVersion {
		return PreInitUnknown, &StateError{Path: path, Err: fmt.Errorf("read %d bytes: wrong version or short file", len(b))}
	}
	p := PreInit(binary.LittleEndian.Uint32(b[4:])) //nolint:gosec // checked below
	if p < PGDataAbsent || p > PGDataPrimary {
		return PreInitUnknown, &StateError{Path: path, Err: fmt.Errorf("decode initial state %d: unknown", p)}
	}
	return p, nil
}

// writeInit creates the init file, which must not exist.
func writeInit(path string, p PreInit) error {
	b := make([]byte, stateFileSize)
	binary.LittleEndian.PutUint32(b, initFileVersion)
	binary.LittleEndian.PutUint32(b[4:], uint32(p)) //nolint:gosec // one of five
	if err := createFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write init file %q: %w", path, err)
	}
	return nil
}

package keeper

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestStateFileIsByteExact(t *testing.T) {
	t.Parallel()
	s := State{
		Version: 1, PgVersion: 15, ControlVersion: 1300, CatalogVersion: 202209061, SystemID: 0x0102030405060708,
		NodeID: 3, Group: -1, Assigned: fsm.Secondary, Current: fsm.CatchingUp, NodesVersion: 9,
		LastMonitorContact: time.Unix(0x65000000, 0), LastSecondaryContact: time.Unix(0x65000001, 0), XlogLag: -1, Paused: 2,
	}
	b, err := s.MarshalBinary()
	require.NoError(t, err)
	require.Len(t, b, 1024)
	require.Equal(t, ""+
		"010000000f000000"+"14050000"+"25770d0c"+ // version, pg version, control, catalog
		"0807060504030201"+ // system identifier
		"03000000"+"ffffffff"+ // node, group
		"0900000000000000"+ // assigned secondary, padding
		"0900000000000000"+"0000006500000000"+ // nodes version, monitor contact
		"0a00000000000000"+ // current catchingup, padding
		"0100006500000000"+"ffffffffffffffff"+ // secondary contact, lag
		"02000000"+"00000000", // paused, nothing
		hex.EncodeToString(b[:88]))
	require.Equal(t, make([]byte, 1024-88), b[88:])
	var back State
	require.NoError(t, back.UnmarshalBinary(b))
	require.Equal(t, s, back)

	s.MaintenanceOnStop = true
	b, err = s.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, byte(2), b[0])
	require.Equal(t, byte(1), b[84])
	require.NoError(t, back.UnmarshalBinary(b))
	require.True(t, back.MaintenanceOnStop)
}

func TestRolesInTheFileAreNumberedAsUpstream(t *testing.T) {
	t.Parallel()
	for number, name := range []string{
		"unknown", "init", "single", "primary", "wait_primary", "wait_standby", "demoted", "demote_timeout",
		"draining", "secondary", "catchingup", "prepare_promotion", "stop_replication", "maintenance", "join_primary",
		"apply_settings", "prepare_maintenance", "wait_maintenance", "report_lsn", "fast_forward", "join_secondary", "dropped",
	} {
		state, err := roleFromFile(uint32(number))
		require.NoError(t, err)
		require.Equal(t, name, state.String())
		back, err := roleToFile(state)
		require.NoError(t, err)
		require.Equal(t, uint32(number), back)
	}
	require.Len(t, fileRoles(), len(fsm.States()))
	_, err := roleFromFile(22)
	require.Error(t, err)
}

func TestStateFileComesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		second := func(name string) time.Time { return fromEpoch(rapid.Uint64Range(0, 1<<40).Draw(t, name)) }
		s := State{
			Version: 1, PgVersion: rapid.Int32().Draw(t, "pg"), ControlVersion: rapid.Uint32().Draw(t, "control"),
			SystemID: pg.SystemID(rapid.Uint64().Draw(t, "system")), NodeID: rapid.Int32().Draw(t, "node"),
			Assigned: rapid.SampledFrom(fsm.States()).Draw(t, "assigned"), Current: rapid.SampledFrom(fsm.States()).Draw(t, "current"),
			LastMonitorContact: second("monitor"), LastSecondaryContact: second("secondary"), XlogLag: rapid.Int64().Draw(t, "lag"),
		}
		if s.MaintenanceOnStop = rapid.Bool().Draw(t, "maintenance"); s.MaintenanceOnStop {
			s.Version = 2
		}
		b, err := s.MarshalBinary()
		require.NoError(t, err)
		var back State
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, s, back)
	})
}

func TestStateFileOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "pg_autoctl.state")
	_, err := ReadState(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, WriteState(path, NewState()))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	s, err := ReadState(path)
	require.NoError(t, err)
	require.Equal(t, NewState(), s)
	for name, content := range map[string][]byte{
		"short": make([]byte, 80), "version": append([]byte{9}, make([]byte, 1023)...), "role": badRole(),
	} {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := ReadState(path)
		broken, ok := errors.AsType[*StateError](err)
		require.True(t, ok, name)
		require.Contains(t, broken.Error(), "exists but is broken or wrong version")
	}
}

func badRole() []byte {
	b := make([]byte, 1024)
	b[0], b[offCurrent] = 1, 200
	return b
}

func TestInitFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg_autoctl.init")
	require.NoError(t, writeInit(path, PGDataExists))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, b, 1024)
	require.Equal(t, []byte{1, 0, 0, 0, 2, 0, 0, 0}, b[:8])
	pre, err := ReadInit(path)
	require.NoError(t, err)
	require.Equal(t, PGDataExists, pre)
	require.ErrorIs(t, writeInit(path, PGDataAbsent), fs.ErrExist)
	require.NoError(t, os.WriteFile(path, make([]byte, 1024), 0o600))
	_, err = ReadInit(path)
	require.Error(t, err)
}

func TestPathsFollowTheDataDirectory(t *testing.T) {
	t.Parallel()
	p := PathsOf(Dirs{ConfigHome: "/h/.config", DataHome: "/h/.local/share", RuntimeDir: "/run/user/1"}, "/var/lib/pg/15/main/")
	require.Equal(t, Paths{
		ConfigFile:   "/h/.config/pg_autoctl/var/lib/pg/15/main/pg_autoctl.cfg",
		StateFile:    "/h/.local/share/pg_autoctl/var/lib/pg/15/main/pg_autoctl.state",
		InitFile:     "/h/.local/share/pg_autoctl/var/lib/pg/15/main/pg_autoctl.init",
		NodesFile:    "/h/.local/share/pg_autoctl/var/lib/pg/15/main/nodes.json",
		PIDFile:      "/run/user/1/pg_autoctl/var/lib/pg/15/main/pg_autoctl.pid",
		PostgresFile: "/run/user/1/pg_autoctl/var/lib/pg/15/main/pg_autoctl.pg",
	}, p)
}

package cli

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func TestStateTable(t *testing.T) {
	t.Parallel()
	nodes := []pgautofailover.NodeState{
		{
			FormationKind: "pgsql", Name: "node_1", NodeID: 1, Host: "localhost", Port: 5501, TLI: 1, LSN: 0x3000148,
			Health: fsm.HealthGood, Reported: fsm.Primary, Goal: fsm.Primary,
		},
		{
			FormationKind: "pgsql", Name: "node_2", NodeID: 2, Host: "localhost", Port: 5502, TLI: 1, LSN: 0x3000148,
			Health: fsm.HealthBad, Reported: fsm.Secondary, Goal: fsm.CatchingUp,
		},
	}
	var b bytes.Buffer
	require.NoError(t, stateTable(nodes).write(&b))
	require.Equal(t, ""+
		"  Name |  Node |      Host:Port |       TLI: LSN |   Connection |      Reported State |      Assigned State\n"+
		"-------+-------+----------------+----------------+--------------+---------------------+--------------------\n"+
		"node_1 |     1 | localhost:5501 |   1: 0/3000148 |   read-write |             primary |             primary\n"+
		"node_2 |     2 | localhost:5502 |   1: 0/3000148 |  read-only ! |           secondary |          catchingup\n"+
		"\n", b.String())

	citus := []pgautofailover.NodeState{{FormationKind: "citus", Name: "w", Group: 2, NodeID: 12, Host: "h", Port: 1, Health: fsm.HealthUnknown}}
	b.Reset()
	require.NoError(t, stateTable(citus).write(&b))
	require.Contains(t, b.String(), "   w |  2/12 |        h:1 |    0: 0/0 |       none ? |             unknown |             unknown\n")
}

// Every state has a connection type, and the writable ones are read-write.
func TestConnection(t *testing.T) {
	t.Parallel()
	for _, s := range fsm.States() {
		switch got := pgautofailover.ConnectionType(s); got {
		case "read-write":
			require.True(t, s.Writable() || s == fsm.PrepareMaintenance, s)
		case "read-only", "none":
			require.False(t, s.Writable(), s)
		default:
			t.Errorf("%s: %q", s, got)
		}
	}
}

func TestEventsTable(t *testing.T) {
	t.Parallel()
	events := []pgautofailover.Event{{TimeText: "2026-11-21 10:15:17.69767+00", NodeID: 1, Reported: fsm.Init, Goal: fsm.Single, Description: "a comment that is longer than its column"}}
	var b bytes.Buffer
	require.NoError(t, eventsTable(events).write(&b))
	require.Equal(t, ""+
		"                    Event Time |   Node |       Current State |      Assigned State | Comment\n"+
		"-------------------------------+--------+---------------------+---------------------+-----------\n"+
		"  2026-11-21 10:15:17.69767+00 |    0/1 |                init |              single | a comment that is longer than its column\n"+
		"\n", b.String())
}

func TestJSONStyles(t *testing.T) {
	t.Parallel()
	v := object{{"name", "a/b\n\x01"}, {"id", int64(3)}, {"no", nil}, {"list", array{true, object{}, array{}}}, {"f", 1.5}}
	var b bytes.Buffer
	require.NoError(t, writeJSON(&b, v))
	//nolint:testifylint // to the byte
	require.Equal(t, `{
    "name": "a\/b\n\u0001",
    "id": 3,
    "no": null,
    "list": [
        true,
        {},
        []
    ],
    "f": 1.5
}
`, b.String())
	b.Reset()
	require.NoError(t, writeJSONB(&b, v))

	require.Equal(t, `{
    "f": 1.5,
    "id": 3,
    "no": null,
    "list": [
        true,
        {},
        []
    ],
    "name": "a/b\n\u0001"
}
`, b.String())
	require.Error(t, writeJSON(&b, math.NaN()))
	require.Error(t, writeJSON(&b, struct{}{}))
}

// Any text comes back as it was from a JSON reader, in both styles.
func TestJSONTexts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		for _, write := range []func(*bytes.Buffer) error{
			func(b *bytes.Buffer) error { return writeJSON(b, object{{"k", text}}) },
			func(b *bytes.Buffer) error { return writeJSONB(b, object{{"k", text}}) },
		} {
			var b bytes.Buffer
			require.NoError(t, write(&b))
			var back map[string]string
			require.NoError(t, json.Unmarshal(b.Bytes(), &back))
			require.Equal(t, strings.ToValidUTF8(text, "\ufffd"), back["k"])
		}
	})
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 9, 8, 7, 0, time.Local)
	line := func(level slog.Level, colour bool, limit slog.Level, attrs ...slog.Attr) string {
		var b bytes.Buffer
		h := newLineHandler(&b, 42, limit, colour).WithAttrs([]slog.Attr{slog.String("formation", "default")})
		r := slog.NewRecord(at, level, "a\nmessage", 0)
		r.AddAttrs(attrs...)
		require.NoError(t, h.Handle(t.Context(), r))
		return b.String()
	}
	require.Equal(t, "09:08:07 42 INFO  a message formation=default\n", line(slog.LevelInfo, false, slog.LevelInfo))
	require.Equal(t, "09:08:07 42 FATAL a message formation=default error=\"not found\" n.id=3\n",
		line(levelFatal, false, slog.LevelInfo, slog.String("error", "not found"), slog.Group("n", slog.Int("id", 3))))
	require.Equal(t, "09:08:07 42 \x1b[33mWARN \x1b[0m a message formation=default\n", line(slog.LevelWarn, true, slog.LevelInfo))
	require.Equal(t, "09:08:07 42 TRACE a message formation=default\n", line(levelTrace, false, levelTrace))
	require.Equal(t, "09:08:07 42 DEBUG a message formation=default\n", line(slog.LevelDebug, false, levelTrace))
	require.Equal(t, "09:08:07 42 ERROR a message formation=default\n", line(slog.LevelError, false, levelTrace))
	require.False(t, newLineHandler(nil, 1, slog.LevelError, false).Enabled(t.Context(), slog.LevelWarn))
}

func TestParseBool(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"true": true, "T": true, "tRu": true, "y": true, "yes": true, "on": true, "1": true,
		"false": false, "f": false, "n": false, "no": false, "of": false, "OFF": false, "0": false,
	} {
		got, err := parseBool(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "o", "truee", "2", "10", "wrong quorum"} {
		_, err := parseBool(text)
		require.Error(t, err, text)
	}
}

func TestSSLChoice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		choice sslChoice
		want   sslChoice
		fails  bool
	}{
		"nothing":              {},
		"mode alone":           {choice: sslChoice{mode: "require"}, want: sslChoice{mode: "require"}},
		"none":                 {choice: sslChoice{noSSL: true}, want: sslChoice{noSSL: true, made: true, mode: "prefer"}},
		"self-signed":          {choice: sslChoice{selfSigned: true}, want: sslChoice{selfSigned: true, made: true, active: true, mode: "require"}},
		"self-signed, weaker":  {choice: sslChoice{selfSigned: true, mode: "allow"}, want: sslChoice{selfSigned: true, made: true, active: true, mode: "allow"}},
		"self-signed, strict":  {choice: sslChoice{selfSigned: true, mode: "verify-ca"}, fails: true},
		"both":                 {choice: sslChoice{selfSigned: true, noSSL: true}, fails: true},
		"files that are not":   {choice: sslChoice{files: true, certFile: "c", keyFile: "k", caFile: "a"}, fails: true},
		"strict without ca":    {choice: sslChoice{files: true, certFile: "c", keyFile: "k"}, fails: true},
		"certificate, no key":  {choice: sslChoice{files: true, certFile: "c"}, fails: true},
		"no ssl and files too": {choice: sslChoice{noSSL: true, files: true}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := test.choice
			c.modeGiven = c.mode != ""
			test.want.modeGiven = c.modeGiven
			err := c.check()
			if test.fails {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, c)
		})
	}
}

func TestFollowerWaitsForTheOldPrimaryToLeave(t *testing.T) {
	t.Parallel()
	begin := func() *follower {
		f := &follower{visited: map[fsm.State]bool{}}
		states := map[int64]fsmPair{1: {fsm.Primary, fsm.Primary}, 2: {fsm.Secondary, fsm.Secondary}}
		for id, p := range states {
			f.note(id, p)
		}
		f.states = states
		return f
	}
	hear := func(f *follower, id int64, reported, goal fsm.State) {
		f.note(id, fsmPair{reported, goal})
		f.states[id] = fsmPair{reported, goal}
	}
	f := begin()
	require.False(t, f.succeeded())
	hear(f, 2, fsm.Secondary, fsm.PreparePromotion)
	require.False(t, f.succeeded(), "the old primary has not been told yet")
	hear(f, 1, fsm.Primary, fsm.Draining)
	require.False(t, f.succeeded())
	hear(f, 2, fsm.WaitPrimary, fsm.Primary)
	require.False(t, f.succeeded())
	hear(f, 2, fsm.Primary, fsm.Primary)
	require.True(t, f.succeeded())

	noPrimary := &follower{visited: map[fsm.State]bool{}}
	noPrimary.note(1, fsmPair{fsm.ReportLSN, fsm.ReportLSN})
	noPrimary.states = map[int64]fsmPair{1: {fsm.ReportLSN, fsm.ReportLSN}}
	require.False(t, noPrimary.succeeded())
	hear(noPrimary, 1, fsm.Primary, fsm.Primary)
	require.True(t, noPrimary.succeeded())
}

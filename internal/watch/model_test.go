package watch

import (
	"errors"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/status"
)

func TestQuitKeys(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"q", "f1", "ctrl+c"} {
		_, cmd := screen(80, 24).Update(press(name)[0])
		require.NotNil(t, cmd, name)
		require.Equal(t, tea.QuitMsg{}, cmd())
	}
	for _, name := range []string{"x", "up", "ctrl+d", "delete"} {
		_, cmd := screen(80, 24, snapshotMsg(quiet())).Update(press(name)[0])
		require.Nil(t, cmd, name)
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	after := func(names ...string) selection {
		return screen(80, 24, append([]tea.Msg{snapshotMsg(quiet())}, press(names...)...)...).selected
	}
	require.Equal(t, selection{}, after())
	for _, down := range []string{"down", "j", "ctrl+n"} {
		require.Equal(t, selection{node: 1}, after(down))
		require.Equal(t, selection{event: 1}, after(down, down, down, down))
	}
	for _, up := range []string{"up", "k", "ctrl+p"} {
		require.Equal(t, selection{event: 35}, after(up), "the newest event is the lowest row")
		require.Equal(t, selection{event: 34}, after(up, up))
	}
	require.Equal(t, selection{node: 1}, after("down", "up"), "there is nothing above the first row")
	require.Equal(t, selection{event: 10}, after("down", "pgdown"))
	require.Equal(t, selection{event: 10}, after("down", "ctrl+d"))
	require.Equal(t, selection{event: 23}, after("up", "ctrl+u"))
	require.Equal(t, selection{node: 1}, after("down", "pgdown", "pgup"))
	require.Equal(t, selection{}, after("down", "delete"))
	require.Equal(t, selection{}, screen(80, 24, press("down", "up", "pgdown")...).selected, "nothing to select")
}

// A row stays selected while others come and go.
func TestSelectionIsKeptByID(t *testing.T) {
	t.Parallel()
	m := screen(80, 24, append([]tea.Msg{snapshotMsg(quiet())}, press("up")...)...)
	s := quiet()
	s.Events = append(s.Events[5:], event(36, 0, 1, 0, "another"))
	next, _ := m.Update(snapshotMsg(s))
	require.Equal(t, selection{event: 35}, next.(Model).selected)
	s.Events = s.Events[len(s.Events)-1:]
	next, _ = next.Update(snapshotMsg(s))
	require.NotEmpty(t, next.View().Content, "what was selected is gone")
	next, _ = next.Update(press("down")[0])
	require.Equal(t, selection{node: 1}, next.(Model).selected)
}

func TestScrolling(t *testing.T) {
	t.Parallel()
	after := func(names ...string) int {
		return screen(80, 24, append([]tea.Msg{snapshotMsg(quiet())}, press(names...)...)...).left
	}
	last := after("end")
	require.Positive(t, last)
	for _, names := range [][]string{{"end", "left"}, {"$", "h"}, {"ctrl+e", "ctrl+b"}} {
		require.Equal(t, last-10, after(names...))
	}
	for _, names := range [][]string{{"right", "home"}, {"l", "0"}, {"ctrl+f", "ctrl+a"}, {"left"}} {
		require.Zero(t, after(names...))
	}
	require.Equal(t, 10, after("right"))
	require.Equal(t, last, after("end", "right"))
}

// The monitor's silence is told with its age until it answers again.
func TestLostAndFoundAgain(t *testing.T) {
	t.Parallel()
	m := screen(80, 24, snapshotMsg(quiet()), lostMsg{errors.New("first")}, clockMsg(noon().Add(5*time.Second)), lostMsg{errors.New("second")})
	text := uncolour(m.View().Content)
	require.Contains(t, text, "MONITOR LOST 5.0s ago, all this is old: second")
	require.Contains(t, text, "node_1")
	next, _ := m.Update(snapshotMsg(quiet()))
	require.NotContains(t, next.View().Content, "LOST")
}

// Texts come from other programs: nothing of them may act on the terminal.
func TestTextsCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()
	s := quiet()
	bad := "a\x1b]0;title\x07b\x1b[2Jc\r\n\u202ed"
	s.Formation = bad
	s.Groups[0].Waiting = bad
	s.Groups[0].Nodes[0].Name = bad
	s.Groups[0].Nodes[0].Host = bad
	s.Events[34].Description, s.Events[34].Name = bad, bad
	for _, keys := range [][]tea.Msg{nil, press("down"), press("up")} {
		m := screen(200, 50, append([]tea.Msg{snapshotMsg(s), lostMsg{errors.New(bad)}}, keys...)...)
		view := m.View()
		for _, text := range []string{uncolour(view.Content), view.WindowTitle, Render(s, time.UTC, 200)} {
			require.NotContains(t, text, "\x1b")
			require.NotContains(t, text, "\x07")
			require.NotContains(t, text, "\r")
			require.NotContains(t, text, "\u202e")
		}
	}
}

// No size of terminal and no amount of nodes breaks the frame.
func TestAnySizeHolds(t *testing.T) {
	t.Parallel()
	for _, s := range []status.Snapshot{quiet(), failing(), wide(), {}} {
		for _, w := range []int{0, 1, 2, 5, 9, 20, 39, 40, 59, 60, 80, 100, 130, 250} {
			for _, h := range []int{0, 1, 2, 3, 4, 6, 9, 15, 16, 20, 60} {
				m := screen(w, h, snapshotMsg(s), press("down")[0])
				lines := m.frame()
				require.Len(t, lines, h)
				for _, line := range lines {
					require.LessOrEqual(t, width(line), w)
				}
			}
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "abc…", cut("abcdef", 4))
	require.Empty(t, cut("abc", 0))
	require.Equal(t, "日…", cut("日本語", 4))
	require.Equal(t, "def", skip("abcdef", 3))
	require.Empty(t, skip("abc", 9))
	require.Equal(t, []string{"one two", "three"}, fold("one  two three", 8, 5))
	require.Equal(t, []string{"one two", "three f…"}, fold("one two three four", 8, 2))
	require.Empty(t, fold("one", 8, 0))
	require.Equal(t, "ab", uncolour(styleBad.Render("a")+"b"))
}

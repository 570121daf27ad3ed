package zodan

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/test/group"
)

// event is one line of a run's output.
type event struct {
	Step, Phase, Node, Description, Status, Message, Error string
}

// tool is one call of the program.
type tool struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	mu     sync.Mutex // above what it guards
	events []event
	ended  chan struct{}
	code   int
	told   sync.Once
}

// call is what every call has: a directory for journals of its own, which
// stands for a machine, and patience with a machine that stalls.
func call(dir string, words ...string) []string {
	return append(words, "--format=json", "--stall-timeout=4m", "--state-dir="+dir)
}

// begin starts the tool; on hears of every event, in their order, before the next is read.
func begin(t testing.TB, on func(tl *tool, e event), words ...string) *tool {
	t.Helper()
	tl := &tool{cmd: exec.Command(group.Program(t), append([]string{"zodan"}, words...)...), ended: make(chan struct{})}
	tl.cmd.Env = os.Environ()
	tl.cmd.Stderr = &tl.stderr
	out, err := tl.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tl.cmd.Start())
	go func() {
		defer close(tl.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<24)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			tl.mu.Lock()
			tl.events = append(tl.events, e)
			tl.mu.Unlock()
			if on != nil {
				on(tl, e)
			}
		}
		_ = tl.cmd.Wait()
		tl.code = tl.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		_ = tl.cmd.Process.Kill()
		<-tl.ended
	})
	return tl
}

// kill ends the tool as a power failure does.
func (tl *tool) kill() { _ = tl.cmd.Process.Kill() }

// ends are the ways in which a tool is told to end.
var ends = [...]syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM}

// end ends the tool by a signal, once: a second one ends it without a word.
func (tl *tool) end(how syscall.Signal) {
	tl.told.Do(func() { _ = tl.cmd.Process.Signal(how) })
}

// requireEnded sees that a tool which was told to end says so, and not that
// something had failed. Told at its very end, it may be done all the same.
func (tl *tool) requireEnded(t testing.TB, how syscall.Signal) {
	t.Helper()
	switch code := tl.wait(); {
	case how == syscall.SIGKILL:
		require.Contains(t, []int{-1, 0}, code, tl.said())
	case code != 0:
		require.Equal(t, 130, code, tl.said())
		require.NotRegexp(t, `(?m)^\S* \| \S* \| (failed|FAIL) \|`, tl.said())
		require.Regexp(t, "cancelled at |nothing was changed", tl.said())
	}
}

// wait waits for the end and returns the exit code, -1 when it was killed.
func (tl *tool) wait() int {
	<-tl.ended
	return tl.code
}

// waitsFor waits until the tool says in a phase which session it waits for.
func (tl *tool) waitsFor(t testing.TB, phase string) {
	t.Helper()
	await(t, func() error {
		if done(tl) {
			t.Fatalf("it ended before it waited in %s:\n%s", phase, tl.said())
		}
		tl.mu.Lock()
		defer tl.mu.Unlock()
		for _, e := range tl.events {
			if e.Phase == phase && strings.Contains(e.Message, "waits for process") {
				return nil
			}
		}
		return want("it has named nobody in %s", phase)
	})
}

// said is all that the tool has told, for messages of tests.
func (tl *tool) said() string {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	var b strings.Builder
	for _, e := range tl.events {
		if e.Status != "running" {
			b.WriteString(strings.Join([]string{e.Phase, e.Node, e.Status, e.Description, e.Message, e.Error}, " | ") + "\n")
		}
	}
	return b.String() + tl.stderr.String()
}

// must runs the tool to its end, which must be that one.
func must(t testing.TB, code int, words ...string) *tool {
	t.Helper()
	tl := begin(t, nil, words...)
	require.Equal(t, code, tl.wait(), "zodan %s\n%s", strings.Join(words, " "), tl.said())
	return tl
}

// add is the command line that lets nodes join through the source.
func add(dir string, source *node, nodes ...*node) []string {
	words := []string{"add_node", "--src-node-name=" + source.name, "--src-dsn=" + source.dsn()}
	for _, n := range nodes {
		words = append(words, "--new", n.name+"="+n.dsn())
	}
	return call(dir, words...)
}

// remove is the command line that lets a node leave, with what was copied to it.
func remove(dir string, n *node) []string {
	return call(dir, "remove_node", "--target-node-name="+n.name, "--target-node-dsn="+n.dsn(), "--purge-data")
}

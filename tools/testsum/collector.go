package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is one line of "go test -json", as documented by "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output, instead of Package
	Test       string
	Elapsed    float64
	Output     string
}

// collector turns the events of a test run into progress and counts.
type collector struct {
	w     io.Writer
	tests map[key]*test
	order []key
}

// key names a test; an empty name is the package itself.
type key struct{ pkg, test string }

type test struct {
	output  []string
	outcome string // pass, fail, skip; empty while it runs
	parent  bool   // it has subtests
	failing bool   // one of its subtests failed
}

func newCollector(w io.Writer) *collector {
	return &collector{w: w, tests: map[key]*test{}}
}

// read consumes events until the end. What is not an event (the go command
// complaining before any test runs) is passed on.
func (c *collector) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				c.add(e)
			} else {
				fmt.Fprint(c.w, line)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

func (c *collector) get(k key) *test {
	t := c.tests[k]
	if t == nil {
		t = &test{}
		c.tests[k] = t
		c.order = append(c.order, k)
	}
	return t
}

func (c *collector) add(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(c.w, e.Output)
	case "output":
		t := c.get(key{e.Package, e.Test})
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		c.finish(e)
	}
}

func (c *collector) finish(e event) {
	k := key{e.Package, e.Test}
	t := c.get(k)
	t.outcome = e.Action
	for name := e.Test; ; {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
		parent := c.get(key{e.Package, name})
		parent.parent = true
		parent.failing = parent.failing || e.Action == "fail"
	}
	switch {
	case e.Test == "":
		c.finishPackage(e, t)
	case e.Action == "fail":
		fmt.Fprint(c.w, strings.Join(t.output, ""))
	}
	if e.Action != "skip" {
		t.output = nil // a run of a million subtests must fit into memory
	}
}

func (c *collector) finishPackage(e event, t *test) {
	if e.Action == "skip" {
		return // no test files
	}
	if e.Action == "pass" {
		fmt.Fprintf(c.w, "ok    %-60s %7.1f s\n", e.Package, e.Elapsed)
		return
	}
	// A package that fails although no test did has said why itself; a test
	// that never ended is where the process died.
	for _, k := range c.order {
		if unfinished := c.tests[k]; k.pkg == e.Package && k.test != "" && unfinished.outcome == "" {
			fmt.Fprint(c.w, strings.Join(unfinished.output, ""))
			unfinished.outcome = "fail"
		}
	}
	fmt.Fprint(c.w, strings.Join(t.output, ""))
	fmt.Fprintf(c.w, "FAIL  %-60s %7.1f s\n", e.Package, e.Elapsed)
}

// counts adds up the tests without subtests. A parent counts only when it
// failed on its own, a package likewise.
func (c *collector) counts() (passed int, failed []string, skipped []Skip) {
	failing := map[string]bool{} // packages with a failed test
	for _, k := range c.order {
		t := c.tests[k]
		if k.test == "" {
			continue
		}
		name := k.pkg + "." + k.test
		switch {
		case t.outcome == "fail" && !t.failing:
			failed = append(failed, name)
			failing[k.pkg] = true
		case t.parent:
		case t.outcome == "pass":
			passed++
		case t.outcome == "skip":
			skipped = append(skipped, Skip{Test: name, Reason: reason(t.output)})
		}
	}
	for _, k := range c.order {
		if k.test == "" && c.tests[k].outcome == "fail" && !failing[k.pkg] {
			failed = append(failed, k.pkg)
		}
	}
	slices.Sort(failed)
	return passed, failed, skipped
}

// standIns lists the tests that passed with a stand-in: of those whose names say so, the outermost.
func (c *collector) standIns() []string {
	var found []string
	for _, k := range c.order {
		at := strings.Index(k.test, "stand-in_for")
		if c.tests[k].outcome == "pass" && at >= 0 && !strings.Contains(k.test[at:], "/") {
			found = append(found, k.pkg+"."+k.test)
		}
	}
	slices.Sort(found)
	return found
}

var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)\n$`)

// reason is what a skipped test logged last.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		if m := logged.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

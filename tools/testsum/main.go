// Command testsum runs the stages of a test run and adds up what they did.
//
//	testsum run -results FILE -stage NAME [-plain] -- COMMAND…
//	testsum total -results FILE
//
// run passes a stage's progress on, package by package, with the whole output of
// every test that fails, and appends the counts to FILE. It exits with 0 also
// when tests fail, so that the next stage runs; total prints the sum, names
// every skipped test with its reason, and exits with 1 when anything failed.
//
// A stage's command is "go test -json …", or with -plain anything at all, which
// then counts as one test.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Stage is what one command did.
type Stage struct {
	Name    string
	Passed  int
	Failed  []string
	Skipped []Skip
	StandIn []string // tests that passed with a stand-in for what is not installed here, as their names say
	Seconds float64
}

// Skip is a test that did not run.
type Skip struct{ Test, Reason string }

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

var (
	errUsage = errors.New("usage: testsum run -results FILE -stage NAME [-plain] -- COMMAND… | testsum total -results FILE")
	errRed   = errors.New("tests failed")
)

func dispatch(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	results := flags.String("results", "", "file that collects the stages")
	stage := flags.String("stage", "", "name of the stage")
	plain := flags.Bool("plain", false, "the command is not go test -json")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case *results == "":
		return errUsage
	case args[0] == "run" && *stage != "" && flags.NArg() > 0:
		return runStage(*results, *stage, *plain, flags.Args())
	case args[0] == "total":
		return total(os.Stdout, *results)
	}
	return errUsage
}

func runStage(results, name string, plain bool, command []string) error {
	fmt.Printf("== %s\n", name)
	start := time.Now()
	stage := Stage{Name: name}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	var err error
	if plain {
		cmd.Stdout = os.Stdout
		if err = cmd.Run(); err == nil {
			stage.Passed = 1
		} else {
			stage.Failed = append(stage.Failed, fmt.Sprintf("%s: %v", name, err))
		}
	} else {
		err = runTests(cmd, &stage)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run stage %s: %w", name, err)
	}
	stage.Seconds = time.Since(start).Seconds()
	return appendStage(results, stage)
}

func runTests(cmd *exec.Cmd, stage *Stage) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c := newCollector(os.Stdout)
	readErr := c.read(out)
	err = cmd.Wait()
	stage.Passed, stage.Failed, stage.Skipped = c.counts()
	stage.StandIn = c.standIns()
	if err != nil && len(stage.Failed) == 0 {
		stage.Failed = append(stage.Failed, fmt.Sprintf("%s: %v", stage.Name, err))
	}
	return errors.Join(readErr, err)
}

func appendStage(results string, stage Stage) error {
	f, err := os.OpenFile(results, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	if err := json.NewEncoder(f).Encode(stage); err != nil {
		_ = f.Close()
		return fmt.Errorf("write results: %w", err)
	}
	return f.Close()
}

func total(w io.Writer, results string) error {
	f, err := os.Open(results)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	defer f.Close()
	var stages []Stage
	for d := json.NewDecoder(f); ; {
		var s Stage
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read results: %w", err)
		}
		stages = append(stages, s)
	}
	if !summarise(w, stages) {
		return errRed
	}
	return nil
}

// summarise prints the sum and says whether everything that ran passed. The
// counts are the last line.
func summarise(w io.Writer, stages []Stage) bool {
	var passed, failed, skipped int
	fmt.Fprintln(w, "== summary")
	for _, s := range stages {
		fmt.Fprintf(w, "%-24s %5d passed %3d failed %3d skipped %7.0f s\n", s.Name, s.Passed, len(s.Failed), len(s.Skipped), s.Seconds)
		passed, failed, skipped = passed+s.Passed, failed+len(s.Failed), skipped+len(s.Skipped)
	}
	for _, s := range stages {
		for _, skip := range s.Skipped {
			fmt.Fprintf(w, "SKIPPED %s: %s\n", skip.Test, skip.Reason)
		}
	}
	for _, s := range stages {
		for _, test := range s.StandIn {
			fmt.Fprintf(w, "STAND-IN %s\n", test)
		}
	}
	for _, s := range stages {
		for _, test := range s.Failed {
			fmt.Fprintf(w, "FAILED  %s\n", test)
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed == 0 && passed > 0
}

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	c := newCollector(&out)
	err := c.read(strings.NewReader(`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA/one","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestA/two","Output":"    a_test.go:7: no servers here\n"}
{"Action":"output","Package":"p","Test":"TestA/two","Output":"    --- SKIP: TestA/two (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA/two","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestA/three","Output":"    a_test.go:9: expected 3\n"}
{"Action":"fail","Package":"p","Test":"TestA/three","Elapsed":0}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"pass","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"pass","Package":"p","Test":"TestC/stand-in_for_it/killed","Elapsed":0}
{"Action":"pass","Package":"p","Test":"TestC/stand-in_for_it","Elapsed":0}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":0.1}
not an event
{"Action":"output","Package":"q","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"q","Elapsed":0.1}
{"ImportPath":"r","Action":"build-output","Output":"r.go:1: syntax error\n"}
{"Action":"fail","Package":"r","Elapsed":0,"FailedBuild":"r"}
{"Action":"skip","Package":"s","Elapsed":0}
`))
	if err != nil {
		t.Fatal(err)
	}
	passed, failed, skipped := c.counts()
	if passed != 3 {
		t.Errorf("passed %d, want 3", passed)
	}
	if want := []string{"p.TestA/three", "q.TestHangs", "r"}; !slices.Equal(failed, want) {
		t.Errorf("failed %q, want %q", failed, want)
	}
	if want := []Skip{{Test: "p.TestA/two", Reason: "no servers here"}}; !slices.Equal(skipped, want) {
		t.Errorf("skipped %q, want %q", skipped, want)
	}
	if want := []string{"p.TestC/stand-in_for_it"}; !slices.Equal(c.standIns(), want) {
		t.Errorf("with a stand-in %q, want %q", c.standIns(), want)
	}
	for _, want := range []string{"expected 3", "not an event", "test timed out", "syntax error"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
}

func TestSummaryEndsWithTheCounts(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	ok := summarise(&out, []Stage{
		{Name: "unit", Passed: 3, Skipped: []Skip{{Test: "p.TestA", Reason: "no servers here"}}},
		{Name: "sim", Passed: 1, StandIn: []string{"r.TestC/stand-in"}, Failed: []string{"q.TestB"}},
	})
	if ok {
		t.Error("a failed test must fail the run")
	}
	if want := "SKIPPED p.TestA: no servers here\nSTAND-IN r.TestC/stand-in\nFAILED  q.TestB\n4 passed, 1 failed, 1 skipped\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("the summary ends with %q", out.String())
	}
	if summarise(&out, nil) {
		t.Error("a run without tests must fail")
	}
}

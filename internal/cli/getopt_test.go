package cli

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func testFlags() *pflag.FlagSet {
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringP("formation", "f", "", "")
	f.String("format", "", "")
	f.IntP("group", "g", 0, "")
	f.BoolP("quiet", "q", false, "")
	f.CountP("verbose", "v", "")
	f.Bool("no-wait", false, "")
	return f
}

func TestGetopt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string
		mixed bool
		want  []string
		words []string
		err   string
	}{
		"nothing":                {},
		"long with blank":        {args: []string{"--group", "3"}, want: []string{"--group=3"}},
		"long with equals":       {args: []string{"--group=3"}, want: []string{"--group=3"}},
		"empty value":            {args: []string{"--formation="}, want: []string{"--formation="}},
		"value like an option":   {args: []string{"--group", "-1"}, want: []string{"--group=-1"}},
		"unique prefix":          {args: []string{"--gr", "1", "--no"}, want: []string{"--group=1", "--no-wait"}},
		"exact beats prefix":     {args: []string{"--format", "x"}, want: []string{"--format=x"}},
		"ambiguous":              {args: []string{"--form", "x"}, err: "p: option '--form' is ambiguous; possibilities: '--formation' '--format'"},
		"bundle":                 {args: []string{"-vqv"}, want: []string{"--verbose", "--quiet", "--verbose"}},
		"bundle with a value":    {args: []string{"-vg7"}, want: []string{"--verbose", "--group=7"}},
		"bundle, value next":     {args: []string{"-qf", "x"}, want: []string{"--quiet", "--formation=x"}},
		"unknown long":           {args: []string{"-v", "--nope"}, want: []string{"--verbose"}, err: "p: unrecognized option '--nope'"},
		"unknown short":          {args: []string{"-vx"}, want: []string{"--verbose"}, err: "p: invalid option -- 'x'"},
		"missing long value":     {args: []string{"--group"}, err: "p: option '--group' requires an argument"},
		"missing short value":    {args: []string{"-g"}, err: "p: option requires an argument -- 'g'"},
		"value not wanted":       {args: []string{"--quiet=yes"}, err: "p: option '--quiet' doesn't allow an argument"},
		"posix order":            {args: []string{"-q", "word", "-v"}, want: []string{"--quiet"}, words: []string{"word", "-v"}},
		"any order":              {args: []string{"a", "-q", "b", "-v"}, mixed: true, want: []string{"--quiet", "--verbose"}, words: []string{"a", "b"}},
		"end of options":         {args: []string{"-q", "--", "-v"}, mixed: true, want: []string{"--quiet"}, words: []string{"-v"}},
		"a dash alone is a word": {args: []string{"-", "-q"}, mixed: true, want: []string{"--quiet"}, words: []string{"-"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := getopt("p", testFlags(), test.args, test.mixed)
			if test.err != "" {
				require.EqualError(t, err, test.err)
			} else {
				require.NoError(t, err)
			}
			require.ElementsMatch(t, test.want, p.args())
			require.Equal(t, test.words, p.words)
		})
	}
}

// Whatever the options, pflag must understand what getopt made of them, and
// every word must come through in order.
func TestGetoptIsUnderstood(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"--group", "--group=2", "-g1", "-v", "-vq", "--quiet", "--form", "--formation", "x", "--", "-", "-1", "--no", "5", ""})
		args := rapid.SliceOf(piece).Draw(t, "args")
		p, err := getopt("p", testFlags(), args, rapid.Bool().Draw(t, "mixed"))
		if err != nil {
			return
		}
		flags := testFlags()
		if err := flags.Parse(append(p.args(), append([]string{"--"}, p.words...)...)); err != nil {
			require.ErrorContains(t, err, "invalid argument", "only a value may be wrong")
			return
		}
		require.Equal(t, append([]string{}, p.words...), append([]string{}, flags.Args()...))
	})
}

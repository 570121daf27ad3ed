package ini

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const sample = `[pg_autoctl]
role = keeper
monitor = postgres://autoctl_node@localhost:5500/pg_auto_failover?sslmode=prefer
formation = default
group = -1

[postgresql]
pgdata = /var/lib/postgresql/data
password = se;cret # %(name)s 'x'

[ssl]
active = 0
`

func TestFileIsReadAndWrittenByteForByte(t *testing.T) {
	t.Parallel()
	f, err := Parse(sample)
	require.NoError(t, err)
	text, err := f.Render()
	require.NoError(t, err)
	require.Equal(t, sample, text)
	value, ok := f.Get("postgresql", "password")
	require.True(t, ok)
	require.Equal(t, "se;cret # %(name)s 'x'", value)
	_, ok = f.Get("ssl", "password")
	require.False(t, ok)
}

func TestParseAcceptsWhatPeopleWrite(t *testing.T) {
	t.Parallel()
	f, err := Parse("; comment\r\n# another\n  [ a ]  \r\n\tkey=value = more  \nempty =\n[b]\n[a]\nkey = second\nlast = 1")
	require.NoError(t, err)
	require.Equal(t, File{Sections: []Section{
		{Name: "a", Keys: []Key{{"key", "value = more"}, {"empty", ""}}},
		{Name: "b"},
		{Name: "a", Keys: []Key{{"key", "second"}, {"last", "1"}}},
	}}, f)
	value, ok := f.Get("a", "key")
	require.True(t, ok)
	require.Equal(t, "value = more", value)
	value, ok = f.Get("a", "last")
	require.True(t, ok)
	require.Equal(t, "1", value)
}

func TestParseErrorsNameTheLineAndNotItsContents(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"[a\n", "[]\n", "secret\n", "= secret\n", "[a]b\n"} {
		_, err := Parse("\n" + text)
		require.ErrorIs(t, err, ErrSyntax)
		require.ErrorContains(t, err, "line 2")
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestEmptyValuesAreNotWritten(t *testing.T) {
	t.Parallel()
	var f File
	f.Set("a", "empty", "")
	f.Set("a", "key", "1")
	f.Set("b", "key", "2")
	f.Set("a", "key", "3")
	f.Set("b", "gone", "4")
	f.Unset("b", "gone")
	text, err := f.Render()
	require.NoError(t, err)
	require.Equal(t, "[a]\nkey = 3\n\n[b]\nkey = 2\n", text)
}

func TestRenderRefusesWhatItCouldNotReadBack(t *testing.T) {
	t.Parallel()
	for _, k := range []Key{{"key", "two\nlines"}, {"key", " padded"}, {"", "x"}, {"a=b", "x"}, {"#a", "x"}} {
		_, err := File{Sections: []Section{{Name: "s", Keys: []Key{k}}}}.Render()
		require.ErrorIs(t, err, ErrSyntax, "%q", k)
	}
	_, err := File{Sections: []Section{{Name: "s"}, {Name: ""}}}.Render()
	require.ErrorIs(t, err, ErrSyntax)
}

func TestWhatIsRenderedIsReadBack(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z_]{1,8}`)
	value := rapid.StringMatching(`[!-~]([ -~]{0,10}[!-~])?`)
	rapid.Check(t, func(t *rapid.T) {
		var f File
		for range rapid.IntRange(0, 10).Draw(t, "keys") {
			f.Set(name.Draw(t, "section"), name.Draw(t, "key"), value.Draw(t, "value"))
		}
		text, err := f.Render()
		require.NoError(t, err)
		again, err := Parse(text)
		require.NoError(t, err)
		require.Equal(t, f, again)
	})
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("[a]\nb=c\n[")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		out, err := file.Render()
		require.NoError(t, err)
		again, err := Parse(out)
		require.NoError(t, err)
		once, err := again.Render()
		require.NoError(t, err)
		require.Equal(t, out, once)
		require.NotContains(t, out, "\r")
	})
}

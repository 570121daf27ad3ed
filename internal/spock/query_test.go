package spock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// constants lists the constants of this package that hold a query, by the manner of their names.
func constants(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			value, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for _, name := range value.Names {
				if len(name.Name) > 1 && name.Name[0] == 'q' && name.Name[1] >= 'A' && name.Name[1] <= 'Z' {
					names = append(names, name.Name)
				}
			}
			return true
		})
	}
	return names
}

func TestEveryQueryPrepares(t *testing.T) {
	t.Parallel()
	registered := queries()
	var names []string
	for name := range registered {
		names = append(names, name)
	}
	require.ElementsMatch(t, constants(t), names)

	info, err := pg.ParseConnInfo(pgtest.Database(t))
	require.NoError(t, err)
	db, err := Connect(t.Context(), ConnectConfig{ConnInfo: info, ApplicationName: t.Name()})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(t.Context())) }()
	require.NoError(t, Install(t.Context(), db))
	for name, sql := range registered {
		_, err := db.conn.Prepare(t.Context(), name, sql)
		require.NoError(t, err, name)
	}
}

// TestEveryFileIsInstalled finds SQL files that nobody runs.
func TestEveryFileIsInstalled(t *testing.T) {
	t.Parallel()
	names := func(dir string) (all []string) {
		entries, err := sqlFiles.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			if !e.IsDir() {
				all = append(all, e.Name())
			}
		}
		return all
	}
	require.Equal(t, names("sql"), installOrder())
	require.Len(t, names("sql/upgrade"), SchemaNumber, "a step from each older version, and what follows them all")
	for _, file := range upgradeOrder(1) {
		_, err := sqlFiles.Open("sql/" + file)
		require.NoError(t, err)
	}
}

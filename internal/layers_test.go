package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/pgdrover/pgdrover/"

// floors holds every package of internal. A package imports packages of
// strictly lower floors, never of its own. A new package gets its floor here.
var floors = map[string]int{
	"pg": 0, "ini": 0,
	"fsm": 1, "conflict": 1, "pgoutput": 1, "workflow": 1,
	"postgres": 2, "walreceiver": 2, "pgautofailover": 2, "spock": 2, "supervisor": 2,
	"monitor": 3, "keeper": 3, "apply": 3, "orchestrator": 3, "status": 3,
	"watch": 4, "web": 4, "demo": 4,
	"cli":    5,
	"pgtest": 6,
}

// lastPureFloor and the floors below it decide: values in, values out.
const lastPureFloor = 1

// pureImports are the standard packages that pure floors may use; a slash at
// the end means everything below.
var pureImports = []string{
	"bytes", "cmp", "encoding", "encoding/", "errors", "fmt", "iter", "maps", "math", "math/bits", "net/netip",
	"net/url", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/",
}

// impureTime are the functions of package time that read or wait for a clock.
var impureTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "Sleep", "NewTimer", "NewTicker"}

// goPackage is what "go list -json" says about a package.
type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			require.NotEmpty(t, all)
			return all
		}
		require.NoError(t, err)
		if len(p.GoFiles) > 0 { // the others hold tests alone
			all = append(all, p)
		}
	}
}

// internalName is the name of a package below internal.
func internalName(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"internal/")
}

func TestEveryPackageHasAFloor(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		name, isInternal := internalName(p.ImportPath)
		if !isInternal {
			continue
		}
		_, ok := floors[name]
		require.True(t, ok, "package internal/%s has no floor: give it one in layers_test.go", name)
	}
}

func TestImportsPointDownward(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		name, isInternal := internalName(p.ImportPath)
		for _, imported := range p.Imports {
			below, ours := internalName(imported)
			switch {
			case !ours:
			case isInternal:
				require.Less(t, floors[below], floors[name], "internal/%s imports internal/%s, which is not below it", name, below)
			case strings.HasPrefix(p.ImportPath, module+"cmd/"):
				require.Equal(t, "cli", below, "%s may import nothing but internal/cli", p.ImportPath)
			}
		}
	}
}

func TestPureFloors(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		name, isInternal := internalName(p.ImportPath)
		if !isInternal || floors[name] > lastPureFloor {
			continue
		}
		for _, imported := range p.Imports {
			if _, ours := internalName(imported); ours {
				continue // TestImportsPointDownward
			}
			ok := slices.ContainsFunc(pureImports, func(allowed string) bool {
				return imported == allowed || strings.HasSuffix(allowed, "/") && strings.HasPrefix(imported, allowed)
			})
			require.True(t, ok, "internal/%s is pure and must not import %s", name, imported)
		}
		for _, file := range p.GoFiles {
			requirePureFile(t, filepath.Join(p.Dir, file))
		}
	}
}

// requirePureFile fails on goroutines and on anything that reads a clock.
func requirePureFile(t *testing.T, path string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			require.Fail(t, "pure code starts no goroutine", fset.Position(n.Pos()))
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if ok && pkg.Name == "time" && slices.Contains(impureTime, n.Sel.Name) {
				require.Fail(t, "pure code is told the time", fset.Position(n.Pos()))
			}
		}
		return true
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		require.NotEmpty(t, p.Doc, "%s has no package comment", p.ImportPath)
		if _, isInternal := internalName(p.ImportPath); isInternal {
			require.FileExists(t, filepath.Join(p.Dir, "doc.go"), "the package comment stands in doc.go")
		}
	}
}

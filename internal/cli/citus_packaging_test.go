package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestContainersRunCommandsThatExist: what the compose files and the image have
// a container run is a command line of this program, and what they put into its
// environment is read by it.
func TestContainersRunCommandsThatExist(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`(?m)^ +command: (.+)$`)
	variable := regexp.MustCompile(`\bPG_AUTOCTL_[A-Z_]+\b`)
	dir := filepath.Join("..", "..", "packaging", "citus")
	services := map[string]int{"compose.yaml": 3, "compose-named.yaml": 9}
	for name, want := range services {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		found := command.FindAllStringSubmatch(string(text), -1)
		require.Len(t, found, want, name)
		for _, m := range found {
			words := strings.Fields(m[1])
			cmd, rest, err := treeOf(nameDrover).Find(words)
			require.NoError(t, err, m[1])
			require.Equal(t, strings.Join(words[:2], " "), strings.TrimPrefix(cmd.CommandPath(), nameDrover+" "), m[1])
			require.NoError(t, cmd.ParseFlags(rest), m[1])
			require.Empty(t, cmd.Flags().Args(), m[1])
			require.True(t, on(cmd, "run"), "%s: the container ends when its command does", m[1])
		}
		for _, v := range variable.FindAllString(string(text), -1) {
			require.Contains(t, environmentPage, "`"+v+"`", name)
		}
	}
	image, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	require.NoError(t, err)
	require.Contains(t, string(image), `ENTRYPOINT ["pgdrover"]`)
	cmd, _, err := treeOf(nameDrover).Find([]string{"status"})
	require.NoError(t, err)
	require.Contains(t, string(image), `CMD ["pgdrover", "`+cmd.Name()+`"]`)
}

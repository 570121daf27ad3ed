package postgres

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// SocketDirectories returns where a server of this installation puts its
// sockets when its configuration says nothing: a list separated by commas.
func (t Tools) SocketDirectories(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, t.Path("postgres"), "--describe-config").Output() //nolint:gosec // the configured program
	if err != nil {
		return "", fmt.Errorf("run %s --describe-config: %w", t.Path("postgres"), err)
	}
	for line := range strings.Lines(string(out)) {
		// Name, context, group, type and default, with tabs between.
		fields := strings.Split(line, "\t")
		if fields[0] == "unix_socket_directories" && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", fmt.Errorf("run %s --describe-config: no unix_socket_directories in it", t.Path("postgres"))
}

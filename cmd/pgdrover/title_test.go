package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTitleHoldsNoPassword(t *testing.T) {
	// Not parallel: it changes the arguments of the process.
	original := os.Args
	defer func() { os.Args = original }()
	os.Args = nil
	for _, arg := range []string{
		"pg_autoctl", "create", "--monitor", "postgres://autoctl_node:s3cr:et@host:5432/pg_auto_failover?sslmode=prefer",
		"--dsn", `host=a password='it\'s 1' user=b`, "--dsn=host=a password=plain port=1", "postgres://u@h/d?password=inquery&x=1",
		"--replication-password", "copy",
	} {
		// Constants may be in memory that nobody writes to.
		os.Args = append(os.Args, strings.Clone(arg))
	}
	args := arguments()
	hideConnInfo(args)
	hide("copy")
	hide("")
	require.Equal(t, "--replication-password", args[8])
	require.Equal(t, "copy", args[9], "the copies stay as they are")
	title := strings.Join(os.Args, " ")
	for _, secret := range []string{"s3cr", "et@", "s 1'", "plain", "inquery", "copy"} {
		require.NotContains(t, title, secret)
	}
	require.Contains(t, title, "postgres://autoctl_node:*******@host:5432/")
	require.Contains(t, title, "--replication-password ****")
}

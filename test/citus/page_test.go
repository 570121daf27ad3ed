package citus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

var pageAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)

// requirePage looks at the formation as its operators do: on the page, by the
// dashboard's picture, by the commands, each of which tells groups apart.
func (f *formation) requirePage(t *testing.T) {
	t.Helper()
	coordinator, worker := f.primary(t, 0, nil), f.primary(t, 1, nil)
	page := pgtest.Start(t, pgtest.Command{
		Name: "page", Path: group.Program(t), Args: []string{"web", "--monitor", f.MonitorURI(), "--listen", "127.0.0.1:0"},
	})
	var address string
	pgtest.Eventually(t, group.Patience, func() error {
		if address = pageAddress.FindString(page.Log()); address == "" {
			return errors.New("it does not say where the page is")
		}
		return nil
	})
	var text string
	pgtest.Eventually(t, group.Patience, func() error {
		var err error
		text, err = get(address)
		if err == nil && !regexp.MustCompile(`(?s)Group 0: coordinator.*`+coordinator.Name+`.*Group 1: worker.*`+worker.Name).MatchString(text) {
			err = fmt.Errorf("the page does not show the groups: %s", text)
		}
		return err
	})
	var state struct {
		Kind   string
		Groups []struct {
			ID int `json:"group_id"`
		}
	}
	text, err := get(address + "state")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &state))
	require.Equal(t, "citus", state.Kind)
	require.Len(t, state.Groups, f.workers+1)
	require.NoError(t, page.Signal(syscall.SIGTERM))
	require.Zero(t, page.Wait(t, group.Patience), "asked to end it ends well")

	for _, args := range [][]string{{"show", "state"}, {"watch"}} {
		out := f.Must(t, append(args, "--pgdata", f.Monitor.Dir)...).Stdout
		require.Regexp(t, coordinator.Name+` .* 0/\d+ `, out)
		require.Regexp(t, worker.Name+` .* 1/\d+ `, out)
	}
	uri := f.Must(t, "show", "uri", "--pgdata", f.Monitor.Dir, "--formation", "default").Stdout
	for _, m := range f.members(0) {
		require.Contains(t, uri, fmt.Sprintf("localhost:%d", m.Port))
	}
	require.Contains(t, uri, "/citus?target_session_attrs=read-write")
}

func get(address string) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, address, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

package pgtest

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// DatabaseWith makes an empty database for this test, like Database, on a
// server that all tests share which ask for the same settings.
func DatabaseWith(t testing.TB, settings map[string]string) string {
	t.Helper()
	bin := Bin(t)
	key := []string{bin}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		key = append(key, name+"="+settings[name])
	}
	s, err := shared.serverWith(strings.Join(key, "\x00"), ServerConfig{Name: "shared", Bin: bin, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	name := shared.nextDatabase()
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	t.Cleanup(func() { s.Exec(t, "postgres", "DROP DATABASE "+name+" WITH (FORCE)") })
	return s.DSN(name)
}

func (c *commons) serverWith(key string, cfg ServerConfig) (*Server, error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	if s := c.servers[key]; s != nil {
		return s, nil
	}
	var s *Server
	if err := c.holder.do(func() { s = NewServer(&c.holder, cfg) }); err != nil {
		return nil, err
	}
	c.servers[key] = s
	return s, nil
}

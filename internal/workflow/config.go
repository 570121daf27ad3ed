package workflow

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Config is the file that names the nodes of a cluster: spockctrl.json.
type Config struct {
	// Cluster is the name of the cluster; it may be empty.
	Cluster string
	// Version is the version of the file's format, as written.
	Version string
	// Verbosity is 0 for errors, 1 for warnings, 2 for information, 3 for
	// statements; -1 when the file does not say.
	Verbosity int
	// LogFile is where messages go instead of standard error; it may be empty.
	LogFile string
	Nodes   []Node
	// Warnings are what is odd and does no harm.
	Warnings []string
}

// Node is a database as the machine that runs the tool reaches it. Servers may
// reach each other at other addresses, so that one is never made from the other.
type Node struct {
	Name     string
	ConnInfo pg.ConnInfo
}

// Node finds a node by its exact name.
func (c *Config) Node(name string) (Node, bool) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Names are the names of all nodes, in the order of the file.
func (c *Config) Names() []string {
	names := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		names[i] = n.Name
	}
	return names
}

// ParseConfig reads a configuration file.
func ParseConfig(text []byte) (*Config, error) {
	c := &complaints{source: source{trimMark(text)}}
	root, err := parseJSON(c.source)
	if err != nil {
		return nil, err
	}
	cfg := &Config{Verbosity: -1}
	if root.kind != kindObject {
		c.errorf(root, "the configuration must be an object, not %s", root.kind)
		return nil, c.errors
	}
	c.known(root, "global", "spock-nodes")
	if global, ok := c.objectMember(root, "global"); ok {
		c.global(cfg, global)
	}
	nodes, ok := root.member("spock-nodes")
	switch {
	case !ok:
		c.errorf(root, `"spock-nodes" is missing: the list of the cluster's nodes`)
	case nodes.kind != kindArray:
		c.errorf(nodes, `"spock-nodes" must be an array, not %s`, nodes.kind)
	}
	for _, v := range nodes.items {
		c.node(cfg, v)
	}
	if nodes.kind == kindArray && len(nodes.items) == 0 {
		c.errorf(nodes, `"spock-nodes" names no node`)
	}
	cfg.Warnings = c.warnings
	return cfg, c.errors.orNil()
}

// trimMark drops the byte order mark that some editors write.
func trimMark(text []byte) []byte { return []byte(strings.TrimPrefix(string(text), "\ufeff")) }

func (c *complaints) objectMember(v value, key string) (value, bool) {
	m, ok := v.member(key)
	if ok && m.kind != kindObject {
		c.errorf(m, "%q must be an object, not %s", key, m.kind)
		return m, false
	}
	return m, ok
}

func (c *complaints) global(cfg *Config, v value) {
	c.known(v, "spock", "log")
	if s, ok := c.objectMember(v, "spock"); ok {
		c.known(s, "cluster_name", "version")
		cfg.Cluster, _ = c.textMember(s, "cluster_name")
		if version, ok := s.member("version"); ok {
			cfg.Version = version.text
		}
	}
	l, ok := c.objectMember(v, "log")
	if !ok {
		return
	}
	c.known(l, "log_level", "log_destination", "log_file")
	if level, ok := l.member("log_level"); ok {
		cfg.Verbosity, ok = logLevel(level.text)
		if !ok {
			c.errorf(level, `"log_level" must be a number from 0 to 3, or ERROR, WARNING, INFO or DEBUG`)
		}
	}
	destination, at := c.textMember(l, "log_destination")
	file, fileAt := c.textMember(l, "log_file")
	switch strings.ToLower(destination) {
	case "", "console":
	case "file":
		if file == "" {
			c.errorf(fileAt, `"log_file" is missing, although "log_destination" is "file"`)
		}
		cfg.LogFile = file
	default:
		c.errorf(at, `"log_destination" must be "console" or "file", not %q`, destination)
	}
}

func logLevel(text string) (int, bool) {
	switch strings.ToUpper(text) {
	case "0", "ERROR":
		return 0, true
	case "1", "WARN", "WARNING":
		return 1, true
	case "2", "INFO":
		return 2, true
	case "3", "DEBUG":
		return 3, true
	}
	return -1, false
}

func (c *complaints) node(cfg *Config, v value) {
	if v.kind != kindObject {
		c.errorf(v, "a node must be an object, not %s", v.kind)
		return
	}
	c.known(v, "node_name", "postgres")
	name, at := c.textMember(v, "node_name")
	if name == "" {
		c.errorf(at, `"node_name" is missing`)
	} else if _, twice := cfg.Node(name); twice {
		c.errorf(at, "node %q is named twice", name)
	}
	server, ok := c.objectMember(v, "postgres")
	if !ok {
		if _, given := v.member("postgres"); !given {
			c.errorf(v, `"postgres" is missing: how to reach node %q`, name)
		}
		return
	}
	c.known(server, "postgres_ip", "postgres_port", "postgres_user", "postgres_password", "postgres_db", "postgres_dsn")
	info, ok := c.server(server)
	if ok && name != "" {
		cfg.Nodes = append(cfg.Nodes, Node{Name: name, ConnInfo: info})
	}
}

func (c *complaints) server(v value) (pg.ConnInfo, bool) {
	before := len(c.errors)
	if dsn, at := c.textMember(v, "postgres_dsn"); dsn != "" {
		info, err := pg.ParseConnInfo(dsn)
		if err != nil {
			c.errorf(at, `"postgres_dsn": %v`, err)
		}
		return info, err == nil
	}
	host, at := c.textMember(v, "postgres_ip")
	if host == "" {
		c.errorf(at, `"postgres_ip" is missing: the name or the address of the server`)
	}
	port := "5432"
	if p, ok := v.member("postgres_port"); ok {
		n, err := strconv.Atoi(p.text)
		if err != nil || n < 1 || n > 65535 {
			c.errorf(p, `"postgres_port" must be a number from 1 to 65535`)
		}
		port = strconv.Itoa(n)
	}
	user, _ := c.textMember(v, "postgres_user")
	password, _ := c.textMember(v, "postgres_password")
	database, _ := c.textMember(v, "postgres_db")
	return pg.NewConnInfo("host", host, "port", port, "user", user, "password", password, "dbname", database),
		len(c.errors) == before
}

// unknownNode words the complaint about a name that the configuration lacks.
func (c *Config) unknownNode(name string) string {
	if len(c.Nodes) == 0 {
		return fmt.Sprintf("unknown node %q", name)
	}
	return fmt.Sprintf("node %q is not in the configuration, which has %s", name, strings.Join(c.Names(), ", "))
}

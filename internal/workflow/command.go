package workflow

import (
	"slices"
	"strings"
)

// Param is one parameter of a command: an option in files and on command lines,
// and mostly an argument of the function behind it.
type Param struct {
	// Name is the option's name, with underscores.
	Name    string
	Aliases []string
	Kind    Kind
	// SQL is the name of the function's argument; empty when it is not handed over.
	SQL string
	// Type is the argument's type when it is another than the kind's.
	Type     string
	Required bool
	// Default is used when the option is absent; empty leaves it to the server.
	Default string
	Usage   string
}

// byPosition is the SQL of a parameter whose argument has no name.
const byPosition = "$"

// Command is something that can be asked of a node, in a file or on a command line.
type Command struct {
	// Name is the command of workflow files, in upper case; empty when these do not have it.
	Name string
	// Words are the command's words on the command line; empty when it has none.
	Words string
	Short string
	// Places are the parameters that may be given by position.
	Places []string
	Params []Param
	// Function is what is called, with its schema.
	Function string
	// Columns are selected from the function's rows; without them its one value is.
	Columns string
	// Sets names the variables that the command sets for its node.
	Sets []string
}

// Param finds a parameter by its name or by an alias; hyphens count as underscores.
func (c *Command) Param(name string) (Param, bool) {
	name = strings.ReplaceAll(name, "-", "_")
	for _, p := range c.Params {
		if p.Name == name || slices.Contains(p.Aliases, name) {
			return p, true
		}
	}
	return Param{}, false
}

// command finds a command of workflow files; case and the width of blanks do not count.
func command(name string) *Command {
	name = strings.ToUpper(strings.Join(strings.Fields(name), " "))
	for _, c := range Commands() {
		if c.Name != "" && c.Name == name {
			return c
		}
	}
	return nil
}

// commandNames are the commands that a step of type spock may have.
func commandNames() []string {
	var names []string
	for _, c := range Commands() {
		if c.Name != "" && c.Name != SQLCommand {
			names = append(names, c.Name)
		}
	}
	return names
}

// The commands that executors have to know by name, because more belongs to
// them than a call.
const (
	CreateNode          = "CREATE NODE"
	DropNode            = "DROP NODE"
	CreateSubscription  = "CREATE SUBSCRIPTION"
	DropSubscription    = "DROP SUBSCRIPTION"
	EnableSubscription  = "ENABLE SUBSCRIPTION"
	DisableSubscription = "DISABLE SUBSCRIPTION"
	CreateRepset        = "CREATE REPSET"
	DropRepset          = "DROP REPSET"
	CreateSlot          = "CREATE SLOT"
	DropSlot            = "DROP SLOT"
	EnableSlot          = "ENABLE SLOT"
	DisableSlot         = "DISABLE SLOT"
	SQLCommand          = "SQL"
)

func text(name, sql, usage string) Param {
	return Param{Name: name, Kind: Text, SQL: sql, Usage: usage}
}

func name(name, sql, usage string) Param {
	return Param{Name: name, Kind: Text, SQL: sql, Type: "name", Required: true, Usage: usage}
}

func relation(name, sql, usage string) Param {
	return Param{Name: name, Kind: Text, SQL: sql, Type: "regclass", Required: true, Usage: usage}
}

func boolean(name, usage string) Param {
	return Param{Name: name, Kind: Bool, SQL: name, Usage: usage}
}

func ifExists() Param {
	return Param{Name: "ifexists", Aliases: []string{"if_exists"}, Kind: Bool, SQL: "ifexists", Usage: "succeed when there is none"}
}

func (p Param) required() Param { p.Required = true; return p }

func (p Param) or(value string) Param { p.Default = value; return p }

func (p Param) as(aliases ...string) Param { p.Aliases = aliases; return p }

func (p Param) sql(argument string) Param { p.SQL = argument; return p }

// Commands are all commands, in the order of the manual.
func Commands() []*Command {
	return slices.Concat(nodeCommands(), subscriptionCommands(), subscriptionTableCommands(), repsetCommands(), repsetMemberCommands(), slotCommands(),
		[]*Command{{
			Name: SQLCommand, Short: "Run SQL on a node",
			Params: []Param{{Name: "sql", Kind: Word, Required: true, Usage: "the statements"}, {Name: "ignore_errors", Kind: Bool, Usage: "succeed whatever the server says"}},
		}})
}

func nodeCommands() []*Command {
	nodeName := name("node_name", "node_name", "name of the node")
	return []*Command{
		{
			Name: CreateNode, Words: "node create", Short: "Make a database a node of the cluster", Function: "spock.node_create",
			Places: []string{"node_name"}, Sets: []string{"node_create"},
			Params: []Param{
				nodeName, text("dsn", "dsn", "how the other servers reach this node").required(),
				text("location", "location", "where it stands"), text("country", "country", "country where it stands"),
				{Name: "info", Kind: Object, SQL: "info", Usage: "further facts, a JSON object"},
			},
		},
		{
			Name: DropNode, Words: "node drop", Short: "Make a database no node any more", Function: "spock.node_drop",
			Places: []string{"node_name"}, Params: []Param{nodeName, ifExists()},
		},
		{
			Words: "node add-interface", Short: "Add a further way to reach a node", Function: "spock.node_add_interface",
			Places: []string{"node_name", "interface_name"},
			Params: []Param{nodeName, name("interface_name", "interface_name", "name of the interface"), text("dsn", "dsn", "its connection string").required()},
		},
		{
			Words: "node drop-interface", Short: "Drop an interface of a node", Function: "spock.node_drop_interface",
			Places: []string{"node_name", "interface_name"},
			Params: []Param{nodeName, name("interface_name", "interface_name", "name of the interface")},
		},
	}
}

func subscriptionCommands() []*Command {
	subName := name("sub_name", "subscription_name", "name of the subscription")
	immediate := boolean("immediate", "do not wait for the end of a transaction")
	return []*Command{
		{
			Name: CreateSubscription, Words: "sub create", Short: "Subscribe a node to another", Function: "spock.sub_create",
			Places: []string{"sub_name", "provider_dsn"}, Sets: []string{"sub_create"},
			Params: []Param{
				subName, text("provider_dsn", "provider_dsn", "how the subscriber's server reaches the provider").required(),
				Param{Name: "replication_sets", Kind: List, SQL: "replication_sets", Usage: "replication sets to subscribe to"}.as("repsets"),
				boolean("synchronize_structure", "copy the definitions of the provider's tables"),
				boolean("synchronize_data", "copy the rows of the provider's tables"),
				{Name: "forward_origins", Kind: List, SQL: "forward_origins", Usage: "origins to forward: none, or all"},
				{Name: "apply_delay", Kind: Interval, SQL: "apply_delay", Usage: "stay behind the provider for that long"},
				boolean("force_text_transfer", "send values as text"),
				boolean("enabled", "begin at once").as("enable"),
				{Name: "skip_schema", Kind: List, SQL: "skip_schema", Usage: "schemas that are not copied"},
			},
		},
		{
			Name: DropSubscription, Words: "sub drop", Short: "Drop a subscription, its slot and its origin", Function: "spock.sub_drop",
			Places: []string{"sub_name"}, Params: []Param{subName, ifExists()},
		},
		{
			Name: EnableSubscription, Words: "sub enable", Short: "Enable a subscription", Function: "spock.sub_enable",
			Places: []string{"sub_name"}, Params: []Param{subName, immediate.or("true")},
		},
		{
			Name: DisableSubscription, Words: "sub disable", Short: "Disable a subscription", Function: "spock.sub_disable",
			Places: []string{"sub_name"}, Params: []Param{subName, immediate},
		},
		{
			Name: "SHOW SUBSCRIPTION STATUS", Words: "sub show-status", Short: "Show the state of subscriptions",
			Function: "spock.sub_show_status", Columns: statusColumns, Places: []string{"sub_name"},
			Params: []Param{{Name: "sub_name", Kind: Text, SQL: "subscription_name", Type: "name", Usage: "name of the subscription"}},
			Sets:   strings.Split(statusColumns, ", "),
		},
	}
}

const (
	statusColumns = "subscription_name, status, provider_node, provider_dsn, slot_name, replication_sets, forward_origins"
	tableColumns  = "nspname, relname, status"
)

func subscriptionTableCommands() []*Command {
	subName := name("sub_name", "subscription_name", "name of the subscription")
	table := relation("relation", "relation", "the table, with its schema")
	set := name("replication_set", "replication_set", "name of the replication set")
	return []*Command{
		{
			Name: "SHOW SUBSCRIPTION TABLE", Words: "sub show-table", Short: "Show how far the copy of a table is",
			Function: "spock.sub_show_table", Columns: tableColumns, Places: []string{"sub_name", "relation"},
			Params: []Param{subName, table}, Sets: strings.Split(tableColumns, ", "),
		},
		{
			Words: "sub resync-table", Short: "Copy a table again", Function: "spock.sub_resync_table",
			Places: []string{"sub_name", "relation"},
			Params: []Param{subName, table, boolean("truncate", "empty it first").or("true")},
		},
		{
			Words: "sub add-repset", Short: "Subscribe to a further replication set", Function: "spock.sub_add_repset",
			Places: []string{"sub_name", "replication_set"}, Params: []Param{subName, set},
		},
		{
			Words: "sub remove-repset", Short: "Leave a replication set", Function: "spock.sub_remove_repset",
			Places: []string{"sub_name", "replication_set"}, Params: []Param{subName, set},
		},
	}
}

func repsetCommands() []*Command {
	setName := name("set_name", "set_name", "name of the replication set").as("replication_set")
	actions := func(fallback string) []Param {
		return []Param{
			setName, boolean("replicate_insert", "replicate INSERT").or(fallback), boolean("replicate_update", "replicate UPDATE").or(fallback),
			boolean("replicate_delete", "replicate DELETE").or(fallback), boolean("replicate_truncate", "replicate TRUNCATE").or(fallback),
		}
	}
	return []*Command{
		{
			Name: CreateRepset, Words: "repset create", Short: "Create a replication set", Function: "spock.repset_create",
			Places: []string{"set_name"}, Params: actions("true"),
		},
		{
			Words: "repset alter", Short: "Change what a replication set replicates", Function: "spock.repset_alter",
			Places: []string{"set_name"}, Params: actions(""),
		},
		{
			Name: DropRepset, Words: "repset drop", Short: "Drop a replication set", Function: "spock.repset_drop",
			Places: []string{"set_name"}, Params: []Param{setName, ifExists()},
		},
	}
}

func repsetMemberCommands() []*Command {
	set := name("set_name", "set_name", "name of the replication set").as("replication_set")
	copied := boolean("synchronize_data", "have the subscribers copy the rows")
	schemas := Param{Name: "schema_names", Kind: List, SQL: "schema_names", Required: true, Usage: "the schemas"}.as("schema")
	table := relation("table", "relation", "the table, with its schema").as("relation")
	sequence := relation("sequence", "relation", "the sequence, with its schema").as("relation", "seq")
	filter := text("row_filter", "row_filter", "condition that rows must meet")
	parent := relation("parent_table", "parent", "the partitioned table")
	partition := relation("partition", "partition", "the partition; all of them without it")
	partition.Required = false
	return []*Command{
		{
			Words: "repset add-table", Short: "Add a table to a replication set", Function: "spock.repset_add_table",
			Places: []string{"set_name", "table"},
			Params: []Param{
				set, table, copied,
				{Name: "columns", Kind: List, SQL: "columns", Usage: "columns to replicate; all without it"},
				filter,
				boolean("include_partitions", "its partitions too"),
			},
		},
		{
			Words: "repset remove-table", Short: "Take a table out of a replication set", Function: "spock.repset_remove_table",
			Places: []string{"set_name", "table"}, Params: []Param{set, table, boolean("include_partitions", "its partitions too")},
		},
		{
			Words: "repset add-all-tables", Short: "Add all tables of schemas to a replication set", Function: "spock.repset_add_all_tables",
			Places: []string{"set_name", "schema_names"}, Params: []Param{set, schemas, copied},
		},
		{
			Words: "repset add-seq", Short: "Add a sequence to a replication set", Function: "spock.repset_add_seq",
			Places: []string{"set_name", "sequence"}, Params: []Param{set, sequence, copied},
		},
		{
			Words: "repset remove-seq", Short: "Take a sequence out of a replication set", Function: "spock.repset_remove_seq",
			Places: []string{"set_name", "sequence"}, Params: []Param{set, sequence},
		},
		{
			Words: "repset add-all-sequences", Short: "Add all sequences of schemas to a replication set", Function: "spock.repset_add_all_seqs",
			Places: []string{"set_name", "schema_names"}, Params: []Param{set, schemas, copied},
		},
		{
			Words: "repset add-partition", Short: "Add partitions to the sets of their table", Function: "spock.repset_add_partition",
			Places: []string{"parent_table", "partition"}, Params: []Param{parent, partition, filter},
		},
		{
			Words: "repset remove-partition", Short: "Take partitions out of the sets of their table", Function: "spock.repset_remove_partition",
			Places: []string{"parent_table", "partition"}, Params: []Param{parent, partition},
		},
	}
}

func slotCommands() []*Command {
	slot := name("slot", "slot_name", "name of the slot")
	return []*Command{
		{
			Name: CreateSlot, Words: "slot create", Short: "Create a logical replication slot",
			Function: "pg_catalog.pg_create_logical_replication_slot", Columns: "slot_name, lsn", Places: []string{"slot"},
			Params: []Param{
				slot, Param{Name: "plugin", Kind: Text, SQL: "plugin", Type: "name", Usage: "output plugin; spock_output is pgoutput where there is no such library"}.or("spock_output"),
				{Name: "temporary", Kind: Bool, SQL: "temporary", Usage: "drop it when the session ends"},
			},
			Sets: []string{"slot_name", "lsn"},
		},
		{
			Name: DropSlot, Words: "slot drop", Short: "Drop a replication slot", Function: "pg_catalog.pg_drop_replication_slot",
			Places: []string{"slot"}, Params: []Param{slot.sql(byPosition), ifExists().sql("")},
		},
		{Name: EnableSlot, Places: []string{"slot"}, Params: []Param{slot.sql("")}},
		{Name: DisableSlot, Places: []string{"slot"}, Params: []Param{slot.sql("")}},
	}
}

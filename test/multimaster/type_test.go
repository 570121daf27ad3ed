package multimaster

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// kind is a type, with two values.
type kind [3]string

// plain tells whether its binary form is the same on all servers.
func (k kind) plain() bool {
	return !strings.HasPrefix(k[0], "kind.") && !strings.HasPrefix(k[0], "reg") && k[0] != "aclitem"
}

// kinds are all types that a column is likely to have, with two values of each; awkward ones where there are any.
var kinds = []kind{
	{"smallint", "-32768", "32767"},
	{"int", "-2147483648", "2147483647"},
	{"bigint", "-9223372036854775808", "9223372036854775807"},
	{"real", "NaN", "1.1754944e-38"},
	{"double precision", "-Infinity", "0.1"},
	{"numeric", "123456789012345678901234567890.000000001", "NaN"},
	{"numeric(10, 3)", "-0.001", "9999999.999"},
	{"numeric", "Infinity", "0.00"},
	{"money", "-12.34", "0"},
	{"boolean", "true", "false"},
	{"char(5)", "ab", ""},
	{"varchar(10)", "", "ten letter"},
	{"text", `tab	and \ and "`, "größer\nals eine Zeile"},
	{"name", "a name", ""},
	{`"char"`, "c", ""},
	{"bytea", `\x00ff5c27`, ""},
	{"date", "infinity", "4713-01-01 BC"},
	{"time", "24:00:00", "00:00:00.000001"},
	{"timetz", "12:00:00.123456-07", "00:00:00+15:59"},
	{"timestamp(3)", "-infinity", "2026-11-21 12:34:56.789"},
	{"timestamptz", "294276-12-31 23:59:59.999999+00", "2026-03-29 01:30:00.000001+00"},
	{"interval", "-1 mons +3 days -04:05:06.7", "178000000 years"},
	{"uuid", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
	{"inet", "10.1.2.3/8", "2001:db8::1"},
	{"cidr", "10.0.0.0/8", "::/0"},
	{"macaddr", "08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"},
	{"macaddr8", "08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"},
	{"json", `{"b" :  1, "a":[null], "b": 2}`, `"text"`},
	{"jsonb", `{"b": 1.10, "a": [null, "\u00fc"]}`, "null"},
	{"jsonpath", "$.a[*] ? (@ > 1)", "strict $"},
	{"xml", "<a b=\"c\">ü</a>", "<a/>"},
	{"bit(5)", "10101", "00000"},
	{"bit varying(12)", "1", ""},
	{"point", "(1.5,-2)", "(0,0)"},
	{"line", "{1,-1,0}", "{0,1,2}"},
	{"lseg", "[(0,0),(1,1)]", "[(1,2),(3,4)]"},
	{"box", "(1,1),(0,0)", "(4,4),(2,2)"},
	{"path", "[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"},
	{"polygon", "((0,0),(1,1),(2,0))", "((0,0),(0,1))"},
	{"circle", "<(1,2),3>", "<(0,0),0>"},
	{"tsvector", "'a':1A 'cat':3,4", "'b'"},
	{"tsquery", "'a' & !'b':*", "'c'"},
	{"int4range", "empty", "(,5)"},
	{"numrange", "[1.10,2)", "(,)"},
	{"tstzrange", `["2026-01-01 00:00:00+00",infinity)`, "empty"},
	{"daterange", "[2026-01-01,2026-02-01)", "(,)"},
	{"int4multirange", "{[1,3),[5,8)}", "{}"},
	{"tsmultirange", `{["2026-01-01 00:00:00","2026-01-02 00:00:00")}`, "{(,)}"},
	{"oid", "4294967295", "0"},
	{"regtype", "integer", "text[]"},
	{"regclass", "pg_catalog.pg_class", "pg_catalog.pg_proc"},
	{"xid", "7", "4294967295"},
	{"xid8", "18446744073709551615", "0"},
	{"pg_lsn", "FFFFFFFF/FFFFFFFF", "0/0"},
	{"pg_snapshot", "10:20:10,14,15", "1:1:"},
	{"tid", "(4294967295,65535)", "(0,1)"},
	{"aclitem", "postgres=r/postgres", "=/postgres"}, // has no binary form everywhere
	{"int[]", "{{1,2},{3,NULL}}", "[0:1]={5,6}"},
	{"text[]", `{"a,b","\"","\\",NULL,"NULL",""}`, "{}"},
	{"numeric[]", "{NaN,1.50,NULL}", "{}"},
	{"bytea[]", `{"\\x00ff",NULL}`, "{}"},
	{"timestamptz[]", `{"2026-01-01 00:00:00+00",-infinity}`, "{}"},
	{"int4range[]", `{"[1,2)",empty}`, "{}"},
	{"kind.mood", "sad", "happy"},
	{"kind.mood[]", "{happy,NULL}", "{}"},
	{"kind.score", "0", "7"},
	{"kind.score[]", "{1,2}", "{NULL}"},
	{"kind.words", "{a,b}", "{}"},
	{"kind.spot", `(1,"a ""b"", c",sad)`, "(,,)"},
	{"kind.spot[]", `{"(1,a,sad)",NULL}`, "{}"},
	{"kind.pair", `("(1,a,sad)","{1,2}")`, `("(,,)",)`},
	{"kind.span", "[1.5,2.5)", "empty"},
	{"kind.place", "(2,b,happy)", "(3,,)"},
}

// everyKind makes the types that are users' own, a table with a column of each kind, and one that is found by awkward keys.
func everyKind() string {
	var b strings.Builder
	b.WriteString(`CREATE SCHEMA kind; CREATE TYPE kind.mood AS ENUM ('sad', 'fair', 'happy'); CREATE DOMAIN kind.score AS int CHECK (value >= 0);
		CREATE DOMAIN kind.words AS text[] CHECK (cardinality(value) < 5); CREATE TYPE kind.spot AS (x int, y text, m kind.mood);
		CREATE TYPE kind.pair AS (at kind.spot, n int[]); CREATE TYPE kind.span AS RANGE (subtype = float8);
		CREATE DOMAIN kind.place AS kind.spot CHECK ((value).x > 0);
		CREATE TABLE kind.every (id int PRIMARY KEY`)
	for i, k := range kinds {
		fmt.Fprintf(&b, ", c%d %s", i, k[0])
	}
	b.WriteString(`, twice numeric GENERATED ALWAYS AS (c5 * 2) STORED);
		CREATE TABLE kind.plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY`)
	for i, k := range kinds {
		if k.plain() {
			fmt.Fprintf(&b, ", c%d %s", i, k[0])
		}
	}
	b.WriteString(`);
		CREATE TABLE kind.found (a numeric, b timestamptz, c bytea, d kind.mood, e uuid, f text COLLATE "C", g float8, h kind.score, v int,
			PRIMARY KEY (a, b, c, d, e, f, g, h));
		SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{kind.every,kind.plain,kind.found}'::text[]) t`)
	return b.String()
}

// values are the columns' values of one kind each: 1 or 2 for the two that there are, 0 for NULL.
func values(which int) string {
	list := make([]string, len(kinds))
	for i, k := range kinds {
		list[i] = "NULL"
		if which > 0 {
			list[i] = "'" + strings.ReplaceAll(k[which], "'", "''") + "'"
		}
	}
	return strings.Join(list, ", ")
}

func columns() string {
	list := make([]string, len(kinds))
	for i := range kinds {
		list[i] = fmt.Sprintf("c%d", i)
	}
	return strings.Join(list, ", ")
}

func assignments(which int) string { return fmt.Sprintf("(%s) = (%s)", columns(), values(which)) }

// plainly makes a session show values in one way, whatever its database says.
const plainly = `SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex; SET timezone = UTC;
	SET search_path = public; SET xmlbinary = base64; `

// hostile are settings of a database that would spoil what is sent or applied, were they not overridden.
const hostile = `ALTER DATABASE app SET datestyle = 'SQL, DMY'; ALTER DATABASE app SET intervalstyle = sql_standard;
	ALTER DATABASE app SET extra_float_digits = -15; ALTER DATABASE app SET bytea_output = escape; ALTER DATABASE app SET timezone = 'Asia/Kolkata';
	ALTER DATABASE app SET default_transaction_isolation = serializable; ALTER DATABASE app SET default_transaction_deferrable = on;
	ALTER DATABASE app SET statement_timeout = 1; ALTER DATABASE app SET lock_timeout = 1; ALTER DATABASE app SET idle_in_transaction_session_timeout = 1;
	ALTER DATABASE app SET default_transaction_read_only = on; ALTER DATABASE app SET row_security = off; ALTER DATABASE app SET xmloption = document;
	ALTER DATABASE app SET search_path = nowhere; ALTER DATABASE app SET session_replication_role = replica; ALTER DATABASE app SET synchronous_commit = on`

// Values of every type arrive as they were, from and at databases whose settings would have them otherwise.
func everyTypeUnderHostileSettings(t *testing.T, nodes []*node) {
	t.Helper()
	a, b := nodes[0], nodes[1]
	for _, n := range nodes {
		n.exec(t, everyKind())
	}
	for _, n := range nodes {
		n.stop(t, syscall.SIGTERM)
		n.exec(t, hostile)
		n.start(t)
	}
	write := func(n *node, sql string) { n.exec(t, plainly+sql) }
	write(a, "INSERT INTO kind.every VALUES (1, "+values(1)+"), (2, "+values(2)+"), (3, "+values(0)+")")
	write(a, `INSERT INTO kind.found VALUES (1.50, 'infinity', '\x00', 'sad', gen_random_uuid(), 'ü', 'NaN', 1, 1), ('NaN', now(), '', 'happy', gen_random_uuid(), '', -0.0, 2, 1)`)
	same := func() {
		t.Helper()
		settle(t, nodes...)
		equal(t, plainly+"SELECT * FROM kind.every ORDER BY id", nodes...)
		equal(t, plainly+"SELECT * FROM kind.found ORDER BY a", nodes...)
		noExceptions(t, nodes...)
	}
	same()
	write(b, "UPDATE kind.every SET "+assignments(2)+" WHERE id = 1")
	write(b, "UPDATE kind.every SET "+assignments(0)+" WHERE id = 2")
	write(b, "UPDATE kind.every SET "+assignments(1)+" WHERE id = 3")
	write(b, "UPDATE kind.found SET v = 2; UPDATE kind.found SET g = 0.1 WHERE a = 1.5")
	same()
	write(a, "DELETE FROM kind.found WHERE d = 'sad'; UPDATE kind.every SET id = 4 WHERE id = 1")
	same()
	require.Equal(t, "1|3", b.text(t, plainly+"SELECT (SELECT count(*) FROM kind.found), count(*) FROM kind.every"))
	// The same by copies: into an empty table in binary form where there is one, and beside rows that are there.
	var own []string
	for i, k := range kinds {
		if k.plain() {
			own = append(own, fmt.Sprintf("c%d", i))
		}
	}
	list := strings.Join(own, ", ")
	write(a, "INSERT INTO kind.plain ("+list+") SELECT "+list+" FROM kind.every")
	same()
	for _, truncate := range []string{"true", "false"} {
		// Nothing tells of rows that get lost like this.
		write(b, "BEGIN; SELECT spock.repair_mode(true); SET LOCAL session_replication_role = replica; DELETE FROM kind.every WHERE id < 4; DELETE FROM kind.plain WHERE id > 1; COMMIT")
		for _, table := range []string{"kind.every", "kind.plain", "kind.found"} {
			write(b, fmt.Sprintf("SELECT spock.sub_resync_table('sub_n1_n2', '%s', %s)", table, truncate))
		}
		for _, table := range []string{"kind.every", "kind.plain", "kind.found"} {
			b.synced(t, "sub_n1_n2", table, a)
		}
		same()
		equal(t, plainly+"SELECT * FROM kind.plain ORDER BY id", nodes...)
	}
	for _, n := range nodes {
		n.stop(t, syscall.SIGTERM)
		n.exec(t, "ALTER DATABASE app RESET ALL")
		n.disconnect()
		n.start(t)
	}
}

package apply

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// A column may have one type on the provider and another here: by design, or for
// the moment in which a change of its type is on its way. Values then come as
// what they were there, and the server makes of them what the column is here.

// foreign is a type of the provider's, as this database knows it.
type foreign struct {
	At      int    `json:"at"` // in sent
	Type    uint32 `json:"type"`
	Element uint32 `json:"element"`
	Name    string `json:"name"`
	Enum    bool   `json:"enum"`
	Cast    bool   `json:"cast"` // there is one to the column's type
	Back    bool   `json:"back"` // and one back
}

// foreignQuery looks for types by their names, or by numbers that are the same on
// all servers, and for ways to the types of columns. A provider tells a domain by
// the name of the type that it is made of. Columns of the very type are left out,
// and those of one of the same sort: types are renamed, and others get their names.
const foreignQuery = `
SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('at', x.at, 'type', coalesce(y.oid::bigint, 0), 'element', coalesce(y.typelem::bigint, 0),
         'name', coalesce(pg_catalog.format_type(y.oid, -1), ''), 'enum', coalesce(y.typtype = 'e', false),
         'cast', EXISTS (SELECT FROM pg_catalog.pg_cast m WHERE m.castsource = y.oid AND m.casttarget = z.oid AND m.castcontext <> 'e'),
         'back', EXISTS (SELECT FROM pg_catalog.pg_cast m WHERE m.castsource = z.oid AND m.casttarget = y.oid))), '[]')::text
  FROM pg_catalog.json_to_recordset($1::pg_catalog.json) AS x (at int, type oid, namespace text, name text, local oid)
  LEFT JOIN pg_catalog.pg_type y ON y.oid = CASE WHEN x.name IS NULL THEN x.type
       ELSE pg_catalog.to_regtype(pg_catalog.format('%I.%I', x.namespace, x.name))::oid END
 CROSS JOIN LATERAL (
       WITH RECURSIVE base AS (
           SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = x.local
            UNION ALL SELECT t.oid, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype)
       SELECT t.oid, t.typtype, t.typcategory FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE b.typbasetype = 0) z
 WHERE y.oid IS DISTINCT FROM z.oid AND NOT (z.oid >= 16384 AND coalesce(y.oid >= 16384 AND (y.typtype, y.typcategory) = (z.typtype, z.typcategory), true))`

// convert finds the columns whose values have to be made into another type. Text
// needs nothing: the column's own type reads it.
func (g *target) convert(ctx context.Context, s *session, types map[uint32]*pgoutput.Type) error {
	if !g.binary {
		return nil
	}
	type asked struct {
		At        int     `json:"at"`
		Type      uint32  `json:"type"`
		Namespace string  `json:"namespace"`
		Name      *string `json:"name"`
		Local     uint32  `json:"local"`
	}
	var all []asked
	for i := range g.sent {
		remote, local := &g.remote.Columns[g.sent[i].remote], g.Columns[g.sent[i].local].Type
		t := types[remote.Type]
		switch {
		case t != nil:
			a := asked{At: i, Namespace: t.Namespace, Name: &t.Name, Local: local}
			if a.Namespace == "" {
				a.Namespace = "pg_catalog"
			}
			all = append(all, a)
		case remote.Type < firstOwnOID && remote.Type != local:
			g.sent[i].typ, g.sent[i].element = remote.Type, 0
			all = append(all, asked{At: i, Type: remote.Type, Local: local})
		}
	}
	if len(all) == 0 {
		return nil
	}
	question, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("ask for types of %s: %w", g.plain, err)
	}
	r, err := s.query(ctx, foreignQuery, []uint32{textOID}, textValue(string(question)))
	if err != nil {
		return fmt.Errorf("look for types of %s: %w", g.plain, err)
	}
	var found []foreign
	if err := json.Unmarshal(r.rows[0][0].Data, &found); err != nil {
		return fmt.Errorf("read types of %s: %w", g.plain, err)
	}
	for _, f := range found {
		c := &g.sent[f.At]
		if f.Type == 0 {
			return &rereadError{text: true, cause: fmt.Errorf("column %q of %s comes in a type that is not here", g.Columns[c.local].Name, g.plain)} //nolint:err113 // for the log
		}
		name := g.Columns[c.local].TypeName
		c.typ, c.element, c.cast, c.back = f.Type, f.Element, "::"+name, "::"+f.Name
		if f.Enum { // its label
			c.typ, c.back = textOID, "::text"
			continue
		}
		if !f.Cast {
			c.cast = "::text" + c.cast
		}
		if !f.Back {
			c.back = "::text" + c.back
		}
	}
	return nil
}

-- Replication origins. Stamps hold an origin's number, and it is best that of the node that it stands for, as in Spock;
-- where that number is taken or we may not choose it, the table pgdrover_origin translates.

-- A number for an origin: the node's own for its first one, else one that no other node ever had. Rows outlive their
-- origins, and must not pass for another node's.
CREATE OR REPLACE FUNCTION pgdrover.free_origin(origin_node oid, worker_number integer)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT n.id::oid
      FROM (SELECT origin_node::int8, 0 WHERE worker_number = 0
             UNION ALL
            SELECT r.roident::int8, 1 FROM spock.pgdrover_origin r WHERE r.node_id = origin_node
             UNION ALL
            SELECT g, 2 FROM pg_catalog.generate_series(1::int8, 65534) g) AS n(id, preference)
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin o WHERE o.roident = n.id::oid)
       AND NOT EXISTS (SELECT FROM spock.pgdrover_origin r WHERE r.roident = n.id::oid AND r.node_id <> origin_node)
     ORDER BY n.preference, n.id LIMIT 1
$$;

CREATE OR REPLACE FUNCTION pgdrover.origin_create(origin_name text, origin_node oid, subscription oid = NULL, worker_number integer = 0)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    id pg_catalog.oid;
    superuser boolean := (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user);
BEGIN
    IF worker_number > 0 AND subscription <> 0 THEN
        -- A worker that has not heard yet that its subscription goes must not make what nobody would drop.
        PERFORM 1 FROM spock.subscription s WHERE s.sub_id = subscription FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('origin "%s": its subscription is gone', origin_name);
        END IF;
    END IF;
    IF superuser THEN
        LOCK TABLE pg_catalog.pg_replication_origin IN EXCLUSIVE MODE;
    END IF;
    SELECT o.roident INTO id FROM pg_catalog.pg_replication_origin o WHERE o.roname = origin_name;
    IF id IS NULL AND superuser THEN
        -- One of that name that was retired is the same author, and is called so again. One of another name stays as it is:
        -- in what was not read yet it bears that name.
        SELECT r.roident INTO id FROM spock.pgdrover_origin r
          JOIN pg_catalog.pg_replication_origin o ON o.roident = r.roident AND o.roname = 'pgdrover_retired_' || r.roident
         WHERE r.node_id = origin_node AND r.roname = origin_name AND r.retired_at IS NOT NULL ORDER BY r.roident LIMIT 1;
        IF id IS NOT NULL THEN
            UPDATE pg_catalog.pg_replication_origin o SET roname = origin_name WHERE o.roident = id;
            -- Its old position is none of the new subscription's.
            PERFORM pgdrover.origin_reset(origin_name);
        ELSE
            id := pgdrover.free_origin(origin_node, worker_number);
            INSERT INTO pg_catalog.pg_replication_origin (roident, roname) VALUES (id, origin_name);
        END IF;
    END IF;
    IF id IS NULL THEN
        id := pg_catalog.pg_replication_origin_create(origin_name);
    END IF;
    INSERT INTO spock.pgdrover_origin (roident, roname, node_id, sub_id, worker)
    VALUES (id, origin_name, origin_node, subscription, worker_number)
        ON CONFLICT (roident) DO UPDATE SET roname = excluded.roname, node_id = excluded.node_id,
               sub_id = excluded.sub_id, worker = excluded.worker, retired_at = NULL;
    RETURN id;
END
$$;

-- Back to nothing. An origin that was never used has no position, and none to reset.
CREATE OR REPLACE FUNCTION pgdrover.origin_reset(origin_name text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.pg_replication_origin_progress(origin_name, false) IS NOT NULL THEN
        PERFORM pg_catalog.pg_replication_origin_advance(origin_name, '0/0');
    END IF;
END
$$;

-- Ends an origin. Whoever receives what we apply is told the author by the origin's name, so it must still have one while
-- any slot of this server has WAL of it ahead: on 15 every subscriber, later those to whom we forward. They are told the name
-- that it had when we applied the transaction, and our table keeps that.
CREATE OR REPLACE FUNCTION pgdrover.origin_retire(origin_name text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id pg_catalog.oid := (SELECT o.roident FROM pg_catalog.pg_replication_origin o WHERE o.roname = origin_name);
    superuser boolean := (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user);
    known boolean;
BEGIN
    IF id IS NULL THEN
        DELETE FROM spock.pgdrover_origin r WHERE r.roname = origin_name AND r.retired_at IS NULL;
        RETURN;
    END IF;
    known := EXISTS (SELECT FROM spock.pgdrover_origin r WHERE r.roident = id);
    IF superuser AND known AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_type = 'logical') THEN
        UPDATE pg_catalog.pg_replication_origin o SET roname = 'pgdrover_retired_' || id WHERE o.roident = id;
        UPDATE spock.pgdrover_origin r
           SET sub_id = NULL, retired_at = pg_catalog.pg_current_wal_insert_lsn()
         WHERE r.roident = id;
        RETURN;
    END IF;
    PERFORM pg_catalog.pg_replication_origin_drop(origin_name);
    -- Rows that it stamped keep its number: the translation stays.
    UPDATE spock.pgdrover_origin r SET sub_id = NULL, retired_at = pg_catalog.pg_current_wal_insert_lsn()
     WHERE r.roident = id;
END
$$;

-- Drops the retired origins that every logical slot has left behind. Returns how many.
CREATE OR REPLACE FUNCTION pgdrover.drop_retired_origins()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    o pg_catalog.record;
    n integer := 0;
BEGIN
    FOR o IN SELECT c.roname FROM spock.pgdrover_origin r
               JOIN pg_catalog.pg_replication_origin c ON c.roident = r.roident AND c.roname = 'pgdrover_retired_' || r.roident
              WHERE r.retired_at IS NOT NULL
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
                                 WHERE s.slot_type = 'logical'
                                   AND (s.confirmed_flush_lsn IS NULL OR s.confirmed_flush_lsn < r.retired_at))
    LOOP
        PERFORM pg_catalog.pg_replication_origin_drop(o.roname);
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

-- The node that stands behind an origin in a stamp: 0 is this node, an unknown one stands for itself.
CREATE OR REPLACE FUNCTION pgdrover.origin_node(origin oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN origin = 0 THEN pgdrover.local_node_id()
                ELSE coalesce((SELECT r.node_id FROM spock.pgdrover_origin r WHERE r.roident = origin), origin) END
$$;

CREATE OR REPLACE FUNCTION spock.xact_commit_timestamp_origin(xid xid, OUT "timestamp" timestamptz, OUT roident oid)
RETURNS record LANGUAGE sql STRICT AS $$
    SELECT s."timestamp", s.roident FROM pg_catalog.pg_xact_commit_timestamp_origin(xid) s
$$;

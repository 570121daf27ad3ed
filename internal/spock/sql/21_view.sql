-- What can be seen: views, progress, statistics.

CREATE OR REPLACE VIEW spock.tables AS
    SELECT c.oid AS relid, n.nspname, c.relname, s.set_name
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN spock.replication_set_table t ON t.set_reloid = c.oid
      JOIN spock.replication_set s ON s.set_id = t.set_id
      JOIN spock.local_node l ON l.node_id = s.set_nodeid
     WHERE c.relkind IN ('r', 'p')
     UNION
    SELECT c.oid, n.nspname, c.relname, NULL
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
       AND n.nspname <> 'information_schema' AND n.nspname <> 'spock'
       AND NOT EXISTS (SELECT FROM spock.replication_set_table t
                         JOIN spock.replication_set s ON s.set_id = t.set_id
                         JOIN spock.local_node l ON l.node_id = s.set_nodeid
                        WHERE t.set_reloid = c.oid);

CREATE OR REPLACE FUNCTION spock.get_channel_stats(
    OUT subid oid, OUT relid oid, OUT n_tup_ins bigint, OUT n_tup_upd bigint, OUT n_tup_del bigint, OUT n_conflict bigint,
    OUT n_dca bigint)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT c.subid, c.relid, c.n_tup_ins, c.n_tup_upd, c.n_tup_del, c.n_conflict, c.n_dca FROM spock.pgdrover_channel_stats c
$$;

CREATE OR REPLACE FUNCTION spock.reset_channel_stats()
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_channel_stats
$$;

CREATE OR REPLACE VIEW spock.channel_table_stats AS
    SELECT h.subid, h.relid, CASE h.subid WHEN 0 THEN '<output>' ELSE s.sub_name END AS sub_name,
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS table_name,
           h.n_tup_ins, h.n_tup_upd, h.n_tup_del, h.n_conflict, h.n_dca
      FROM spock.get_channel_stats() AS h
      LEFT JOIN spock.subscription s ON s.sub_id = h.subid
      LEFT JOIN pg_catalog.pg_class c ON c.oid = h.relid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;

CREATE OR REPLACE VIEW spock.channel_summary_stats AS
    SELECT subid, sub_name, pg_catalog.sum(n_tup_ins) AS n_tup_ins, pg_catalog.sum(n_tup_upd) AS n_tup_upd,
           pg_catalog.sum(n_tup_del) AS n_tup_del, pg_catalog.sum(n_conflict) AS n_conflict, pg_catalog.sum(n_dca) AS n_dca
      FROM spock.channel_table_stats GROUP BY subid, sub_name;

-- The engine adds what it counted since the last time. Arrays of equal length.
CREATE OR REPLACE FUNCTION pgdrover.add_channel_stats(
    subids oid[], relids oid[], ins bigint[], upd bigint[], del bigint[], conflicts bigint[], dca bigint[],
    insert_exists bigint[], update_origin_differs bigint[], update_exists bigint[], update_missing bigint[],
    delete_origin_differs bigint[], delete_missing bigint[], delete_exists bigint[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.pgdrover_channel_stats AS c
    SELECT * FROM unnest(subids, relids, ins, upd, del, conflicts, dca, insert_exists, update_origin_differs,
                                    update_exists, update_missing, delete_origin_differs, delete_missing, delete_exists)
        ON CONFLICT (subid, relid) DO UPDATE
       SET n_tup_ins = c.n_tup_ins + excluded.n_tup_ins, n_tup_upd = c.n_tup_upd + excluded.n_tup_upd,
           n_tup_del = c.n_tup_del + excluded.n_tup_del, n_conflict = c.n_conflict + excluded.n_conflict,
           n_dca = c.n_dca + excluded.n_dca,
           confl_insert_exists = c.confl_insert_exists + excluded.confl_insert_exists,
           confl_update_origin_differs = c.confl_update_origin_differs + excluded.confl_update_origin_differs,
           confl_update_exists = c.confl_update_exists + excluded.confl_update_exists,
           confl_update_missing = c.confl_update_missing + excluded.confl_update_missing,
           confl_delete_origin_differs = c.confl_delete_origin_differs + excluded.confl_delete_origin_differs,
           confl_delete_missing = c.confl_delete_missing + excluded.confl_delete_missing,
           confl_delete_exists = c.confl_delete_exists + excluded.confl_delete_exists
$$;

CREATE OR REPLACE FUNCTION pgdrover.add_counter(subscription oid, counter text, n bigint)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.pgdrover_counter AS c (sub_id, name, value) VALUES (subscription, counter, n)
        ON CONFLICT (sub_id, name) DO UPDATE SET value = c.value + excluded.value
$$;

CREATE OR REPLACE FUNCTION pgdrover.subscription_stats(
    wanted oid, OUT subid oid, OUT confl_insert_exists bigint, OUT confl_update_origin_differs bigint,
    OUT confl_update_exists bigint, OUT confl_update_missing bigint, OUT confl_delete_origin_differs bigint,
    OUT confl_delete_missing bigint, OUT confl_delete_exists bigint, OUT stats_reset timestamptz)
RETURNS record LANGUAGE sql STABLE AS $$
    SELECT wanted, coalesce(pg_catalog.sum(c.confl_insert_exists), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_origin_differs), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_exists), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_missing), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_origin_differs), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_missing), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_exists), 0)::bigint,
           (SELECT r.stats_reset FROM spock.pgdrover_stats_reset r WHERE r.sub_id = wanted)
      FROM spock.pgdrover_channel_stats c WHERE c.subid = wanted
$$;

CREATE OR REPLACE FUNCTION spock.get_subscription_stats(
    subid oid, OUT subid oid, OUT confl_insert_exists bigint, OUT confl_update_origin_differs bigint,
    OUT confl_update_exists bigint, OUT confl_update_missing bigint, OUT confl_delete_origin_differs bigint,
    OUT confl_delete_missing bigint, OUT confl_delete_exists bigint, OUT stats_reset timestamptz)
RETURNS record LANGUAGE sql STABLE AS $$
    SELECT * FROM pgdrover.subscription_stats($1)
$$;

CREATE OR REPLACE FUNCTION spock.reset_subscription_stats(subid oid = NULL)
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.pgdrover_channel_stats c
       SET confl_insert_exists = 0, confl_update_origin_differs = 0, confl_update_exists = 0, confl_update_missing = 0,
           confl_delete_origin_differs = 0, confl_delete_missing = 0, confl_delete_exists = 0
     WHERE $1 IS NULL OR c.subid = $1;
    INSERT INTO spock.pgdrover_stats_reset (sub_id, stats_reset)
    SELECT s.sub_id, pg_catalog.now() FROM spock.subscription s WHERE $1 IS NULL OR s.sub_id = $1
        ON CONFLICT (sub_id) DO UPDATE SET stats_reset = excluded.stats_reset
$$;

CREATE OR REPLACE FUNCTION spock.cleanup_resolutions(days integer = NULL)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    keep integer := coalesce(days, pgdrover.setting('spock.resolutions_retention_days')::integer);
    n bigint;
BEGIN
    IF days < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'days must not be negative';
    END IF;
    IF keep <= 0 AND days IS NULL THEN
        RETURN 0;
    END IF;
    keep := least(keep, 1000000); -- before all timestamps that there are
    DELETE FROM spock.resolutions r WHERE r.log_time < pg_catalog.now() - keep * interval '1 day';
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

-- Release 5 and 6 in one view: clients select by name.
CREATE OR REPLACE VIEW spock.lag_tracker AS
    SELECT o.node_name AS origin_name, r.node_name AS receiver_name,
           pg_catalog.max(p.remote_commit_ts) AS commit_timestamp, pg_catalog.max(p.remote_lsn) AS last_received_lsn,
           pg_catalog.max(p.remote_commit_lsn) AS commit_lsn, pg_catalog.max(p.remote_insert_lsn) AS remote_insert_lsn,
           pg_catalog.max(p.received_lsn) AS received_lsn,
           CASE WHEN pg_catalog.bool_or(p.updated_by_decode)
                THEN pg_catalog.max(p.remote_insert_lsn) - pg_catalog.max(p.remote_lsn) ELSE 0::numeric END AS replication_lag_bytes,
           CASE WHEN pg_catalog.bool_or(p.updated_by_decode) THEN pg_catalog.now() - pg_catalog.max(p.remote_commit_ts)
                ELSE pg_catalog.now() - pg_catalog.max(p.last_updated_ts) END AS replication_lag
      FROM spock.progress p
      LEFT JOIN spock.subscription s ON s.sub_target = p.node_id AND s.sub_origin = p.remote_node_id
      LEFT JOIN spock.node o ON o.node_id = s.sub_origin
      LEFT JOIN spock.node r ON r.node_id = p.node_id
     GROUP BY o.node_name, r.node_name;

CREATE OR REPLACE FUNCTION spock.apply_group_progress(
    OUT dbid oid, OUT node_id oid, OUT remote_node_id oid, OUT remote_commit_ts timestamptz, OUT prev_remote_ts timestamptz,
    OUT remote_commit_lsn pg_lsn, OUT remote_insert_lsn pg_lsn, OUT received_lsn pg_lsn, OUT last_updated_ts timestamptz,
    OUT updated_by_decode boolean)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT coalesce(p.dbid, d.oid), p.node_id, p.remote_node_id, p.remote_commit_ts, p.prev_remote_ts,
           coalesce(p.remote_commit_lsn, p.remote_lsn), p.remote_insert_lsn, p.received_lsn, p.last_updated_ts, p.updated_by_decode
      FROM spock.progress p, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
$$;

-- One provider's row, at most once a second. A NULL leaves what is there.
CREATE OR REPLACE FUNCTION pgdrover.store_progress(
    provider oid, commit_ts timestamptz, commit_lsn pg_lsn, insert_lsn pg_lsn, received pg_lsn, by_decode boolean)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.progress AS p
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode,
            dbid, remote_commit_lsn, received_lsn)
    SELECT l.node_id, provider, coalesce(commit_ts, pg_catalog.clock_timestamp()), coalesce(commit_lsn, '0/0'),
           coalesce(insert_lsn, '0/0'), pg_catalog.clock_timestamp(), by_decode, d.oid, coalesce(commit_lsn, '0/0'),
           coalesce(received, '0/0')
      FROM spock.local_node l, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
        ON CONFLICT (node_id, remote_node_id) DO UPDATE
       SET prev_remote_ts = CASE WHEN commit_ts IS NULL THEN p.prev_remote_ts ELSE p.remote_commit_ts END,
           remote_commit_ts = coalesce(commit_ts, p.remote_commit_ts), remote_lsn = coalesce(commit_lsn, p.remote_lsn),
           remote_commit_lsn = coalesce(commit_lsn, p.remote_commit_lsn),
           remote_insert_lsn = greatest(insert_lsn, p.remote_insert_lsn),
           received_lsn = greatest(received, p.received_lsn), last_updated_ts = excluded.last_updated_ts,
           updated_by_decode = excluded.updated_by_decode, dbid = excluded.dbid
$$;

CREATE OR REPLACE FUNCTION spock.read_peer_progress(p_slot_name text, p_provider_node_id oid, p_subscriber_node_id oid)
RETURNS TABLE (
    lsn pg_lsn, snapshot text, dbid oid, node_id oid, remote_node_id oid, remote_commit_ts timestamptz, prev_remote_ts timestamptz,
    remote_commit_lsn pg_lsn, remote_insert_lsn pg_lsn, received_lsn pg_lsn, last_updated_ts timestamptz, updated_by_decode boolean)
LANGUAGE plpgsql STRICT AS $$
BEGIN
    RETURN QUERY SELECT s.restart_lsn, ''::text, NULL::oid, NULL::oid, NULL::oid, NULL::timestamptz, NULL::timestamptz, NULL::pg_lsn,
                        NULL::pg_lsn, NULL::pg_lsn, NULL::timestamptz, NULL::boolean
                   FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = p_slot_name::name;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('replication slot "%s" does not exist', p_slot_name);
    END IF;
    RAISE NOTICE 'SPOCK cswp slot % of node % read for node %', p_slot_name, p_provider_node_id, p_subscriber_node_id;
    RETURN QUERY SELECT NULL::pg_lsn, NULL::text, p.dbid, p.node_id, p.remote_node_id, p.remote_commit_ts, p.prev_remote_ts,
                        coalesce(pg_catalog.pg_replication_origin_progress(k.sub_slot_name::text, false), '0/0'), p.remote_insert_lsn,
                        p.received_lsn, p.last_updated_ts, p.updated_by_decode
                   FROM spock.subscription k
                   JOIN spock.apply_group_progress() p ON p.node_id = k.sub_target AND p.remote_node_id = k.sub_origin
                  WHERE k.sub_target = p_provider_node_id AND k.sub_origin <> p_subscriber_node_id
                    AND EXISTS (SELECT FROM pg_catalog.pg_replication_origin o WHERE o.roname = k.sub_slot_name::text);
END
$$;

-- How far initial copies are, one row for each table.
CREATE OR REPLACE VIEW spock.pgdrover_copy_progress AS
    SELECT s.sub_name, c.nspname, c.relname, pg_catalog.count(*) AS pieces,
           pg_catalog.count(*) FILTER (WHERE c.state = 'done') AS pieces_done,
           pg_catalog.sum(c.bytes_total) AS bytes_total, pg_catalog.sum(c.bytes_done) AS bytes_done,
           pg_catalog.sum(c.rows_done) AS rows_done, pg_catalog.min(c.started_at) AS started_at,
           CASE WHEN pg_catalog.bool_and(c.state = 'done') THEN pg_catalog.max(c.finished_at) END AS finished_at,
           CASE WHEN pg_catalog.bool_or(c.state = 'failed') THEN 'failed' WHEN pg_catalog.bool_and(c.state = 'done') THEN 'done'
                WHEN pg_catalog.bool_or(c.state IN ('copying', 'done')) THEN 'copying' ELSE 'wanted' END AS state
      FROM spock.pgdrover_copy c JOIN spock.subscription s ON s.sub_id = c.sub_id
     GROUP BY s.sub_name, c.nspname, c.relname;

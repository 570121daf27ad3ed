-- Transactions that are sent before their end: committed, aborted in part,
-- aborted as a whole. logical_decoding_work_mem is 64kB, which the column that
-- is not published fills.
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE big (id int PRIMARY KEY, m mood, pad text);
ALTER TABLE big ALTER COLUMN pad SET STORAGE EXTERNAL;
CREATE PUBLICATION everything FOR TABLE big (id, m);
SELECT 1 FROM pg_create_logical_replication_slot('capture', 'pgoutput', false, true);
BEGIN;
INSERT INTO big VALUES (0, 'sad', 'x');
SELECT 1 FROM pg_logical_emit_message(true, 'tx', 'inside');
INSERT INTO big SELECT i, 'ok', repeat('x', 20000) FROM generate_series(1, 5) i;
SAVEPOINT s;
INSERT INTO big SELECT i, 'ok', repeat('y', 20000) FROM generate_series(6, 12) i;
ROLLBACK TO s;
UPDATE big SET m = 'sad' WHERE id = 5;
UPDATE big SET id = 50 WHERE id = 5;
DELETE FROM big WHERE id = 4;
COMMIT;
INSERT INTO big VALUES (99, NULL, 'small');
BEGIN;
INSERT INTO big SELECT i, 'ok', repeat('z', 20000) FROM generate_series(100, 106) i;
ROLLBACK;
SELECT 1 FROM pg_replication_origin_create('elsewhere');
SELECT 1 FROM pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT 1 FROM pg_replication_origin_xact_setup('A/B00', '2020-02-02 02:02:02.020202+00');
INSERT INTO big SELECT i, 'ok', repeat('o', 20000) FROM generate_series(200, 205) i;
TRUNCATE big;
COMMIT;
SELECT 1 FROM pg_replication_origin_session_reset();

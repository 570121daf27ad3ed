-- Prepared transactions, small ones and streamed ones.
-- max_prepared_transactions is 5, logical_decoding_work_mem is 64kB.
CREATE TABLE big (id int PRIMARY KEY, note text, pad text);
ALTER TABLE big ALTER COLUMN pad SET STORAGE EXTERNAL;
CREATE PUBLICATION everything FOR TABLE big (id, note);
SELECT 1 FROM pg_create_logical_replication_slot('capture', 'pgoutput', false, true);
BEGIN;
INSERT INTO big VALUES (1, 'one');
PREPARE TRANSACTION 'kept';
COMMIT PREPARED 'kept';
BEGIN;
INSERT INTO big VALUES (2, 'two');
PREPARE TRANSACTION 'thrown away';
ROLLBACK PREPARED 'thrown away';
BEGIN;
INSERT INTO big SELECT i, NULL, repeat('x', 20000) FROM generate_series(3, 9) i;
PREPARE TRANSACTION 'large';
COMMIT PREPARED 'large';

-- From version 5 to version 6: how a worker stopped decides nothing any more; where it stopped says all.

ALTER TABLE spock.pgdrover_subscription DROP COLUMN IF EXISTS clean_stop;

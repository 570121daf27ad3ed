-- From version 7 to version 8: what to do about a subscription's last error. That a node knows its database comes with the
-- functions.

ALTER TABLE spock.pgdrover_subscription ADD COLUMN IF NOT EXISTS last_hint text;

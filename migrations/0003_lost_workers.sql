-- A worker that was lost says little about what it held: counted apart from the attempts that failed.

ALTER TABLE items ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
-- How far the worker that holds it has come, as it said with its last heartbeat: JSON.
ALTER TABLE items ADD COLUMN progress TEXT;

-- Items that only some workers can run, and the workers that run or have run lately.

-- What a worker must have to run the item, such as a model. NULL: any worker runs it.
ALTER TABLE items ADD COLUMN route TEXT;

-- The sweep: each worker sends messages only about items of any worker and of its own route.
DROP INDEX items_bells;
CREATE INDEX items_bells ON items (route, rung_at) WHERE state = 'queued';

CREATE TABLE workers (
    name         TEXT   NOT NULL PRIMARY KEY,
    route        TEXT,
    heartbeat_at BIGINT NOT NULL,
    -- Without a further heartbeat until then the worker counts as gone.
    lease_until  BIGINT NOT NULL
);

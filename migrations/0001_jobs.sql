-- The ledger: what is known about every job and its items. Runs unchanged on SQLite and Postgres, so: TEXT and BIGINT
-- only. Times are milliseconds since 1970, UTC.

CREATE TABLE jobs (
    id              TEXT   NOT NULL PRIMARY KEY,
    key             TEXT   NOT NULL UNIQUE,
    request_sha256  TEXT   NOT NULL,
    message         TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    -- Counts claims; who claimed with another number than this is fenced off.
    attempt         BIGINT NOT NULL DEFAULT 0,
    -- Both NULL while nobody works on the job itself.
    worker          TEXT,
    lease_until     BIGINT,
    -- How far the listing of inputs has come.
    cursor          TEXT,
    next_position   BIGINT NOT NULL DEFAULT 0,
    -- NULL until every item is known.
    total           BIGINT,
    -- When somebody asked that it be looked at again; NULL: as soon as there is something to do.
    due_at          BIGINT,
    rung_at         BIGINT NOT NULL,
    failure_code    TEXT,
    failure_message TEXT,
    -- When each state was entered.
    accepted_at            BIGINT NOT NULL,
    validating_at          BIGINT,
    queued_at              BIGINT,
    running_at             BIGINT,
    finalizing_at          BIGINT,
    succeeded_at           BIGINT,
    partially_succeeded_at BIGINT,
    failed_at              BIGINT
);

-- Newest first, page by page.
CREATE INDEX jobs_newest ON jobs (accepted_at, id);
-- The sweep. Ended jobs are many and never swept.
CREATE INDEX jobs_bells ON jobs (rung_at) WHERE state NOT IN ('succeeded', 'partially_succeeded', 'failed');

CREATE TABLE items (
    job_id          TEXT   NOT NULL REFERENCES jobs (id),
    id              TEXT   NOT NULL,
    position        BIGINT NOT NULL,
    message         TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    attempt         BIGINT NOT NULL DEFAULT 0,
    -- Attempts that do not count: their worker was told to stop.
    given_back      BIGINT NOT NULL DEFAULT 0,
    worker          TEXT,
    lease_until     BIGINT,
    due_at          BIGINT NOT NULL,
    rung_at         BIGINT NOT NULL,
    failure_code    TEXT,
    failure_message TEXT,
    claimed_at      BIGINT,
    ended_at        BIGINT,
    PRIMARY KEY (job_id, id)
);

-- In order, page by page.
CREATE INDEX items_in_order ON items (job_id, position, id);
-- Counting, and whether any is open.
CREATE INDEX items_by_state ON items (job_id, state);
-- The sweeps.
CREATE INDEX items_leases ON items (lease_until) WHERE state = 'running';
CREATE INDEX items_bells ON items (rung_at) WHERE state = 'queued';

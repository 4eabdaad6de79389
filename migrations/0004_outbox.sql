-- News that are to be sent: entered in one transaction with what they tell of, gone when the queue has them.

-- How many news there have been of a job. Numbers them, and no number comes twice.
ALTER TABLE jobs ADD COLUMN news BIGINT NOT NULL DEFAULT 0;

CREATE TABLE outbox (
    job_id      TEXT   NOT NULL REFERENCES jobs (id),
    number      BIGINT NOT NULL,
    -- JSON.
    event       TEXT   NOT NULL,
    entered_at  BIGINT NOT NULL,
    -- Counts those who took it to send it; until then the last of them has it, or nobody tries again.
    attempt     BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT,
    PRIMARY KEY (job_id, number)
);

CREATE INDEX outbox_oldest ON outbox (entered_at);

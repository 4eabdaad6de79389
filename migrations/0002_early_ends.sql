-- Jobs that begin later, end by a deadline, or are ended from outside.

ALTER TABLE jobs ADD COLUMN not_before BIGINT;
ALTER TABLE jobs ADD COLUMN deadline BIGINT;
ALTER TABLE jobs ADD COLUMN cancelled_at BIGINT;
ALTER TABLE jobs ADD COLUMN expired_at BIGINT;

-- The sweep. Ended jobs are many and never swept.
DROP INDEX jobs_bells;
CREATE INDEX jobs_bells ON jobs (rung_at)
    WHERE state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired');
CREATE INDEX jobs_deadlines ON jobs (deadline)
    WHERE deadline IS NOT NULL
        AND state NOT IN ('finalizing', 'succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired');

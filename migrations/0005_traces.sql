-- Where a job belongs among traces (W3C Trace Context), so that what the sweep sends anew goes there too.

ALTER TABLE jobs ADD COLUMN traceparent TEXT;
ALTER TABLE jobs ADD COLUMN tracestate TEXT;

-- When workers hold back the filling of a store, so that the database keeps its breath.

CREATE TABLE embver_internal.throttle (
    throttle_only boolean PRIMARY KEY DEFAULT true,
    policy jsonb NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT session_user,
    CONSTRAINT throttle_only_check CHECK (throttle_only)
);
INSERT INTO embver_internal.throttle DEFAULT VALUES;
COMMENT ON TABLE embver_internal.throttle IS
'One row: the conditions under which workers leave versions that are being filled alone.';

ALTER TABLE embver_internal.worker ADD COLUMN throttled text;
COMMENT ON COLUMN embver_internal.worker.throttled IS
'Why the worker holds back, as far as it does.';

-- Where the vectors of a version come from that is filled without its encoder.

CREATE TABLE embver_internal.origin (
    collection_id int NOT NULL,
    version int NOT NULL,
    kind text NOT NULL,
    origin jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user,
    check_passed boolean,
    check_figures jsonb,
    checked_at timestamptz,
    checked_by text,
    closed_at timestamptz,
    PRIMARY KEY (collection_id, version),
    FOREIGN KEY (collection_id, version) REFERENCES embver_internal.version ON DELETE CASCADE,
    CONSTRAINT origin_kind_check CHECK (kind IN ('column', 'table', 'version')),
    CONSTRAINT origin_checked_check CHECK ((check_passed IS NULL) = (checked_at IS NULL))
);
COMMENT ON TABLE embver_internal.origin IS
'The vectors that a version is filled with: a column of its source, a side table, another version.';
COMMENT ON COLUMN embver_internal.origin.check_passed IS
'Whether a sample agreed with the encoder; no rollout starts before it did.';
COMMENT ON COLUMN embver_internal.origin.closed_at IS
'When the version was filled: from then on nothing is copied any more.';

-- The tables of one model version. A template: double braces are filled by
-- embver_internal.render; run once for a store by the Alembic line `store`, as the source's owner.

CREATE TABLE {{store}}.embedding (
    {{key_definitions}},
    chunk int NOT NULL DEFAULT 0,
    embedding {{element_type}}({{dimensions}}) NOT NULL,
    content_hash bytea NOT NULL,
    encoded_at timestamptz NOT NULL DEFAULT now(),
    encoded_lease bigint NOT NULL,
    PRIMARY KEY ({{keys}}, chunk)
);
COMMENT ON TABLE {{store}}.embedding IS
'Vectors of one model version; the source''s key, the chunk, the vector and what it was made of.';
COMMENT ON COLUMN {{store}}.embedding.encoded_lease IS
'Number of the lease that wrote the row: an older lease never overwrites a newer one.';

CREATE TABLE {{store}}.job (
    {{key_definitions}},
    job_seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_priority smallint NOT NULL DEFAULT 0,
    job_attempts int NOT NULL DEFAULT 0,
    job_due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    job_enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX job_priority_seq_idx ON {{store}}.job (job_priority, job_seq);
COMMENT ON TABLE {{store}}.job IS
'The queue, append-only: a plain INSERT conflicts with nobody; duplicates coalesce at the claim.';
COMMENT ON COLUMN {{store}}.job.job_priority IS '0 a change of the source, 100 the backfill.';

CREATE TABLE {{store}}.lease (
    lease_seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lease_worker uuid NOT NULL,
    lease_claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_expires_at timestamptz NOT NULL,
    {{key_array_definitions}},
    job_priority smallint[] NOT NULL,
    job_attempts int[] NOT NULL,
    job_enqueued_at timestamptz[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE {{store}}.lease IS
'The ledger: one row a batch under way. Completing deletes exactly this row, or the lease is lost.';

CREATE TABLE {{store}}.dead_letter (
    {{key_definitions}},
    dead_hash bytea,
    dead_error text NOT NULL,
    dead_attempts int NOT NULL DEFAULT 0,
    dead_at timestamptz NOT NULL DEFAULT now(),
    waived_at timestamptz,
    waived_by text,
    waived_reason text,
    PRIMARY KEY ({{keys}}),
    CONSTRAINT dead_letter_waived_check CHECK ((waived_at IS NULL) = (waived_reason IS NULL))
);
COMMENT ON TABLE {{store}}.dead_letter IS 'Documents that failed for good, with their error.';

CREATE TABLE {{store}}.walk (
    walk_only boolean PRIMARY KEY DEFAULT true,
    walk_phase text NOT NULL DEFAULT 'idle',
    walk_barrier text[],
    {{key_nullable_definitions}},
    walk_sweep boolean NOT NULL DEFAULT false,
    walk_seen bigint NOT NULL DEFAULT 0,
    walk_enqueued bigint NOT NULL DEFAULT 0,
    walk_started_at timestamptz,
    walk_ended_at timestamptz,
    index_builder uuid,
    index_builder_until timestamptz,
    CONSTRAINT walk_only_check CHECK (walk_only),
    CONSTRAINT walk_phase_check CHECK (
        walk_phase IN ('idle', 'pending', 'barrier', 'documents', 'orphans', 'done')
    )
);
INSERT INTO {{store}}.walk DEFAULT VALUES;
COMMENT ON TABLE {{store}}.walk IS
'One row: how far the backfill has walked the source; the key columns are its cursor.';
COMMENT ON COLUMN {{store}}.walk.walk_barrier IS
'Transactions that wrote the source when the capture began; the walk waits for their end.';
COMMENT ON COLUMN {{store}}.walk.walk_sweep IS
'Whether vectors without a source row may exist and the keys of the store are walked too.';

CREATE TABLE {{store}}.rewalk (
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE {{store}}.rewalk IS
'Append-only requests to walk again: after a TRUNCATE under a snapshot, a new partition.';

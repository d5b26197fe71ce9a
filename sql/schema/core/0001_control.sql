-- The control schema: who is registered, what state it is in, what happened.
-- Run once by the Alembic line `core`, with search_path = pg_catalog, <schema of vector>, pg_temp.

CREATE SCHEMA embver;
COMMENT ON SCHEMA embver IS 'embver-pg: the public API (functions and views only).';
COMMENT ON SCHEMA embver_internal IS 'embver-pg: tables and private functions.';

CREATE TYPE embver.query_vector AS (
    collection text,
    version int,
    fingerprint text,
    embedding vector
);
COMMENT ON TYPE embver.query_vector IS
'A query vector that carries the identity of its space; made by embver.query, compared by search.';

CREATE TABLE embver_internal.collection (
    collection_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    source regclass NOT NULL,
    key_columns text[] NOT NULL,
    key_types text[] NOT NULL,
    key_collations text[] NOT NULL,
    content text NOT NULL,
    content_columns text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user,
    CONSTRAINT collection_name_key UNIQUE (name),
    CONSTRAINT collection_source_key UNIQUE (source, name),
    CONSTRAINT collection_name_check CHECK (
        name ~ '^[a-z][a-z0-9_]{0,39}$' AND name !~ '_v[0-9]+$' AND name <> 'internal'
    ),
    CONSTRAINT collection_keys_check CHECK (
        cardinality(key_columns) >= 1
        AND cardinality(key_types) = cardinality(key_columns)
        AND cardinality(key_collations) = cardinality(key_columns)
    )
);
COMMENT ON TABLE embver_internal.collection IS
'A registered source: table, key columns and the expression that yields the text to embed.';
COMMENT ON COLUMN embver_internal.collection.key_collations IS
'COLLATE clause of each key column, empty where it is the type''s own.';
COMMENT ON COLUMN embver_internal.collection.content IS 'The content expression as it was given.';

CREATE TABLE embver_internal.version (
    collection_id int NOT NULL REFERENCES embver_internal.collection ON DELETE CASCADE,
    version int NOT NULL,
    state text NOT NULL DEFAULT 'created',
    encoder jsonb NOT NULL,
    fingerprint text NOT NULL,
    dimensions int NOT NULL,
    metric text NOT NULL DEFAULT 'cosine',
    element_type text NOT NULL DEFAULT 'vector',
    index_spec jsonb NOT NULL DEFAULT '{"type": "hnsw"}',
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, version),
    CONSTRAINT version_version_check CHECK (version >= 1),
    CONSTRAINT version_state_check CHECK (
        state IN ('created', 'filling', 'ready', 'active', 'fallback', 'retired', 'dropped')
    ),
    CONSTRAINT version_metric_check CHECK (metric IN ('cosine', 'l2', 'ip')),
    CONSTRAINT version_element_type_check CHECK (element_type IN ('vector', 'halfvec')),
    CONSTRAINT version_dimensions_check CHECK (
        dimensions >= 1 AND dimensions <= CASE element_type WHEN 'vector' THEN 2000 ELSE 4000 END
    )
);
CREATE UNIQUE INDEX version_active_key ON embver_internal.version (collection_id)
WHERE state = 'active';
COMMENT ON TABLE embver_internal.version IS
'One immutable embedding space of a collection and the state of its store.';
COMMENT ON INDEX embver_internal.version_active_key IS 'One active version a collection.';

CREATE TABLE embver_internal.rollout (
    rollout_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id int NOT NULL REFERENCES embver_internal.collection ON DELETE CASCADE,
    from_version int,
    to_version int NOT NULL,
    strategy text NOT NULL,
    options jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT now(),
    paused_at timestamptz,
    pause_reason text,
    ended_at timestamptz,
    FOREIGN KEY (collection_id, to_version) REFERENCES embver_internal.version ON DELETE CASCADE,
    CONSTRAINT rollout_strategy_check CHECK (strategy IN ('shadow', 'blue_green', 'progressive')),
    CONSTRAINT rollout_state_check CHECK (
        state IN ('running', 'paused', 'promoted', 'rolled_back', 'aborted')
    ),
    CONSTRAINT rollout_paused_check CHECK ((state = 'paused') = (paused_at IS NOT NULL))
);
CREATE UNIQUE INDEX rollout_open_key ON embver_internal.rollout (collection_id)
WHERE state IN ('running', 'paused');
COMMENT ON TABLE embver_internal.rollout IS
'The process that takes a collection from its active version to another; one open at a time.';

CREATE TABLE embver_internal.route (
    collection text PRIMARY KEY
    REFERENCES embver_internal.collection (name) ON DELETE CASCADE ON UPDATE CASCADE,
    active int,
    previous int,
    mode text NOT NULL DEFAULT 'single',
    share float8,
    serving int[] NOT NULL DEFAULT '{}',
    live int[] NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT route_mode_check CHECK (mode IN ('single', 'split', 'fused', 'bridged')),
    CONSTRAINT route_share_check CHECK (share BETWEEN 0 AND 1)
);
COMMENT ON TABLE embver_internal.route IS
'The read pointer: the one row that a promotion changes and every search reads.';
COMMENT ON COLUMN embver_internal.route.serving IS
'Versions that answer by default: active and fallback.';
COMMENT ON COLUMN embver_internal.route.live IS
'Versions that are written: filling, ready, active, fallback.';

CREATE TABLE embver_internal.event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL DEFAULT session_user,
    collection text,
    version int,
    rollout_id bigint,
    kind text NOT NULL,
    reason text,
    before jsonb,
    after jsonb
);
CREATE INDEX event_collection_at_idx ON embver_internal.event (collection, at);
COMMENT ON TABLE embver_internal.event IS
'The audit trail: who did what, when and why. Outlives the collection.';

CREATE TABLE embver_internal.worker (
    worker_id uuid PRIMARY KEY,
    host text NOT NULL,
    pid int NOT NULL,
    library text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    documents bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE embver_internal.worker IS 'Worker processes and when they were last heard of.';

CREATE TABLE embver_internal.golden_set (
    golden_set_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id int NOT NULL REFERENCES embver_internal.collection ON DELETE CASCADE,
    name text NOT NULL,
    set_version int NOT NULL DEFAULT 1,
    queries int NOT NULL,
    judgments int NOT NULL,
    unknown_documents int NOT NULL DEFAULT 0,
    imported_at timestamptz NOT NULL DEFAULT now(),
    imported_by text NOT NULL DEFAULT session_user,
    CONSTRAINT golden_set_name_key UNIQUE (collection_id, name, set_version)
);
COMMENT ON TABLE embver_internal.golden_set IS
'Queries with judgments; an import under the same name makes a new version of the set.';

CREATE TABLE embver_internal.golden_query (
    golden_set_id int NOT NULL REFERENCES embver_internal.golden_set ON DELETE CASCADE,
    query_id text NOT NULL,
    query text NOT NULL,
    PRIMARY KEY (golden_set_id, query_id)
);
COMMENT ON TABLE embver_internal.golden_query IS 'A query of a golden set.';

CREATE TABLE embver_internal.golden_judgment (
    golden_set_id int NOT NULL,
    query_id text NOT NULL,
    document text NOT NULL,
    grade int NOT NULL,
    PRIMARY KEY (golden_set_id, query_id, document),
    FOREIGN KEY (golden_set_id, query_id)
    REFERENCES embver_internal.golden_query ON DELETE CASCADE
);
COMMENT ON TABLE embver_internal.golden_judgment IS 'The grade of one document for one query.';
COMMENT ON COLUMN embver_internal.golden_judgment.document IS
'The key as text; of a composite key, a JSON array of its columns as text, in key order.';

CREATE TABLE embver_internal.evaluation (
    evaluation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id int NOT NULL,
    version int NOT NULL,
    golden_set_id int NOT NULL REFERENCES embver_internal.golden_set ON DELETE CASCADE,
    fingerprint text NOT NULL,
    index_spec jsonb NOT NULL,
    mode text NOT NULL,
    exact boolean NOT NULL,
    k int NOT NULL,
    queries int NOT NULL,
    ndcg float8 NOT NULL,
    recall float8 NOT NULL,
    mrr float8 NOT NULL,
    documents bigint NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (collection_id, version) REFERENCES embver_internal.version ON DELETE CASCADE
);
COMMENT ON TABLE embver_internal.evaluation IS
'One measured run of a golden set through the SQL search of one version.';

CREATE TABLE embver_internal.evaluation_query (
    evaluation_id bigint NOT NULL REFERENCES embver_internal.evaluation ON DELETE CASCADE,
    query_id text NOT NULL,
    ndcg float8 NOT NULL,
    recall float8 NOT NULL,
    mrr float8 NOT NULL,
    seconds float8 NOT NULL,
    PRIMARY KEY (evaluation_id, query_id)
);
COMMENT ON TABLE embver_internal.evaluation_query IS 'The metrics of one query of an evaluation.';

CREATE TABLE embver_internal.gate (
    gate_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id int NOT NULL REFERENCES embver_internal.collection ON DELETE CASCADE,
    candidate_evaluation bigint NOT NULL REFERENCES embver_internal.evaluation ON DELETE CASCADE,
    baseline_evaluation bigint NOT NULL REFERENCES embver_internal.evaluation ON DELETE CASCADE,
    metric text NOT NULL,
    margin float8 NOT NULL,
    alpha float8 NOT NULL,
    queries int NOT NULL,
    difference float8 NOT NULL,
    lower_bound float8 NOT NULL,
    certifiable_margin float8 NOT NULL,
    passed boolean NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_by text NOT NULL DEFAULT session_user,
    CONSTRAINT gate_metric_check CHECK (metric IN ('ndcg', 'recall', 'mrr')),
    CONSTRAINT gate_alpha_check CHECK (alpha > 0 AND alpha < 1),
    CONSTRAINT gate_margin_check CHECK (margin >= 0),
    CONSTRAINT gate_passed_check CHECK (passed = (lower_bound > -margin))
);
CREATE INDEX gate_collection_idx ON embver_internal.gate (collection_id, gate_id DESC);
COMMENT ON TABLE embver_internal.gate IS
'A decision: is the candidate not worse than the baseline by more than the margin?';

CREATE TABLE embver_internal.template (
    name text PRIMARY KEY,
    body text NOT NULL
);
COMMENT ON TABLE embver_internal.template IS
'Templates of the objects generated for a collection or a store (sql/generated).';

-- Group roles are cluster-wide: made where permitted, explained where not.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['embver_admin', 'embver_worker', 'embver_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % was not created (no CREATEROLE): ask an administrator for'
                        ' CREATE ROLE % NOLOGIN; then run embver upgrade', v_role, v_role;
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
            END;
        END IF;
    END LOOP;
END
$$;

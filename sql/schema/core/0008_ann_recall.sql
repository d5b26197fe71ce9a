-- What was measured of a version besides its golden set: its index against exact search.

CREATE TABLE embver_internal.ann_recall (
    ann_recall_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id int NOT NULL,
    version int NOT NULL,
    fingerprint text NOT NULL,
    index_spec jsonb NOT NULL,
    k int NOT NULL,
    setting text NOT NULL,
    value int NOT NULL,
    golden_queries int NOT NULL,
    stored_queries int NOT NULL,
    recall float8 NOT NULL,
    lower_bound float8 NOT NULL,
    upper_bound float8 NOT NULL,
    seconds float8 NOT NULL,
    documents bigint NOT NULL,
    measured_at timestamptz NOT NULL,
    measured_by text NOT NULL DEFAULT session_user,
    FOREIGN KEY (collection_id, version) REFERENCES embver_internal.version ON DELETE CASCADE,
    CONSTRAINT ann_recall_recall_check CHECK (recall BETWEEN 0 AND 1),
    CONSTRAINT ann_recall_bounds_check CHECK (lower_bound <= recall AND recall <= upper_bound),
    CONSTRAINT ann_recall_queries_check CHECK (golden_queries + stored_queries >= 1)
);
CREATE INDEX ann_recall_version_idx
ON embver_internal.ann_recall (collection_id, version, ann_recall_id DESC);
COMMENT ON TABLE embver_internal.ann_recall IS
'Recall of a version''s index against exact search at one setting, over sampled queries.';
COMMENT ON COLUMN embver_internal.ann_recall.setting IS
'The search option that was set: ef_search, probes or rescore.';
COMMENT ON COLUMN embver_internal.ann_recall.lower_bound IS
'Of the two-sided 95 % t interval of the mean over the queries.';
COMMENT ON COLUMN embver_internal.ann_recall.golden_queries IS
'Queries of the golden set, encoded; the others are stored vectors with noise.';

-- Two versions that answer together: which, how much of the newer there is, how they are weighed.
ALTER TABLE embver_internal.route
ADD COLUMN older int,
ADD COLUMN newer int,
ADD COLUMN coverage float8 NOT NULL DEFAULT 0,
ADD COLUMN weight float8 NOT NULL DEFAULT 0.5,
ADD COLUMN allow text[] NOT NULL DEFAULT '{}',
ADD CONSTRAINT route_coverage_check CHECK (coverage BETWEEN 0 AND 1),
ADD CONSTRAINT route_weight_check CHECK (weight BETWEEN 0 AND 1),
ADD CONSTRAINT route_pair_check CHECK (
    mode = 'single' OR (older IS NOT NULL AND newer IS NOT NULL)
);
COMMENT ON COLUMN embver_internal.route.older IS 'The version that is left: the active.';
COMMENT ON COLUMN embver_internal.route.newer IS 'The version beside it that searches go to.';
COMMENT ON COLUMN embver_internal.route.coverage IS
'Share of the older version''s vectors that the newer one has, while it is filled.';
COMMENT ON COLUMN embver_internal.route.weight IS 'Weight of the older version''s list when fused.';
COMMENT ON COLUMN embver_internal.route.allow IS
'Route keys that a split always sends to the newer.';
UPDATE embver_internal.route AS r SET mode = 'single', share = NULL, older = r.active, newer = (
    SELECT v.version FROM embver_internal.version AS v
    INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
    WHERE c.name = r.collection AND v.state IN ('filling', 'ready')
    ORDER BY v.version DESC LIMIT 1);
CREATE TYPE embver_internal.search_plan AS (
    mode text,
    pair text,
    query embver.query_vector,
    older embver.query_vector,
    newer embver.query_vector,
    weight float8,
    coverage float8
);
COMMENT ON TYPE embver_internal.search_plan IS
'How one search is answered: by one query, or by the queries of the older and the newer version.';
-- Replaced by plan_search and a form with options.
DROP FUNCTION IF EXISTS embver_internal.choose_query(
    text, embver.query_vector[], int, text, jsonb
);
DROP FUNCTION IF EXISTS embver.set_route(text, text, float8, text);
DROP FUNCTION IF EXISTS embver_internal.route_versions(text, text);

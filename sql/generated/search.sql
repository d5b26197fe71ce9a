-- The collection's search. One static statement for each live version keeps plans cached and the
-- index in use; the route is one row read.
DO $do$
BEGIN
    IF to_regtype({{schema_literal}} || '.hit') IS NULL THEN
        CREATE TYPE {{schema}}.hit AS (
            {{key_attributes}}, chunk int, score float8, distance float8, rank int, version int);
    END IF;
END
$do$;

CREATE OR REPLACE FUNCTION {{schema}}.search(
    queries embver.query_vector[], k int DEFAULT 10, route_key text DEFAULT NULL,
    filter jsonb DEFAULT NULL, mode text DEFAULT NULL, options jsonb DEFAULT '{}'
) RETURNS TABLE (
    {{key_attributes}}, chunk int, score float8, distance float8, rank int, version int
)
-- The settings are changed inside, hence the attributes (undone at exit) and PARALLEL UNSAFE. A
-- scan that can go on costs a fifth more from its first row, so it is not the first try. With an
-- unknown k the planner would plan anew at each call, or scan and sort.
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path FROM CURRENT
SET hnsw.ef_search = 40 SET hnsw.iterative_scan = off SET hnsw.max_scan_tuples = 20000
SET plan_cache_mode = force_generic_plan SET enable_sort = off
AS $fn$
#variable_conflict use_column
DECLARE
    v_plan embver_internal.search_plan;
    v_query embver.query_vector;
    v_hits {{schema}}.hit[];
    v_exact boolean;
    v_iterative boolean := false;
    v_source text;
    v_condition text;
    v_setting text;
    v_rows bigint; -- to look at, where a document has several
BEGIN
    v_plan := embver_internal.plan_search({{collection}}, queries, k, route_key, mode, options);
    v_query := (v_plan).query;
    IF v_plan.pair IS NOT NULL THEN
        CASE v_plan.pair
            WHEN '' THEN NULL; -- no pair; the statement needs a branch
{{pairs}}        ELSE
            PERFORM embver_internal.refuse_query({{collection}}, ((v_plan).newer).version);
        END CASE;
    ELSE
    v_exact := coalesce((options ->> 'exact')::boolean, false);
    IF k > 40 OR options ->> 'ef_search' IS NOT NULL THEN
        v_setting := set_config('hnsw.ef_search',
            coalesce(options ->> 'ef_search', least(greatest(k, 40), 1000)::text), true);
    END IF;
{{scan_loop}}    END IF;
    RETURN QUERY SELECT {{keys:h}}, h.chunk, h.score, h.distance, h.embver_rank::int, h.version
    FROM unnest(v_hits) WITH ORDINALITY AS h (
        {{keys}}, chunk, score, distance, rank, version, embver_rank);
END
$fn$;
COMMENT ON FUNCTION {{schema}}.search(embver.query_vector[], int, text, jsonb, text, jsonb) IS
'The k nearest documents to the query of the version that the route names, best first. Queries come'
' from embver.query; one of a space that does not serve raises VM012. filter: equality, $in, $lt,'
' $lte, $gt, $gte, $and, $or over source columns. mode: single, split, fused,'
' bridged, rrf_partial, rrf, zscore. options: exact, ef_search.';

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
    queries embver.query_vector [], k int DEFAULT 10, route_key text DEFAULT NULL,
    filter jsonb DEFAULT NULL, mode text DEFAULT NULL, options jsonb DEFAULT '{}'
) RETURNS TABLE (
    {{key_attributes}}, chunk int, score float8, distance float8, rank int, version int
)
-- The settings are changed inside, hence the attributes (undone at exit) and PARALLEL UNSAFE.
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path FROM CURRENT
SET hnsw.ef_search = 40 SET hnsw.iterative_scan = strict_order SET hnsw.max_scan_tuples = 20000
SET enable_indexscan = on
AS $fn$
#variable_conflict use_column
DECLARE
    v_query embver.query_vector;
    v_hits {{schema}}.hit[];
    v_exact boolean;
BEGIN
    v_query := embver_internal.choose_query({{collection}}, queries, k, mode, options);
    v_exact := coalesce((options ->> 'exact')::boolean, false);
    PERFORM set_config('hnsw.ef_search',
        coalesce(options ->> 'ef_search', least(greatest(k, 40), 1000)::text), true);
    LOOP
        IF v_exact THEN
            PERFORM set_config('enable_indexscan', 'off', true);
        END IF;
        CASE v_query.version
            WHEN 0 THEN NULL; -- no version; the statement needs a branch
{{branches}}
        ELSE
            PERFORM embver_internal.refuse_query({{collection}}, v_query.version);
        END CASE;
        -- The index stops early under a selective filter or row-level security: look everywhere.
        EXIT WHEN v_exact OR cardinality(v_hits) >= k;
        v_exact := true;
    END LOOP;
    RETURN QUERY SELECT h.* FROM unnest(v_hits) AS h;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.search(embver.query_vector [], int, text, jsonb, text, jsonb) IS
'The k nearest documents to the query of the version that the route names, best first. Queries come'
' from embver.query; one of a space that does not serve raises VM012. filter: equality, $in, $lt,'
' $lte, $gt, $gte, $and, $or over source columns. options: exact, ef_search.';

-- What a rollout would cost: the size of the source, before anything is begun.

CREATE OR REPLACE FUNCTION embver_internal.generate_sampling(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
BEGIN
    PERFORM embver_internal.execute_as(
        (SELECT embver_internal.source_owner(c.source) FROM embver_internal.collection AS c
         WHERE c.collection_id = p_collection_id),
        embver_internal.render_template('sampling', embver_internal.variables(p_collection_id)));
END
$fn$;
COMMENT ON FUNCTION embver_internal.generate_sampling(int) IS
'(Re)creates the functions by which a plan reads a sample of the source.';

CREATE OR REPLACE FUNCTION embver_internal.source_size(p_collection text)
RETURNS TABLE (bytes bigint, pages bigint, rows_estimate float8, key_bytes int)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
BEGIN
    RETURN QUERY
    SELECT sum(pg_table_size(r.oid))::bigint, sum(p.pages)::bigint,
        -- The planner's method: the density of the last ANALYZE, the pages of now.
        CASE WHEN bool_and(r.reltuples >= 0 AND (r.relpages > 0 OR p.pages = 0))
            THEN sum(coalesce(r.reltuples::float8 / nullif(r.relpages, 0) * p.pages, 0)) END,
        (SELECT sum(CASE WHEN t.typlen > 0 THEN t.typlen ELSE 16 END)::int
         FROM unnest(v_collection.key_types) AS k (name)
         INNER JOIN pg_type AS t ON t.oid = to_regtype(k.name))
    FROM embver_internal.capture_relations(v_collection.source) AS s
    INNER JOIN pg_class AS r ON r.oid = s.relation AND r.relkind = 'r'
    CROSS JOIN LATERAL (SELECT pg_relation_size(r.oid)
        / current_setting('block_size')::bigint AS pages) AS p;
END
$fn$;
COMMENT ON FUNCTION embver_internal.source_size(text) IS
'Size of the source with its partitions; rows_estimate is NULL before the first ANALYZE.';

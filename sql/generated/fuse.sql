-- Two versions answer together. Static SQL for one ordered pair; definitions in docs/learn.
CREATE OR REPLACE FUNCTION {{schema}}.fuse_{{older}}_{{newer}}(
    p_plan embver_internal.search_plan, k int, filter jsonb, options jsonb
) RETURNS {{schema}}.hit[]
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path FROM CURRENT
-- Each candidate is looked up by its key: joins of whole stores, and code compiled for them, would
-- cost what the documents are many.
SET hnsw.ef_search = 200 SET hnsw.iterative_scan = off SET hnsw.max_scan_tuples = 20000
SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off
AS $fn$
#variable_conflict use_column
DECLARE
    v_depth int := greatest(k, 200);
    v_lists int[];
    v_list int;
    v_query vector;
    v_hits {{schema}}.hit[];
    v_old {{schema}}.hit[] := '{}';
    v_new {{schema}}.hit[] := '{}';
    v_image {{schema}}.hit[] := '{}';
    v_bridge bigint;
    v_constant float8;
    v_unit vector;
    v_coverage float8 := (p_plan).coverage;
    v_weight float8 := CASE WHEN (p_plan).mode = 'bridged' THEN 0 ELSE (p_plan).weight END;
    v_exact boolean;
    v_iterative boolean;
    v_source text;
    v_condition text;
    v_setting text;
    v_rows bigint;
BEGIN
    -- Everything is re-encoded: the newer version alone, in every mode that knows how much is.
    v_lists := CASE
        WHEN v_coverage >= 1 AND (p_plan).mode IN ('fused', 'bridged', 'rrf_partial') THEN '{2}'
        WHEN (p_plan).mode = 'bridged' THEN '{2,3}'
        WHEN (p_plan).mode = 'fused' THEN '{1,2,3}'
        ELSE '{1,2}' END::int[];
    FOREACH v_list IN ARRAY v_lists LOOP
        v_query := CASE v_list WHEN 1 THEN ((p_plan).older).embedding
            ELSE ((p_plan).newer).embedding END;
        IF v_list = 3 THEN
            SELECT b.bridge_id INTO v_bridge FROM {{newer_store}}.bridge AS b
            WHERE b.bridge_from = {{older}} AND b.state = 'usable';
            CONTINUE WHEN NOT FOUND;
            v_unit := l2_normalize(v_query);
            v_query := (SELECT array_agg(-(r.row_vector <#> v_unit) ORDER BY r.row_number)::real[]
                FROM {{newer_store}}.bridge_row AS r WHERE r.bridge_id = v_bridge)::vector;
            v_constant := (SELECT -(b.y_mean <#> v_unit) + (b.x_mean <#> v_query)
                FROM {{newer_store}}.bridge AS b WHERE b.bridge_id = v_bridge);
            CONTINUE WHEN vector_norm(v_query) = 0;
        END IF;
        v_setting := set_config('hnsw.ef_search', least(greatest(v_depth,
            (options ->> 'ef_search')::int), 1000)::text, true);
        v_setting := set_config('hnsw.iterative_scan', 'off', true);
        v_exact := coalesce((options ->> 'exact')::boolean, false);
        v_iterative := false;
        -- What the loop may not do to one list because of another.
        v_hits := '{}';
{{scan_loop}}
        CASE v_list
            WHEN 1 THEN v_old := v_hits;
            WHEN 2 THEN v_new := v_hits;
            ELSE v_image := v_hits;
        END CASE;
    END LOOP;

    RETURN (WITH old_list AS MATERIALIZED (
        SELECT {{collated:h}}, h.chunk, h.score, h.embver_rank
        FROM unnest(v_old) WITH ORDINALITY AS h (
            {{keys}}, chunk, score, distance, rank, version, embver_rank)
    ), new_list AS MATERIALIZED (
        SELECT {{collated:h}}, h.chunk, h.score, h.embver_rank
        FROM unnest(v_new) WITH ORDINALITY AS h (
            {{keys}}, chunk, score, distance, rank, version, embver_rank)
    ), image AS MATERIALIZED (
        -- Rescored by the normalised image; a norm of a vector that was written since does not count.
        SELECT {{keys:c}}, c.chunk, (
            SELECT (v_constant - (e.embedding::vector <#> v_query)) / n.embver_norm
            FROM {{older_store}}.embedding AS e
            INNER JOIN {{newer_store}}.bridge_norm AS n ON {{match:n,e}}
                AND n.embver_bridge = v_bridge AND n.embver_chunk = e.chunk
                AND n.embver_lease = e.encoded_lease
            WHERE {{match:e,c}} AND e.chunk = c.chunk LIMIT 1) AS score
        FROM (
            SELECT {{collated:h}}, h.chunk
            FROM unnest(v_image) AS h ({{keys}}, chunk, score, distance, rank, version)) AS c
        WHERE (SELECT true FROM {{newer_store}}.embedding AS e WHERE {{match:e,c}} LIMIT 1) IS NULL
    ), bridged AS MATERIALIZED (
        SELECT {{keys:b}}, b.chunk, b.score, b.embver_rank FROM (
            SELECT {{keys:n}}, n.chunk, n.score, n.embver_rank FROM new_list AS n
            UNION ALL SELECT {{keys:i}}, i.chunk, i.score, NULL FROM image AS i
            WHERE i.score IS NOT NULL
        ) AS b
        ORDER BY b.score DESC, {{keys:b}} LIMIT v_depth
    ), candidate AS (
        SELECT {{keys:u}}, max(u.old_score) AS old_score, max(u.new_score) AS new_score,
            max(u.bridged_score) AS bridged_score, max(u.old_rank) AS old_rank,
            max(u.new_rank) AS new_rank, max(u.old_chunk) AS old_chunk,
            max(u.new_chunk) AS new_chunk, max(u.bridged_chunk) AS bridged_chunk
        FROM (
            SELECT {{keys:o}}, o.score AS old_score, NULL::float8 AS new_score,
                NULL::float8 AS bridged_score, o.embver_rank AS old_rank, NULL::bigint AS new_rank,
                o.chunk AS old_chunk, NULL::int AS new_chunk, NULL::int AS bridged_chunk
            FROM old_list AS o
            UNION ALL
            SELECT {{keys:n}}, NULL, n.score, NULL, NULL, n.embver_rank, NULL, n.chunk, NULL
            FROM new_list AS n WHERE (p_plan).mode NOT IN ('fused', 'bridged')
            UNION ALL
            -- Here the newer version's list stands in the bridged: what that cut is no candidate.
            SELECT {{keys:b}}, NULL, NULL, b.score, NULL, b.embver_rank, NULL, NULL, b.chunk
            FROM bridged AS b WHERE (p_plan).mode IN ('fused', 'bridged')
        ) AS u
        GROUP BY {{keys:u}}
    ), encoded AS MATERIALIZED (
        SELECT c.*, coalesce(c.new_rank IS NOT NULL OR (
            SELECT true FROM {{newer_store}}.embedding AS e WHERE {{match:e,c}} LIMIT 1), false)
            AS is_encoded
        FROM candidate AS c
    ), old_figures AS (
        SELECT avg(o.score) AS mean, nullif(greatest(stddev_pop(o.score), 1e-9), 1e-9) AS sd,
            min(o.score) AS lowest
        FROM old_list AS o
    ), new_figures AS (
        SELECT avg(n.score) AS mean, nullif(greatest(stddev_pop(n.score), 1e-9), 1e-9) AS sd,
            min(n.score) AS lowest
        FROM new_list AS n
    ), bridged_figures AS (
        SELECT avg(b.score) AS mean, nullif(greatest(stddev_pop(b.score), 1e-9), 1e-9) AS sd,
            min(b.score) AS lowest
        FROM bridged AS b
    ), near AS (
        -- How much of what the older version finds nearest is re-encoded, for this query.
        SELECT (count(*) FILTER (WHERE e.is_encoded) + 5 * v_coverage) / (count(*) + 5) AS coverage
        FROM encoded AS e WHERE e.old_rank <= 100
    ), standard AS (
        SELECT e.*,
            coalesce((coalesce(e.old_score, o.lowest) - o.mean) / o.sd, 0) AS old_z,
            coalesce((coalesce(e.new_score, n.lowest) - n.mean) / n.sd, 0) AS new_z,
            coalesce((coalesce(e.bridged_score, b.lowest) - b.mean) / b.sd, 0) AS bridged_z,
            greatest(r.coverage, 1e-6) AS near_coverage
        FROM encoded AS e, old_figures AS o, new_figures AS n, bridged_figures AS b, near AS r
    ), fused AS (
        SELECT s.*, CASE (p_plan).mode
            WHEN 'rrf' THEN coalesce(1 / (60.0::float8 + s.old_rank), 0)
                + coalesce(1 / (60.0::float8 + s.new_rank), 0)
            WHEN 'zscore' THEN v_weight * s.old_z + (1 - v_weight) * s.new_z
            WHEN 'rrf_partial' THEN coalesce(CASE WHEN s.is_encoded
                THEN 1 / (60 + s.new_rank / CASE WHEN v_coverage >= 1 THEN 1
                    ELSE s.near_coverage END)
                ELSE 1 / (60.0::float8 + s.old_rank) END, 0)
            -- zfuse; bridged is its weight 0.
            ELSE CASE WHEN s.is_encoded
                THEN s.bridged_z + (1 - v_coverage) * v_weight * (s.old_z - s.bridged_z)
                ELSE (1 - v_weight) * s.bridged_z + v_weight * s.old_z END
            END AS fused_score
        FROM standard AS s
    )
    SELECT coalesce(array_agg(ROW({{keys:f}}, f.chunk, f.fused_score, NULL, NULL, f.version)::{{schema}}.hit
        ORDER BY f.fused_score DESC, {{keys:f}}), '{}')
    FROM (
        SELECT {{keys:x}}, coalesce(x.new_chunk, x.bridged_chunk, x.old_chunk) AS chunk,
            x.fused_score, CASE WHEN x.is_encoded THEN {{newer}} ELSE {{older}} END AS version
        FROM fused AS x
        ORDER BY x.fused_score DESC, {{keys:x}} LIMIT k) AS f);
END
$fn$;
COMMENT ON FUNCTION {{schema}}.fuse_{{older}}_{{newer}}(
    embver_internal.search_plan, int, jsonb, jsonb
) IS
'The k best documents by versions {{older}} and {{newer}} together; for search, which plans it.';

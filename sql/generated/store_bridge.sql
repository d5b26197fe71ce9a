-- The bridge of one store: recorded by who fitted it, filled with norms page by page, then used.
-- Security definer, owned by the owner of the source: row-level security hides no vector from it.

CREATE OR REPLACE FUNCTION {{store}}.record_bridge(
    p_older int, p_x_mean vector, p_y_mean vector, p_rows vector[], p_pairs int, p_lambda float8,
    p_cosine float8 DEFAULT NULL, p_coverage float8 DEFAULT NULL, p_provenance jsonb DEFAULT '{}'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_bridge bigint;
    v_older embver_internal.version;
    v_problem text;
BEGIN
    SELECT v.* INTO v_older FROM embver_internal.version AS v
    INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
    WHERE c.name = {{collection}} AND v.version = p_older;
    v_problem := coalesce({{store}}.bridge_problem(p_older), CASE
        WHEN p_rows IS NULL OR p_x_mean IS NULL OR p_y_mean IS NULL OR p_pairs IS NULL
            OR p_lambda IS NULL THEN 'a part of the map is NULL'
        WHEN vector_dims(p_x_mean) <> v_older.dimensions
            OR cardinality(p_rows) <> v_older.dimensions
            OR vector_dims(p_y_mean) <> {{dimensions}}
            OR EXISTS (SELECT FROM unnest(p_rows) AS r (w)
                WHERE r.w IS NULL OR vector_dims(r.w) <> {{dimensions}})
            THEN format('the map must have %s rows of %s', v_older.dimensions, {{dimensions}}) END);
    IF v_problem IS NOT NULL THEN
        PERFORM embver_internal.fail('VM006', format('no bridge from version %s to {{version}}: %s',
                p_older, v_problem),
            jsonb_build_object('collection', {{collection}}, 'older', p_older,
                'newer', {{version}}, 'reason', v_problem),
            'searches during the rollout use mode rrf_partial');
    END IF;
    -- A fit that was never filled is of no more use.
    UPDATE {{store}}.bridge AS b SET state = 'replaced'
    WHERE b.bridge_from = p_older AND b.state = 'filling';
    INSERT INTO {{store}}.bridge AS b
        (bridge_from, x_mean, y_mean, pairs, lambda, cosine, coverage, provenance)
    VALUES (p_older, p_x_mean, p_y_mean, p_pairs, p_lambda, p_cosine, p_coverage,
        coalesce(p_provenance, '{}'))
    RETURNING b.bridge_id INTO v_bridge;
    INSERT INTO {{store}}.bridge_row (bridge_id, row_number, row_vector)
    SELECT v_bridge, r.i, r.w FROM unnest(p_rows) WITH ORDINALITY AS r (w, i);
    INSERT INTO {{store}}.bridge_walk (embver_bridge) VALUES (v_bridge);
    RETURN v_bridge;
END
$fn$;
COMMENT ON FUNCTION {{store}}.record_bridge(
    int, vector, vector, vector[], int, float8, float8, float8, jsonb
) IS
'Keeps a fitted map: means and the rows of W. It is not used before its norms are there. VM006 with'
' the reason where the two versions cannot have a bridge.';

CREATE OR REPLACE FUNCTION {{store}}.claim_norms(p_bridge bigint, p_limit int DEFAULT 1000)
RETURNS TABLE (embver_page bigint, embver_item int, embver_vector vector)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_bridge {{store}}.bridge;
    v_walk {{store}}.bridge_walk;
    v_older regclass;
    v_page bigint;
    v_seen bigint;
    v_missing bigint;
BEGIN
    SELECT b.* INTO v_bridge FROM {{store}}.bridge AS b
    WHERE b.bridge_id = p_bridge AND b.state IN ('filling', 'usable');
    SELECT w.* INTO v_walk FROM {{store}}.bridge_walk AS w
    WHERE w.embver_bridge = v_bridge.bridge_id FOR UPDATE SKIP LOCKED;
    v_older := to_regclass(format('%I.embedding', 'embver_' || {{collection}} || '_v'
        || v_bridge.bridge_from));
    IF v_walk IS NULL OR v_older IS NULL OR p_limit < 1 THEN
        RETURN;
    END IF;
    DELETE FROM {{store}}.bridge_page AS p
    WHERE p.embver_claimed_at < clock_timestamp() - interval '10 min';
    FOR v_step IN 1..20 LOOP
        -- LIMIT before the anti-join: a step looks at so many vectors, and no more.
        EXECUTE $sql$
            WITH page AS MATERIALIZED (
                SELECT {{keys:e}}, e.chunk, e.encoded_lease FROM $sql$ || v_older || $sql$ AS e $sql$
            || CASE WHEN v_walk.embver_chunk IS NULL THEN '' ELSE
                $sql$ WHERE ({{keys:e}}, e.chunk) > ({{keys:($1)}}, ($1).embver_chunk) $sql$ END
            || $sql$ ORDER BY {{keys:e}}, e.chunk LIMIT $2
            ), missing AS MATERIALIZED (
                SELECT p.*, row_number() OVER (ORDER BY {{keys:p}}, p.chunk) AS ordinal
                FROM page AS p
                LEFT JOIN {{store}}.bridge_norm AS n ON {{match:n,p}}
                    AND n.embver_bridge = ($1).embver_bridge AND n.embver_chunk = p.chunk
                    AND n.embver_lease = p.encoded_lease
                WHERE n.embver_bridge IS NULL
            ), claimed AS (
                INSERT INTO {{store}}.bridge_page AS g
                    (embver_bridge, {{keys}}, embver_chunks, embver_leases)
                SELECT ($1).embver_bridge, {{key_aggregates}},
                    array_agg(x.chunk ORDER BY x.ordinal),
                    array_agg(x.encoded_lease ORDER BY x.ordinal)
                FROM missing AS x HAVING count(*) > 0
                RETURNING g.embver_page
            ), moved AS (
                UPDATE {{store}}.bridge_walk AS w
                SET ({{keys}}, embver_chunk) = ROW({{keys:l}}, l.chunk),
                    embver_seen = w.embver_seen + (SELECT count(*) FROM page),
                    embver_missing = w.embver_missing + (SELECT count(*) FROM missing)
                FROM (SELECT p.* FROM page AS p ORDER BY {{keys_descending:p}}, p.chunk DESC
                    LIMIT 1) AS l
                WHERE w.embver_bridge = ($1).embver_bridge
            )
            SELECT (SELECT c.embver_page FROM claimed AS c), (SELECT count(*) FROM page),
                (SELECT count(*) FROM missing)
        $sql$ INTO v_page, v_seen, v_missing USING v_walk, p_limit;
        IF v_page IS NOT NULL THEN
            RETURN QUERY EXECUTE $sql$
                SELECT g.embver_page, u.ordinal::int, e.embedding::vector
                FROM {{store}}.bridge_page AS g,
                    unnest({{keys:g}}, g.embver_chunks) WITH ORDINALITY
                        AS u ({{keys}}, embver_chunk, ordinal),
                    LATERAL (SELECT x.embedding FROM $sql$ || v_older || $sql$ AS x
                        WHERE {{match:x,u}} AND x.chunk = u.embver_chunk) AS e
                WHERE g.embver_page = $1 ORDER BY u.ordinal
            $sql$ USING v_page;
            RETURN;
        END IF;
        SELECT w.* INTO v_walk FROM {{store}}.bridge_walk AS w
        WHERE w.embver_bridge = v_bridge.bridge_id;
        IF v_seen = 0 THEN
            -- The end of a pass. Under steady writes one that finds nothing may never come.
            IF v_bridge.state = 'filling' AND v_walk.embver_missing * 200 <= v_walk.embver_seen
                AND NOT EXISTS (SELECT FROM {{store}}.bridge_page AS p
                    WHERE p.embver_bridge = v_bridge.bridge_id) THEN
                PERFORM {{store}}.use_bridge(v_bridge.bridge_id);
            END IF;
            UPDATE {{store}}.bridge_walk AS w
            SET embver_chunk = NULL, embver_seen = 0, embver_missing = 0
            WHERE w.embver_bridge = v_bridge.bridge_id;
            RETURN;
        END IF;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION {{store}}.claim_norms(bigint, int) IS
'The next older vectors without a norm, at most p_limit, numbered; looks at 20 times as many and'
' may return none. A pass over all that finds hardly one makes the bridge usable; call on for the'
' norms of vectors that are written later.';

CREATE OR REPLACE FUNCTION {{store}}.record_norms(p_page bigint, p_items int[], p_norms real[])
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_page {{store}}.bridge_page;
BEGIN
    IF EXISTS (SELECT FROM unnest(p_norms) AS n (x)
            WHERE n.x IS NULL OR NOT (n.x > 0 AND n.x < 'Infinity')) THEN
        PERFORM embver_internal.fail('VM006', 'a norm is not a positive number',
            jsonb_build_object('page', p_page), 'fit the bridge again');
    END IF;
    DELETE FROM {{store}}.bridge_page AS g WHERE g.embver_page = p_page RETURNING g.* INTO v_page;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO {{store}}.bridge_norm AS n
        (embver_bridge, {{keys}}, embver_chunk, embver_lease, embver_norm)
    SELECT v_page.embver_bridge, {{keys:u}}, u.embver_chunk, u.embver_lease, r.embver_norm
    FROM unnest({{keys:v_page}}, v_page.embver_chunks, v_page.embver_leases) WITH ORDINALITY
        AS u ({{keys}}, embver_chunk, embver_lease, ordinal)
    INNER JOIN unnest(p_items, p_norms) AS r (ordinal, embver_norm) ON r.ordinal = u.ordinal
    ORDER BY {{keys:u}}, u.embver_chunk
    ON CONFLICT (embver_bridge, {{keys}}, embver_chunk) DO UPDATE
    SET embver_lease = excluded.embver_lease, embver_norm = excluded.embver_norm
    WHERE n.embver_lease <= excluded.embver_lease;
    RETURN true;
END
$fn$;
COMMENT ON FUNCTION {{store}}.record_norms(bigint, int[], real[]) IS
'Writes the norms of a page; false where the page was given up.';

CREATE OR REPLACE FUNCTION {{store}}.use_bridge(p_bridge bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
BEGIN
    UPDATE {{store}}.bridge AS b SET state = 'replaced'
    FROM {{store}}.bridge AS n
    WHERE n.bridge_id = p_bridge AND b.bridge_from = n.bridge_from AND b.state = 'usable'
        AND b.bridge_id <> p_bridge;
    UPDATE {{store}}.bridge AS b SET state = 'usable', usable_at = clock_timestamp()
    WHERE b.bridge_id = p_bridge AND b.state = 'filling';
    DELETE FROM {{store}}.bridge_norm AS n USING {{store}}.bridge AS b
    WHERE b.bridge_id = n.embver_bridge AND b.state = 'replaced'
        -- A search that has just begun may still read the one before.
        AND b.bridge_id < (SELECT max(x.bridge_id) FROM {{store}}.bridge AS x
            WHERE x.state = 'replaced');
END
$fn$;
COMMENT ON FUNCTION {{store}}.use_bridge(bigint) IS
'Switches searches to this fit; the one before is replaced.';

CREATE OR REPLACE FUNCTION {{store}}.drop_bridge(p_older int) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
WITH dropped AS (
    UPDATE {{store}}.bridge AS b SET state = 'replaced'
    WHERE b.bridge_from = p_older AND b.state IN ('filling', 'usable')
    RETURNING 1
)

SELECT count(*) > 0 FROM dropped;
$fn$;
COMMENT ON FUNCTION {{store}}.drop_bridge(int) IS
'Searches do without the bridge from an older version; whether there was one.';

CREATE OR REPLACE FUNCTION {{store}}.measure_coverage() RETURNS float8
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_older regclass;
    v_rows float8;
BEGIN
    SELECT to_regclass(format('%I.embedding', embver_internal.store_name(r.collection, r.older)))
    INTO v_older
    FROM embver_internal.route AS r
    WHERE r.collection = {{collection}} AND r.newer = {{version}} AND r.older IS NOT NULL;
    IF v_older IS NULL THEN
        RETURN NULL;
    END IF;
    -- Some 500 pages at most, whatever the size.
    EXECUTE $sql$
        SELECT count(*) FILTER (WHERE (SELECT true FROM {{store}}.embedding AS n
                WHERE {{match:n,e}} LIMIT 1))::float8 / nullif(count(*), 0)
        FROM $sql$ || v_older || $sql$ AS e TABLESAMPLE SYSTEM ($1) WHERE e.chunk = 0
    $sql$ INTO v_rows
    USING least(100, 100 * 500.0 / greatest(pg_relation_size(v_older) / 8192, 1));
    PERFORM embver_internal.record_coverage({{collection}}, {{version}}, v_rows);
    RETURN v_rows;
END
$fn$;
COMMENT ON FUNCTION {{store}}.measure_coverage() IS
'The share of the older version''s documents that this one has, by a sample; search weighs by it.';

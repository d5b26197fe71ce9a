-- What a bridge is fitted on, and whether there can be one. Security definer, owned by the owner of
-- the source: row-level security hides no vector from it.

CREATE OR REPLACE FUNCTION {{store}}.bridge_problem(p_older int) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_older embver_internal.version;
    v_newer embver_internal.version;
BEGIN
    SELECT v.* INTO v_older FROM embver_internal.version AS v
    INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
    WHERE c.name = {{collection}} AND v.version = p_older
        AND v.state IN ('filling', 'ready', 'active', 'fallback');
    SELECT v.* INTO v_newer FROM embver_internal.version AS v
    WHERE v.collection_id = v_older.collection_id AND v.version = {{version}};
    RETURN CASE
        WHEN v_older IS NULL OR p_older = {{version}} THEN 'the older version is not live'
        -- Its scores are cosines, and stand in one list with those of this version.
        WHEN v_newer.metric <> 'cosine' THEN 'the newer version is not compared by cosine'
        WHEN v_older.metric = 'l2' THEN 'the older version is compared by l2'
        WHEN v_older.chunker IS DISTINCT FROM v_newer.chunker
            THEN 'the two versions cut documents differently' END;
END
$fn$;
COMMENT ON FUNCTION {{store}}.bridge_problem(int) IS
'Why there can be no bridge from an older version; NULL where there can.';

CREATE OR REPLACE FUNCTION {{store}}.bridge_pairs(p_older int, p_limit int)
RETURNS TABLE (
    problem text, pairs int, coverage float8, older_vectors bytea, newer_vectors bytea
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_problem text := {{store}}.bridge_problem(p_older);
    v_older text := format('%I.embedding', embver_internal.store_name({{collection}}, p_older));
BEGIN
    IF v_problem IS NOT NULL THEN
        problem := v_problem;
        RETURN NEXT;
        RETURN;
    END IF;
    -- Equal content only, and the same piece of it: two tokenizers cut at other places.
    RETURN QUERY EXECUTE $sql$
        WITH pair AS MATERIALIZED (
            SELECT {{keys:n}}, n.chunk FROM {{store}}.embedding AS n
            INNER JOIN $sql$ || v_older || $sql$ AS o ON {{match:o,n}} AND o.chunk = n.chunk
                AND o.content_hash = n.content_hash
                AND o.chunk_from IS NOT DISTINCT FROM n.chunk_from
                AND o.chunk_to IS NOT DISTINCT FROM n.chunk_to
        ), chosen AS MATERIALIZED (
            SELECT p.* FROM pair AS p ORDER BY random() LIMIT $1
        ), vectors AS MATERIALIZED (
            SELECT row_number() OVER () AS ordinal, o.embedding::vector AS older,
                n.embedding::vector AS newer
            FROM chosen AS p
            INNER JOIN {{store}}.embedding AS n ON {{match:n,p}} AND n.chunk = p.chunk
            INNER JOIN $sql$ || v_older || $sql$ AS o ON {{match:o,p}} AND o.chunk = p.chunk
        )
        -- The index ranks by cosine: only for vectors of one length is that the map's order.
        SELECT CASE WHEN $2 AND bool_or(abs(vector_norm(v.older) - 1) > 0.005)
                THEN 'the older vectors are not of unit length' END,
            count(*)::int,
            (SELECT count(*) FROM pair)::float8
            / greatest(1, (SELECT count(*) FROM $sql$ || v_older || $sql$)),
            string_agg(substring(vector_send(v.older) FROM 5), ''::bytea ORDER BY v.ordinal),
            string_agg(substring(vector_send(v.newer) FROM 5), ''::bytea ORDER BY v.ordinal)
        FROM vectors AS v
    $sql$ USING p_limit, (
        SELECT x.metric <> 'ip' FROM embver_internal.version AS x
        INNER JOIN embver_internal.collection AS y ON y.collection_id = x.collection_id
        WHERE y.name = {{collection}} AND x.version = p_older);
END
$fn$;
COMMENT ON FUNCTION {{store}}.bridge_pairs(int, int) IS
'Up to p_limit random documents in both versions with the same content: their vectors one after the'
' other, as big-endian float4, and the share of the older version that is in both. problem says why'
' there can be no bridge. Reads the keys of both stores.';

CREATE OR REPLACE FUNCTION {{store}}.claim_norm_page(p_bridge bigint, p_limit int DEFAULT 1000)
RETURNS TABLE (state text, page bigint, items int[], older_vectors bytea)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
WITH claimed AS MATERIALIZED (
    SELECT min(n.embver_page) AS page, array_agg(n.embver_item ORDER BY n.embver_item) AS items,
        string_agg(substring(vector_send(n.embver_vector) FROM 5), ''::bytea
            ORDER BY n.embver_item) AS older_vectors
    FROM {{store}}.claim_norms(p_bridge, p_limit) AS n
)

SELECT b.state, c.page, c.items, c.older_vectors
FROM claimed AS c LEFT JOIN {{store}}.bridge AS b ON b.bridge_id = p_bridge;
$fn$;
COMMENT ON FUNCTION {{store}}.claim_norm_page(bigint, int) IS
'claim_norms as one row: the vectors one after the other, as big-endian float4, and the state of the'
' bridge before; page is NULL where there is none to do.';

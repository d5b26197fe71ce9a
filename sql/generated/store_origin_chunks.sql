-- The other chunks of what a page of the walk copied from another version.
CREATE OR REPLACE FUNCTION {{store}}.copy_chunks(p_walk {{store}}.walk, p_lease bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_from text := '';
BEGIN
    IF ({{keys:p_walk}}) IS NOT NULL THEN
        v_from := $sql$AND ({{keys:e}}) > ({{keys:($1)}})$sql$;
    END IF;
    -- Chunk 0 was written just now and is ours until the end. Where the parent has gone on to other
    -- content meanwhile, or a vector of it does not fit, the encoder does the document.
    EXECUTE $sql$
        WITH copied AS MATERIALIZED (
            SELECT {{keys:e}}, e.content_hash FROM {{store}}.embedding AS e
            WHERE e.chunk = 0 AND e.encoded_lease = $2
                AND ({{keys:e}}) <= (SELECT {{keys:w}} FROM {{store}}.walk AS w) $sql$ || v_from || $sql$
        ), part AS MATERIALIZED (
            SELECT p.* FROM copied AS c
            INNER JOIN {{store}}.origin_chunk AS p
                ON {{match:p,c}} AND p.content_hash = c.content_hash
            WHERE NOT EXISTS (
                SELECT FROM {{store}}.origin_chunk AS p
                WHERE {{match:p,c}} AND ({{fits}}) IS NOT TRUE)
        ), left_over AS (
            DELETE FROM {{store}}.embedding AS e USING part AS p
            WHERE {{match:e,p}} AND p.chunk = 0 AND e.chunk >= p.chunk_count
        ), written AS (
            INSERT INTO {{store}}.embedding AS e ({{keys}}, chunk, embedding, content_hash,
                encoded_lease, chunk_from, chunk_to, chunk_count)
            SELECT {{keys:p}}, p.chunk, p.embedding::{{element_type}}({{dimensions}}),
                p.content_hash, $2, p.chunk_from, p.chunk_to, p.chunk_count
            FROM part AS p
            ON CONFLICT ({{keys}}, chunk) DO UPDATE SET embedding = excluded.embedding,
                content_hash = excluded.content_hash, encoded_at = excluded.encoded_at,
                encoded_lease = excluded.encoded_lease, chunk_from = excluded.chunk_from,
                chunk_to = excluded.chunk_to, chunk_count = excluded.chunk_count
        ), lost AS (
            UPDATE {{store}}.embedding AS e SET content_hash = '\x' FROM copied AS c
            WHERE {{match:e,c}} AND e.chunk = 0
                AND NOT EXISTS (SELECT FROM part AS p WHERE {{match:p,c}})
            RETURNING {{keys:e}}
        )
        INSERT INTO {{store}}.job ({{keys}}, job_priority) SELECT {{keys:l}}, 100 FROM lost AS l
        $sql$ USING p_walk, p_lease;
END
$fn$;
COMMENT ON FUNCTION {{store}}.copy_chunks({{store}}.walk, bigint) IS
'Completes the documents of which copy_page has copied the first chunk.';

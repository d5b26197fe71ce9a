-- Filling one store from existing vectors. The view `origin` of the store, made with the version,
-- reads them; it is there for as long as there is something to copy.

CREATE OR REPLACE FUNCTION {{store}}.copy_page(p_walk {{store}}.walk, p_limit int)
RETURNS TABLE (seen bigint, enqueued bigint)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_lease bigint;
    v_from text := '';
    v_copied bigint;
BEGIN
    -- The copy stands in line with the leases. Its number is drawn before it looks, so a change that
    -- it does not see is claimed under a larger one, and what that writes stays.
    v_lease := nextval(pg_get_serial_sequence({{store_literal}} || '.lease', 'lease_seq'));
    IF ({{keys:p_walk}}) IS NOT NULL THEN
        v_from := $sql$WHERE ({{keys:d}}) > ({{keys:($1)}})$sql$;
    END IF;
    -- One statement, so one snapshot: a change is seen with its trace (a job, a lease, a dead
    -- letter, a vector) or not at all. The lock only keeps the row in being; text and vector are
    -- what the snapshot has, never what the row was changed to before the lock was had.
    EXECUTE $sql$
        WITH page AS MATERIALIZED (
            SELECT {{keys:d}}, embver.hash(d.content) AS content_hash, d.embedding, d.embver_made_of,
                d.embver_row_xid
            FROM {{store}}.origin AS d $sql$ || v_from || $sql$
            ORDER BY {{keys:d}} LIMIT $2
        ), present AS (
            SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid,
                t.touched_from, t.touched_until
            FROM {{store}}.origin_copy AS t
        ), believed AS MATERIALIZED (
            SELECT {{keys:p}}, p.content_hash, p.embedding FROM page AS p, present AS x
            WHERE p.content_hash IS NOT NULL AND CASE WHEN vector_dims(p.embedding) = {{dimensions}}
                THEN {{fits}} ELSE false END
                AND NOT EXISTS (SELECT FROM {{store}}.embedding AS e
                    WHERE {{match:e,p}} AND (e.content_hash = p.content_hash OR p.embver_made_of IS NULL))
                AND CASE WHEN p.embver_made_of IS NOT NULL THEN p.embver_made_of = p.content_hash ELSE
                    -- Untouched since the capture began, as far as anybody has noted.
                    NOT EXISTS (SELECT FROM {{store}}.job AS j
                        WHERE {{match:j,p}}) /* no job */
                    AND NOT EXISTS (
                        SELECT FROM {{store}}.lease AS embver_lease,
                            {{store}}.lease_items(embver_lease) AS i
                        WHERE {{match:i,p}}) /* no lease */
                    AND NOT EXISTS (SELECT FROM {{store}}.dead_letter AS b
                        WHERE {{match:b,p}}) /* no dead letter */
                    -- A row knows 32 bits of its transaction's number.
                    AND (x.xid - ((x.xid - p.embver_row_xid) & 4294967295) < x.touched_from
                        OR x.xid - ((x.xid - p.embver_row_xid) & 4294967295)
                            >= x.touched_until) /* not by an old writer */
                END
        ), locked AS MATERIALIZED (
            SELECT {{keys:d}} FROM believed AS p
            INNER JOIN {{schema}}.document AS d ON {{match:d,p}}
            FOR KEY SHARE OF d SKIP LOCKED
        ), copied AS (
            INSERT INTO {{store}}.embedding AS e ({{keys}}, embedding, content_hash, encoded_lease)
            SELECT {{keys:p}}, p.embedding::{{element_type}}({{dimensions}}), p.content_hash, $3
            FROM believed AS p INNER JOIN locked AS l ON {{match:l,p}}
            ORDER BY {{keys:p}}
            ON CONFLICT ({{keys}}, chunk) DO UPDATE SET embedding = excluded.embedding,
                content_hash = excluded.content_hash, encoded_at = excluded.encoded_at,
                encoded_lease = excluded.encoded_lease
            WHERE e.encoded_lease < excluded.encoded_lease /* the newer lease wins */
            RETURNING {{keys:e}}
        ), todo AS (
            INSERT INTO {{store}}.job ({{keys}}, job_priority)
            SELECT {{keys:p}}, 100 FROM page AS p
            LEFT JOIN {{store}}.embedding AS e ON {{match:e,p}} AND e.chunk = 0
            WHERE p.content_hash IS DISTINCT FROM e.content_hash
                AND NOT EXISTS (SELECT FROM copied AS c WHERE {{match:c,p}})
            RETURNING 1
        ), moved AS (
            UPDATE {{store}}.walk AS w SET ({{keys}}) = (SELECT {{keys:l}} FROM page AS l
                ORDER BY {{keys_descending:l}} LIMIT 1)
            WHERE EXISTS (SELECT FROM page)
        )
        SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM todo),
            (SELECT count(*) FROM copied)
        $sql$
    INTO seen, enqueued, v_copied USING p_walk, p_limit, v_lease;
    {{copy_chunks}}
    UPDATE {{store}}.origin_copy AS t SET copied = t.copied + v_copied WHERE v_copied > 0;
    RETURN NEXT;
END
$fn$;
COMMENT ON FUNCTION {{store}}.copy_page({{store}}.walk, int) IS
'One bounded step of the walk over a version with an origin: copies the vectors that can be believed'
' of the next p_limit documents, and enqueues the others for the encoder.';

CREATE OR REPLACE FUNCTION {{store}}.sample_origin(p_limit int)
RETURNS TABLE (content text, dimensions int, vector_values real[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF to_regclass({{store_literal}} || '.origin') IS NOT NULL THEN
        -- Some of those chosen may have no text.
        RETURN QUERY EXECUTE $sql$
            WITH chosen AS MATERIALIZED (
                SELECT {{keys:d}} FROM {{store}}.origin AS d WHERE d.embver_has_vector
                ORDER BY random() LIMIT 4 * $1
            )
            SELECT {{sampled_text}}, vector_dims(d.embedding), d.embedding::real[]
            FROM chosen AS c INNER JOIN {{store}}.origin AS d ON {{match:d,c}}
            WHERE d.content IS NOT NULL AND d.embedding IS NOT NULL
                AND (d.embver_made_of IS NULL OR d.embver_made_of = embver.hash(d.content))
            LIMIT $1
            $sql$ USING p_limit;
    END IF;
END
$fn$;
COMMENT ON FUNCTION {{store}}.sample_origin(int) IS
'Texts and vectors of up to p_limit random documents that have both in the origin. Reads the keys of'
' the whole origin.';

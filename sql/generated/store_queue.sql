-- The queue of one store: claim, complete, give back. Security definer, owned by the owner of the
-- source: under row-level security a worker would take a hidden row for a deleted one.

CREATE OR REPLACE FUNCTION {{store}}.lease_items(p_lease {{store}}.lease)
RETURNS TABLE (
    ordinal int, {{key_attributes}}, job_priority smallint, job_attempts int,
    job_enqueued_at timestamptz
)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
SELECT u.ordinal::int, {{keys:u}}, u.job_priority, u.job_attempts, u.job_enqueued_at
FROM unnest({{keys:(p_lease)}}, (p_lease).job_priority, (p_lease).job_attempts,
    (p_lease).job_enqueued_at) WITH ORDINALITY
    AS u ({{keys}}, job_priority, job_attempts, job_enqueued_at, ordinal);
END;
COMMENT ON FUNCTION {{store}}.lease_items({{store}}.lease) IS
'The documents of a lease, numbered as the worker knows them.';

CREATE OR REPLACE FUNCTION {{store}}.requeue_lease(
    p_lease {{store}}.lease, p_done int[], p_delay interval, p_failed int
) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
INSERT INTO {{store}}.job
    ({{keys}}, job_priority, job_attempts, job_enqueued_at, job_due_at)
SELECT {{keys:i}}, i.job_priority, i.job_attempts + p_failed, i.job_enqueued_at,
    clock_timestamp() + p_delay
FROM {{store}}.lease_items(p_lease) AS i
WHERE i.ordinal <> ALL (p_done);
$fn$;
COMMENT ON FUNCTION {{store}}.requeue_lease({{store}}.lease, int[], interval, int) IS
'Puts the documents of a lease that are not done back into the queue.';

CREATE OR REPLACE FUNCTION {{store}}.expire_lease(p_lease {{store}}.lease) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
-- Only what has something to encode can have killed a worker; the rest is settled by a completion.
WITH vanished AS MATERIALIZED (
    SELECT i.* FROM {{store}}.lease_items(p_lease) AS i
    INNER JOIN {{schema}}.document AS d ON {{match:d,i}}
    LEFT JOIN {{store}}.embedding AS e ON {{match:e,i}} AND e.chunk = 0
    WHERE (p_lease).lease_is_begun AND i.job_attempts + 1 >= 5 AND d.content IS NOT NULL
        AND (embver.hash(d.content) IS DISTINCT FROM e.content_hash
            OR e.encoded_lease < (SELECT w.walk_renew_lease FROM {{store}}.walk AS w))
), buried AS (
    -- Without a hash: nobody knows which content it was.
    INSERT INTO {{store}}.dead_letter AS b ({{keys}}, dead_error, dead_attempts)
    SELECT {{keys:v}}, format('the worker died or vanished %s times while encoding it',
        v.job_attempts + 1), v.job_attempts + 1
    FROM vanished AS v
    ORDER BY {{keys:v}}
    ON CONFLICT ({{keys}}) DO UPDATE SET dead_hash = excluded.dead_hash,
        dead_error = excluded.dead_error, dead_attempts = excluded.dead_attempts,
        dead_at = excluded.dead_at, waived_at = NULL, waived_by = NULL, waived_reason = NULL
)
SELECT {{store}}.requeue_lease(p_lease, ARRAY(SELECT v.ordinal FROM vanished AS v), '0',
    (p_lease).lease_is_begun::int);
$fn$;
COMMENT ON FUNCTION {{store}}.expire_lease({{store}}.lease) IS
'Puts the documents of a lease whose worker is gone back into the queue; where its encoder had'
' got them, one attempt older, and at the fifth they become dead letters instead.';

CREATE OR REPLACE FUNCTION {{store}}.claim(
    p_worker uuid, p_limit int, p_lease interval DEFAULT '5 min', p_bytes bigint DEFAULT 16777216
) RETURNS TABLE (lease bigint, item int, content text, content_hash bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s'
AS $fn$
DECLARE
    v_lease {{store}}.lease;
BEGIN
    IF NOT EXISTS (SELECT FROM embver_internal.writable_versions() AS w
        WHERE w.collection = {{collection}} AND w.version = {{version}}) THEN
        RETURN;
    END IF;
    FOR v_lease IN
        DELETE FROM {{store}}.lease AS l WHERE l.lease_seq IN (
            SELECT x.lease_seq FROM {{store}}.lease AS x
            WHERE x.lease_expires_at < clock_timestamp()
            ORDER BY x.lease_seq LIMIT 4 FOR UPDATE SKIP LOCKED)
        RETURNING l.*
    LOOP
        PERFORM {{store}}.expire_lease(v_lease);
    END LOOP;

    -- A document whose worker died twice is leased alone when its turn comes: if it is what kills
    -- them, it takes no innocent with it.
    WITH candidate AS MATERIALIZED (
        SELECT x.ctid, x.job_priority, x.job_seq, x.job_attempts >= 2 AS is_suspect
        FROM {{store}}.job AS x WHERE x.job_due_at <= clock_timestamp()
        ORDER BY x.job_priority, x.job_seq LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), foremost AS MATERIALIZED (
        SELECT c.ctid, c.is_suspect FROM candidate AS c ORDER BY c.job_priority, c.job_seq LIMIT 1
    ), picked AS (
        DELETE FROM {{store}}.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT f.ctid FROM foremost AS f WHERE f.is_suspect
            UNION ALL
            SELECT c.ctid FROM candidate AS c
            WHERE NOT c.is_suspect AND EXISTS (SELECT FROM foremost AS f WHERE NOT f.is_suspect)))
        RETURNING j.*
    ), document AS (
        SELECT {{keys:p}}, min(p.job_priority) AS job_priority, max(p.job_attempts) AS job_attempts,
            min(p.job_enqueued_at) AS job_enqueued_at,
            row_number() OVER (ORDER BY min(p.job_priority), min(p.job_seq)) AS ordinal
        FROM picked AS p GROUP BY {{keys:p}}
    )
    INSERT INTO {{store}}.lease AS l
        (lease_worker, lease_expires_at, {{keys}}, job_priority, job_attempts, job_enqueued_at)
    SELECT p_worker, clock_timestamp() + p_lease, {{key_aggregates}},
        array_agg(x.job_priority ORDER BY x.ordinal), array_agg(x.job_attempts ORDER BY x.ordinal),
        array_agg(x.job_enqueued_at ORDER BY x.ordinal)
    FROM document AS x HAVING count(*) > 0
    RETURNING l.* INTO v_lease;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- Content only for what must be encoded, and only so much as a worker may hold at once: an
    -- item that comes back without a vector goes back into the queue.
    RETURN QUERY
    SELECT v_lease.lease_seq, i.ordinal,
        CASE WHEN (h.content_hash IS DISTINCT FROM e.content_hash
                OR e.encoded_lease < (SELECT w.walk_renew_lease FROM {{store}}.walk AS w))
            AND (i.ordinal = 1 OR sum(length(d.content)) OVER (ORDER BY i.ordinal) <= p_bytes)
            THEN d.content END,
        h.content_hash
    FROM {{store}}.lease_items(v_lease) AS i
    LEFT JOIN {{schema}}.document AS d ON {{match:d,i}}
    LEFT JOIN {{store}}.embedding AS e ON {{match:e,i}} AND e.chunk = 0
    CROSS JOIN LATERAL (SELECT embver.hash(d.content) AS content_hash) AS h
    ORDER BY i.ordinal;
END
$fn$;
COMMENT ON FUNCTION {{store}}.claim(uuid, int, interval, bigint) IS
'Leases up to p_limit documents: their jobs become one row of the ledger. Content is NULL where'
' nothing is to be encoded; completing the lease settles those too.';

CREATE OR REPLACE FUNCTION {{store}}.complete(
    p_lease bigint, p_items int[], p_hashes bytea[], p_vectors {{element_type}} [],
    p_errors text[] DEFAULT NULL,
    p_chunks int[] DEFAULT NULL, p_from int[] DEFAULT NULL, p_to int[] DEFAULT NULL
) RETURNS TABLE (written int, failed int, returned int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s'
AS $fn$
#variable_conflict use_column
DECLARE
    v_lease {{store}}.lease;
    v_items int[] := CASE WHEN p_chunks IS NULL THEN p_items
        ELSE ARRAY(SELECT DISTINCT unnest(p_items)) END;
    v_done int[];
    v_settled int[];
BEGIN
    DELETE FROM {{store}}.lease AS l WHERE l.lease_seq = p_lease RETURNING l.* INTO v_lease;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM020', format('lease %s is lost', p_lease),
            jsonb_build_object('lease', p_lease, 'store', {{store_literal}}),
            'nothing was written; claim again');
    END IF;

    -- Source rows first, never waiting: who is locked is left for later. KEY SHARE makes a DELETE
    -- wait for the end of this transaction, so no vector outlives its document.
    WITH locked AS MATERIALIZED (
        SELECT i.ordinal, {{keys:d}}, d.content
        FROM {{store}}.lease_items(v_lease) AS i
        INNER JOIN {{schema}}.document AS d ON {{match:d,i}}
        FOR KEY SHARE OF d SKIP LOCKED
    ), fresh AS MATERIALIZED (
        SELECT l.*, embver.hash(l.content) AS content_hash FROM locked AS l
    ), result AS MATERIALIZED (
        -- One row a document: the whole of it, or chunk 0, which stands for all.
        SELECT {{keys:f}}, r.ordinal, r.content_hash, r.embedding, r.error, r.chunk_from, r.chunk_to,
            n.chunk_count
        FROM unnest(p_items, p_hashes, p_vectors, p_errors, p_chunks, p_from, p_to)
            AS r (ordinal, content_hash, embedding, error, chunk, chunk_from, chunk_to)
        INNER JOIN fresh AS f ON f.ordinal = r.ordinal
        LEFT JOIN (
            SELECT u.ordinal, count(u.chunk)::int AS chunk_count
            FROM unnest(CASE WHEN p_chunks IS NOT NULL THEN p_items END, p_chunks)
                AS u (ordinal, chunk)
            GROUP BY u.ordinal) AS n ON n.ordinal = r.ordinal
        WHERE f.content_hash = r.content_hash /* the hash check */
            AND coalesce(r.chunk, 0) = 0
    ), upserted AS (
        INSERT INTO {{store}}.embedding AS e ({{keys}}, embedding, content_hash, encoded_lease,
            chunk_from, chunk_to, chunk_count)
        SELECT {{keys:r}}, r.embedding, r.content_hash, p_lease, r.chunk_from, r.chunk_to,
            r.chunk_count
        FROM result AS r
        WHERE r.error IS NULL AND r.embedding IS NOT NULL
        ORDER BY {{keys:r}}
        ON CONFLICT ({{keys}}, chunk) DO UPDATE SET embedding = excluded.embedding,
            content_hash = excluded.content_hash, encoded_at = excluded.encoded_at,
            encoded_lease = excluded.encoded_lease, chunk_from = excluded.chunk_from,
            chunk_to = excluded.chunk_to, chunk_count = excluded.chunk_count
        WHERE e.encoded_lease < excluded.encoded_lease /* the newer lease wins */
    ), unchanged AS (
        -- Also what is only found to be right must outrank an older lease still under way.
        UPDATE {{store}}.embedding AS e SET encoded_lease = p_lease
        FROM fresh AS f
        WHERE {{match:e,f}} AND e.chunk = 0 AND e.content_hash = f.content_hash
            AND e.encoded_lease < p_lease
            AND NOT EXISTS (SELECT FROM result AS r WHERE r.ordinal = f.ordinal)
            AND e.encoded_lease >= coalesce(
                (SELECT w.walk_renew_lease FROM {{store}}.walk AS w), 0) /* not to be renewed */
        RETURNING f.ordinal
    ), current AS (
        SELECT f.ordinal FROM fresh AS f
        INNER JOIN {{store}}.embedding AS e ON {{match:e,f}} AND e.chunk = 0
        WHERE e.content_hash = f.content_hash AND e.encoded_lease >= p_lease
    ), buried AS (
        INSERT INTO {{store}}.dead_letter AS b ({{keys}}, dead_hash, dead_error, dead_attempts)
        SELECT {{keys:r}}, r.content_hash, r.error, v_lease.job_attempts[r.ordinal] + 1
        FROM result AS r WHERE r.error IS NOT NULL
        ON CONFLICT ({{keys}}) DO UPDATE SET dead_hash = excluded.dead_hash,
            dead_error = excluded.dead_error, dead_attempts = excluded.dead_attempts,
            dead_at = excluded.dead_at, waived_at = NULL, waived_by = NULL, waived_reason = NULL
    ), settled AS (
        SELECT r.ordinal, r.error IS NULL AS is_written, r.error IS NOT NULL AS is_failed
        FROM result AS r WHERE r.embedding IS NOT NULL OR r.error IS NOT NULL
        UNION ALL SELECT u.ordinal, false, false FROM unchanged AS u
        UNION ALL SELECT c.ordinal, false, false FROM current AS c
    )
    SELECT coalesce(array_agg(s.ordinal), '{}'), count(*) FILTER (WHERE s.is_written),
        count(*) FILTER (WHERE s.is_failed)
    INTO v_done, written, failed FROM settled AS s;

    IF p_chunks IS NOT NULL THEN
        -- Chunk 0 is ours until the end: who wrote this document before has ended and is seen by
        -- this statement, and who comes after waits.
        WITH own AS MATERIALIZED (
            SELECT i.ordinal, {{keys:e}}, e.content_hash, e.chunk_count
            FROM {{store}}.lease_items(v_lease) AS i
            INNER JOIN {{store}}.embedding AS e ON {{match:e,i}} AND e.chunk = 0
            WHERE i.ordinal = ANY (v_items) AND e.encoded_lease = p_lease /* its chunk 0 won */
        ), left_over AS (
            DELETE FROM {{store}}.embedding AS e USING own AS o
            WHERE {{match:e,o}} AND e.chunk >= o.chunk_count /* chunks too many */
        )
        INSERT INTO {{store}}.embedding AS e ({{keys}}, chunk, embedding, content_hash,
            encoded_lease, chunk_from, chunk_to, chunk_count)
        SELECT {{keys:o}}, r.chunk, r.embedding, r.content_hash, p_lease, r.chunk_from, r.chunk_to,
            o.chunk_count
        FROM unnest(p_items, p_hashes, p_vectors, p_errors, p_chunks, p_from, p_to)
            AS r (ordinal, content_hash, embedding, error, chunk, chunk_from, chunk_to)
        INNER JOIN own AS o ON o.ordinal = r.ordinal AND o.content_hash = r.content_hash
        WHERE r.chunk > 0
        ORDER BY {{keys:o}}, r.chunk
        ON CONFLICT ({{keys}}, chunk) DO UPDATE SET embedding = excluded.embedding,
            content_hash = excluded.content_hash, encoded_at = excluded.encoded_at,
            encoded_lease = excluded.encoded_lease, chunk_from = excluded.chunk_from,
            chunk_to = excluded.chunk_to, chunk_count = excluded.chunk_count;
    END IF;

    -- No content, no vector. A completion under way holds KEY SHARE on the row and may be about to
    -- insert what it encoded before: FOR UPDATE skips such a row, and the job comes back. Where it
    -- ended just now, only a later statement sees what it wrote.
    SELECT coalesce(array_agg(x.ordinal), '{}') INTO v_settled
    FROM (
        SELECT i.ordinal FROM {{store}}.lease_items(v_lease) AS i
        INNER JOIN {{schema}}.document AS d ON {{match:d,i}}
        WHERE i.ordinal <> ALL (v_done) AND d.content IS NULL
        FOR UPDATE OF d SKIP LOCKED) AS x;
    IF v_settled <> '{}' THEN
        DELETE FROM {{store}}.embedding AS e USING {{store}}.lease_items(v_lease) AS i
        WHERE {{match:e,i}} AND i.ordinal = ANY (v_settled);
        v_done := v_done || v_settled;
    END IF;

    -- The document is gone: so is its vector, unless a newer lease wrote it. An application may
    -- have the key again, and be deleting it: what it has locked is left for later.
    WITH gone AS MATERIALIZED (
        SELECT i.* FROM {{store}}.lease_items(v_lease) AS i
        WHERE i.ordinal <> ALL (v_done)
            AND NOT EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,i}})
    ), orphan AS MATERIALIZED (
        SELECT {{keys:e}}, e.chunk, g.ordinal FROM gone AS g
        INNER JOIN {{store}}.embedding AS e ON {{match:e,g}}
        WHERE e.encoded_lease < p_lease
        FOR UPDATE OF e SKIP LOCKED
    ), removed AS (
        -- All chunks of a document or none: chunk 0 stands for it.
        DELETE FROM {{store}}.embedding AS e USING orphan AS o
        WHERE {{match:e,o}} AND e.chunk = o.chunk AND NOT EXISTS (
            SELECT FROM {{store}}.embedding AS x
            WHERE {{match:x,o}} AND x.chunk = 0 AND NOT EXISTS (
                SELECT FROM orphan AS h WHERE h.ordinal = o.ordinal AND h.chunk = 0))
    )
    SELECT coalesce(array_agg(g.ordinal), '{}') INTO v_settled
    FROM gone AS g
    WHERE NOT EXISTS (
        SELECT FROM {{store}}.embedding AS e
        WHERE {{match:e,g}} AND e.encoded_lease < p_lease AND NOT EXISTS (
            SELECT FROM orphan AS o WHERE o.ordinal = g.ordinal AND o.chunk = e.chunk));
    v_done := v_done || v_settled;

    DELETE FROM {{store}}.dead_letter AS b USING {{store}}.lease_items(v_lease) AS i
    WHERE {{match:b,i}} AND i.ordinal = ANY (v_done)
        AND NOT EXISTS (SELECT FROM unnest(p_items, p_errors) AS r (ordinal, error)
            WHERE r.ordinal = i.ordinal AND r.error IS NOT NULL);
    -- What the worker encoded, or was told to be refused, did not kill it.
    v_lease.job_attempts := ARRAY(
        SELECT CASE WHEN i.ordinal = ANY (v_items) THEN 0 ELSE i.job_attempts END
        FROM {{store}}.lease_items(v_lease) AS i ORDER BY i.ordinal);
    PERFORM {{store}}.requeue_lease(v_lease, v_done, '0.2 s', 0);
    returned := cardinality(v_lease.job_attempts) - (
        SELECT count(DISTINCT x.ordinal) FROM unnest(v_done) AS x (ordinal));
    RETURN NEXT;
END
$fn$;
COMMENT ON FUNCTION {{store}}.complete(
    bigint, int[], bytea[], {{element_type}} [], text[], int[], int[], int[]
) IS
'Ends a lease: writes vectors whose content is still the one encoded, buries failures, removes the'
' vectors of documents that are gone, and puts the rest back. A document in chunks has one element'
' for each, with all of them at once. VM020 when the lease is lost.';

CREATE OR REPLACE FUNCTION {{store}}.give_back(
    p_lease bigint, p_delay interval DEFAULT '0', p_failed int DEFAULT 0
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_lease {{store}}.lease;
BEGIN
    DELETE FROM {{store}}.lease AS l WHERE l.lease_seq = p_lease RETURNING l.* INTO v_lease;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM {{store}}.requeue_lease(v_lease, '{}', p_delay, p_failed);
    RETURN true;
END
$fn$;
COMMENT ON FUNCTION {{store}}.give_back(bigint, interval, int) IS
'Returns a lease to the queue, due after p_delay; false when it was lost already.';

CREATE OR REPLACE FUNCTION {{store}}.begin_lease(p_lease bigint) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
WITH begun AS (
    UPDATE {{store}}.lease AS l SET lease_is_begun = true
    WHERE l.lease_seq = p_lease AND l.lease_expires_at >= clock_timestamp()
        AND EXISTS (SELECT FROM embver_internal.writable_versions() AS w
            WHERE w.collection = {{collection}} AND w.version = {{version}})
    RETURNING 1
)

SELECT EXISTS (SELECT FROM begun);
$fn$;
COMMENT ON FUNCTION {{store}}.begin_lease(bigint) IS
'Called before a lease is encoded: if its worker vanishes now, these documents are suspects. False'
' where the lease is lost or the version is not written at present: give it back.';

CREATE OR REPLACE FUNCTION {{store}}.extend_leases(
    p_worker uuid, p_lease interval, p_leases bigint[] DEFAULT NULL
) RETURNS int
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
WITH extended AS (
    UPDATE {{store}}.lease AS l SET lease_expires_at = clock_timestamp() + p_lease
    WHERE l.lease_worker = p_worker AND l.lease_expires_at >= clock_timestamp()
        AND (p_leases IS NULL OR l.lease_seq = ANY (p_leases))
    RETURNING 1
)

SELECT count(*)::int FROM extended;
$fn$;
COMMENT ON FUNCTION {{store}}.extend_leases(uuid, interval, bigint[]) IS
'Heartbeat: moves the expiry of those of the worker''s leases that it knows of (default all) and'
' that have not expired.';

CREATE OR REPLACE FUNCTION {{store}}.queue_status()
RETURNS TABLE (
    ready bigint, waiting bigint, leased bigint, dead bigint, waived bigint,
    oldest_at timestamptz, next_due_at timestamptz
)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s'
AS $fn$
SELECT
    count(*) FILTER (WHERE j.job_due_at <= clock_timestamp()),
    count(*) FILTER (WHERE j.job_due_at > clock_timestamp()),
    (SELECT coalesce(sum(cardinality(l.job_attempts)), 0) FROM {{store}}.lease AS l),
    (SELECT count(*) FROM {{store}}.dead_letter AS b WHERE b.waived_at IS NULL
        AND EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,b}})),
    (SELECT count(*) FROM {{store}}.dead_letter AS b WHERE b.waived_at IS NOT NULL
        AND EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,b}})),
    least(min(j.job_enqueued_at), (
        SELECT min(u.enqueued_at)
        FROM {{store}}.lease AS l, unnest(l.job_enqueued_at) AS u (enqueued_at))),
    least(min(j.job_due_at) FILTER (WHERE j.job_due_at > clock_timestamp()),
        (SELECT min(l.lease_expires_at) FROM {{store}}.lease AS l))
FROM {{store}}.job AS j;
$fn$;
COMMENT ON FUNCTION {{store}}.queue_status() IS 'Counts of the queue, the ledger and dead letters.';

CREATE OR REPLACE FUNCTION {{store}}.is_owed(p_since timestamptz) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT EXISTS (
        SELECT FROM {{store}}.job AS j
        WHERE j.job_enqueued_at <= p_since OR j.job_priority >= 100)
    OR EXISTS (
        SELECT FROM {{store}}.lease AS l
        WHERE p_since >= ANY (l.job_enqueued_at) OR 100 <= ANY (l.job_priority));
$fn$;
COMMENT ON FUNCTION {{store}}.is_owed(timestamptz) IS
'Whether anything waits that was enqueued before, or by the backfill whenever.';

CREATE OR REPLACE FUNCTION {{store}}.clear_queue() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
-- Not where a restart would copy: a job tells which document has changed.
DELETE FROM {{store}}.job WHERE to_regclass({{store_literal}} || '.origin') IS NULL;
$fn$;
COMMENT ON FUNCTION {{store}}.clear_queue() IS
'Forgets the queue of a version that is not written any more; a restart walks again.';

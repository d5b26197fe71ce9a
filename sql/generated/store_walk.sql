-- Filling and checking one store: the barrier, the walk over the source, verify, requeue.

CREATE OR REPLACE FUNCTION {{store}}.writers() RETURNS text[]
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
FROM pg_locks AS l
WHERE l.locktype = 'relation' AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.relation = ANY (ARRAY(
        SELECT r.relation::oid
        FROM embver_internal.collection AS c, embver_internal.capture_relations(c.source) AS r
        WHERE c.name = {{collection}}))
    AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
        'AccessExclusiveLock');
$fn$;
COMMENT ON FUNCTION {{store}}.writers() IS
'Transactions that hold a lock on the source under which they may have written it.';

CREATE OR REPLACE FUNCTION {{store}}.lock_holders(p_table text) RETURNS text[]
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
FROM pg_locks AS l
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.relation = format('%s.%I', {{store_literal}}, p_table)::regclass
    AND l.mode = 'RowExclusiveLock';
$fn$;
COMMENT ON FUNCTION {{store}}.lock_holders(text) IS
'Other transactions that are writing a table of the store.';

CREATE OR REPLACE FUNCTION {{store}}.walk_step(p_limit int DEFAULT 1000)
RETURNS TABLE (phase text, seen bigint, enqueued bigint, waiting_for text[])
-- Only a lock on the whole table is waited for: a TRUNCATE or an ALTER TABLE not yet committed.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s'
AS $fn$
#variable_conflict use_column
DECLARE
    v_walk {{store}}.walk;
    v_writers text[];
    v_from text := '';
    v_seen bigint;
    v_enqueued bigint;
    v_requested boolean;
    v_renewal boolean;
BEGIN
    SELECT w.* INTO v_walk FROM {{store}}.walk AS w FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM embver_internal.writable_versions() AS v
        WHERE v.collection = {{collection}} AND v.version = {{version}}) THEN
        RETURN;
    END IF;

    WITH taken AS (DELETE FROM {{store}}.rewalk RETURNING is_renewal)
    SELECT count(*) > 0, coalesce(bool_or(t.is_renewal), false) INTO v_requested, v_renewal
    FROM taken AS t;
    IF v_requested THEN
        UPDATE {{store}}.walk AS w
        SET walk_phase = 'pending', walk_sweep = true, walk_ended_at = NULL,
            walk_renewal = w.walk_renewal OR v_renewal,
            walk_renew_lease = CASE WHEN v_renewal
                THEN nextval(pg_get_serial_sequence({{store_literal}} || '.lease', 'lease_seq'))
                ELSE w.walk_renew_lease END;
        v_walk.walk_phase := 'pending';
    END IF;

    CASE v_walk.walk_phase
        WHEN 'pending' THEN
            -- The capture is in place and committed: whoever writes from now on runs it. Older
            -- writers are noted once, and the walk begins when the last of them has ended. A commit
            -- is visible a moment before other backends are told, and before its locks are gone.
            UPDATE {{store}}.walk SET walk_phase = 'barrier', walk_barrier = {{store}}.writers(),
                ({{keys}}) = (SELECT {{keys:n}} FROM (SELECT (NULL::{{store}}.walk).*) AS n),
                walk_seen = 0, walk_enqueued = 0, walk_started_at = clock_timestamp()
            WHERE {{store}}.lock_holders('walk') = '{}';
        WHEN 'barrier' THEN
            -- '-1/…' are prepared transactions after a restart of the server, which names them so.
            v_writers := {{store}}.writers();
            v_writers := ARRAY(
                SELECT w FROM unnest(v_writers) AS u (w)
                WHERE w = ANY (v_walk.walk_barrier) OR starts_with(w, '-1/'));
            IF v_writers = '{}' THEN
                -- A completion that began before their end may have looked at older content.
                v_writers := ARRAY(
                    SELECT 'completion ' || h
                    FROM unnest({{store}}.lock_holders('lease')) AS u (h));
                IF array_to_string(v_walk.walk_barrier, ' ') LIKE 'completion %' THEN
                    v_writers := ARRAY(
                        SELECT unnest(v_writers) INTERSECT SELECT unnest(v_walk.walk_barrier));
                END IF;
            END IF;
            -- They may have deleted what was written meanwhile: a first filling, too, looks for it.
            UPDATE {{store}}.walk AS w SET walk_barrier = v_writers,
                walk_phase = CASE WHEN v_writers = '{}' THEN 'documents' ELSE 'barrier' END,
                walk_sweep = w.walk_sweep OR EXISTS (SELECT FROM {{store}}.embedding),
                -- Completions that did not know of it may have given old vectors younger leases.
                walk_renewal = w.walk_renewal AND v_writers <> '{}',
                walk_renew_lease = CASE WHEN w.walk_renewal AND v_writers = '{}'
                    THEN nextval(pg_get_serial_sequence({{store_literal}} || '.lease', 'lease_seq'))
                    ELSE w.walk_renew_lease END;
            UPDATE {{store}}.origin_copy
            SET touched_until = pg_snapshot_xmax(pg_current_snapshot())::text::bigint
            WHERE v_writers = '{}' AND touched_until IS NULL;
        WHEN 'documents', 'orphans' THEN
            IF ({{keys:v_walk}}) IS NOT NULL THEN
                v_from := $sql$WHERE ({{keys:d}}) > ({{keys:($1)}})$sql$;
            END IF;
            -- LIMIT before the anti-join: a step costs the same wherever it stands.
            EXECUTE CASE
                WHEN v_walk.walk_phase = 'documents'
                    AND to_regclass({{store_literal}} || '.origin') IS NOT NULL
                    AND v_walk.walk_renew_lease IS NULL
                THEN $sql$SELECT c.seen, c.enqueued FROM {{store}}.copy_page($1, $2) AS c$sql$
                WHEN v_walk.walk_phase = 'documents' THEN $sql$
                WITH page AS MATERIALIZED (
                    SELECT {{keys:d}}, d.content FROM {{schema}}.document AS d $sql$ || v_from || $sql$
                    ORDER BY {{keys:d}} LIMIT $2
                ), todo AS (
                    INSERT INTO {{store}}.job ({{keys}}, job_priority)
                    SELECT {{keys:p}}, 100 FROM page AS p
                    LEFT JOIN {{store}}.embedding AS e ON {{match:e,p}} AND e.chunk = 0
                    WHERE (embver.hash(p.content) IS DISTINCT FROM e.content_hash
                            OR e.encoded_lease < ($1).walk_renew_lease)
                        -- What killed workers waits for an edit or a requeue, and no other walk.
                        AND NOT EXISTS (SELECT FROM {{store}}.dead_letter AS b
                            WHERE {{match:b,p}} AND b.dead_hash IS NULL)
                    RETURNING 1
                ), moved AS (
                    UPDATE {{store}}.walk AS w SET ({{keys}}) = (SELECT {{keys:l}} FROM page AS l
                        ORDER BY {{keys_descending:l}} LIMIT 1)
                    WHERE EXISTS (SELECT FROM page)
                )
                SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM todo)
                $sql$
            ELSE $sql$
                WITH page AS MATERIALIZED (
                    SELECT DISTINCT {{keys:d}} FROM {{store}}.embedding AS d $sql$ || v_from || $sql$
                    ORDER BY {{keys:d}} LIMIT $2
                ), todo AS (
                    INSERT INTO {{store}}.job ({{keys}}, job_priority)
                    SELECT {{keys:p}}, 100 FROM page AS p
                    WHERE NOT EXISTS (
                        SELECT FROM {{schema}}.document AS x WHERE {{match:x,p}})
                    RETURNING 1
                ), moved AS (
                    UPDATE {{store}}.walk AS w SET ({{keys}}) = (SELECT {{keys:l}} FROM page AS l
                        ORDER BY {{keys_descending:l}} LIMIT 1)
                    WHERE EXISTS (SELECT FROM page)
                )
                SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM todo)
                $sql$ END
            INTO v_seen, v_enqueued USING v_walk, p_limit;
            UPDATE {{store}}.walk AS w SET
                walk_seen = w.walk_seen
                + CASE v_walk.walk_phase WHEN 'documents' THEN v_seen ELSE 0 END,
                walk_enqueued = w.walk_enqueued + v_enqueued;
            IF v_seen < p_limit THEN
                UPDATE {{store}}.walk AS w SET
                    walk_phase = CASE WHEN v_walk.walk_phase = 'documents' AND w.walk_sweep
                        THEN 'orphans' ELSE 'done' END,
                    ({{keys}}) = (SELECT {{keys:n}} FROM (SELECT (NULL::{{store}}.walk).*) AS n),
                    walk_ended_at = CASE WHEN v_walk.walk_phase = 'orphans' OR NOT w.walk_sweep
                        THEN clock_timestamp() END;
            END IF;
        ELSE
            NULL;
    END CASE;
    RETURN QUERY SELECT w.walk_phase, w.walk_seen, w.walk_enqueued, w.walk_barrier
    FROM {{store}}.walk AS w;
END
$fn$;
COMMENT ON FUNCTION {{store}}.walk_step(int) IS
'One bounded step of the backfill: notes the writers to wait for, waits, then enqueues what is'
' missing or stale among the next p_limit keys. Idle when another worker is at it.';

CREATE OR REPLACE FUNCTION {{store}}.start_walk() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
UPDATE {{store}}.origin_copy
SET touched_from = pg_snapshot_xmin(pg_current_snapshot())::text::bigint, touched_until = NULL;
UPDATE {{store}}.walk SET walk_phase = 'pending', walk_ended_at = NULL, walk_barrier = NULL,
    walk_sweep = EXISTS (SELECT FROM {{store}}.embedding);
$fn$;
COMMENT ON FUNCTION {{store}}.start_walk() IS 'Asks the workers to walk the source.';

CREATE OR REPLACE FUNCTION {{store}}.request_rewalk() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
INSERT INTO {{store}}.rewalk DEFAULT VALUES;
$fn$;
COMMENT ON FUNCTION {{store}}.request_rewalk() IS 'Asks the workers to walk the source once more.';

CREATE OR REPLACE FUNCTION {{store}}.walk_status()
RETURNS TABLE (
    phase text, seen bigint, enqueued bigint, waiting_for text[],
    started_at timestamptz, ended_at timestamptz, rewalk_requested boolean
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT w.walk_phase, w.walk_seen, w.walk_enqueued, w.walk_barrier, w.walk_started_at,
    w.walk_ended_at, EXISTS (SELECT FROM {{store}}.rewalk)
FROM {{store}}.walk AS w;
$fn$;
COMMENT ON FUNCTION {{store}}.walk_status() IS 'How far the walk is.';

CREATE OR REPLACE FUNCTION {{store}}.differences()
RETURNS TABLE ({{key_attributes}}, difference text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT {{keys:d}}, CASE WHEN e.chunk IS NULL THEN 'missing' ELSE 'stale' END
FROM {{schema}}.document AS d
LEFT JOIN ({{documents}}) AS e ON {{match:e,d}}
WHERE embver.hash(d.content) IS DISTINCT FROM e.content_hash
UNION ALL
SELECT {{keys:e}}, 'orphaned'
FROM ({{documents}}) AS e
WHERE NOT EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,e}});
$fn$;
COMMENT ON FUNCTION {{store}}.differences() IS
'Every document whose vector is missing, stale (also: has no content any more, or not all of its'
' chunks) or orphaned, in one snapshot. Reads the whole source.';

CREATE OR REPLACE FUNCTION {{store}}.unaccounted(p_max_lag interval) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT count(*)
FROM {{store}}.differences() AS x
WHERE NOT EXISTS (SELECT FROM {{store}}.job AS j
    WHERE {{match:j,x}} AND j.job_enqueued_at > clock_timestamp() - p_max_lag)
    AND NOT EXISTS (SELECT FROM {{store}}.lease AS embver_lease, {{store}}.lease_items(embver_lease) AS i
        WHERE {{match:i,x}} AND i.job_enqueued_at > clock_timestamp() - p_max_lag)
    AND NOT EXISTS (SELECT FROM {{store}}.dead_letter AS b
        WHERE {{match:b,x}});
$fn$;
COMMENT ON FUNCTION {{store}}.unaccounted(interval) IS
'Documents that differ and have neither a young job nor a dead letter.';

CREATE OR REPLACE FUNCTION {{store}}.requeue(p_only text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_count bigint;
BEGIN
    CASE p_only
        WHEN 'failed' THEN
            WITH raised AS (
                DELETE FROM {{store}}.dead_letter AS b WHERE b.waived_at IS NULL RETURNING b.*
            )
            INSERT INTO {{store}}.job ({{keys}}) SELECT {{keys:raised}} FROM raised;
        WHEN 'missing', 'stale' THEN
            WITH found AS MATERIALIZED (
                SELECT x.* FROM {{store}}.differences() AS x
            ), torn AS (
                -- A document that lacks a chunk may have the right hash on the others.
                UPDATE {{store}}.embedding AS e SET content_hash = '\x' FROM found AS x
                WHERE {{match:e,x}} AND e.chunk = 0 AND e.chunk_count IS NOT NULL
                    AND p_only = 'stale' AND x.difference = 'stale'
            )
            INSERT INTO {{store}}.job ({{keys}})
            SELECT {{keys:x}} FROM found AS x
            WHERE x.difference = p_only OR (p_only = 'stale' AND x.difference = 'orphaned');
        WHEN 'all' THEN
            -- The walk enqueues them, in bounded steps: it locks no vector, and whatever is
            -- under way or dies meanwhile, old vectors are told by their leases.
            INSERT INTO {{store}}.rewalk (is_renewal) VALUES (true);
            INSERT INTO {{store}}.job ({{keys}}, job_priority)
            SELECT {{keys:b}}, 100 FROM {{store}}.dead_letter AS b
            WHERE b.dead_hash IS NULL;  -- no walk does
            RETURN (SELECT count(*) FROM {{schema}}.document);
    END CASE;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$fn$;
COMMENT ON FUNCTION {{store}}.requeue(text) IS
'Enqueues failed, missing or stale documents, or asks the workers to encode all of them again.';

CREATE OR REPLACE FUNCTION {{store}}.waive(p_key jsonb, p_reason text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_count bigint;
BEGIN
    UPDATE {{store}}.dead_letter AS b
    SET waived_at = now(), waived_by = session_user, waived_reason = p_reason
    FROM jsonb_populate_record(NULL::{{store}}.dead_letter, p_key) AS k
    WHERE {{match:b,k}};
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$fn$;
COMMENT ON FUNCTION {{store}}.waive(jsonb, text) IS 'Accepts a dead letter, with a reason.';

CREATE OR REPLACE FUNCTION {{store}}.dead_letters()
RETURNS TABLE (
    key jsonb, error text, attempts int, at timestamptz, waived_by text, waived_reason text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT to_jsonb(embver_key), b.dead_error, b.dead_attempts, b.dead_at, b.waived_by, b.waived_reason
FROM {{store}}.dead_letter AS b, LATERAL (SELECT {{keys:b}}) AS embver_key
-- A DELETE of the source does not look here: what it leaves does not count any more.
WHERE EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,b}});
$fn$;
COMMENT ON FUNCTION {{store}}.dead_letters() IS 'Dead letters of the documents there are.';

CREATE OR REPLACE FUNCTION {{store}}.claim_index_build(p_builder uuid, p_for interval)
RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
WITH taken AS (
    UPDATE {{store}}.walk AS w
    SET index_builder = p_builder, index_builder_until = clock_timestamp() + p_for
    WHERE w.index_builder IS NOT DISTINCT FROM p_builder
        OR w.index_builder_until IS NULL OR w.index_builder_until < clock_timestamp()
    RETURNING 1
)

SELECT EXISTS (SELECT FROM taken);
$fn$;
COMMENT ON FUNCTION {{store}}.claim_index_build(uuid, interval) IS
'One builder at a time; call again to keep the claim.';

CREATE OR REPLACE FUNCTION {{store}}.changed_since(p_at timestamptz) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT count(*) FROM {{store}}.embedding AS e WHERE e.encoded_at > p_at AND e.chunk = 0;
$fn$;
COMMENT ON FUNCTION {{store}}.changed_since(timestamptz) IS 'Documents encoded since.';

CREATE OR REPLACE FUNCTION {{store}}.count_vectors() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT count(*) FROM {{store}}.embedding AS e WHERE e.chunk = 0;
$fn$;
COMMENT ON FUNCTION {{store}}.count_vectors() IS
'Vectors in the store; of a document in chunks the first, for all are written at once.';

CREATE OR REPLACE FUNCTION {{store}}.verify_step(p_after jsonb, p_limit int)
RETURNS TABLE (after jsonb, seen bigint, missing bigint, stale bigint, orphaned bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_after {{store}}.walk := jsonb_populate_record(NULL::{{store}}.walk, p_after);
    v_last {{store}}.walk;
    v_key jsonb;
    v_range text := 'true';
BEGIN
    IF p_after IS NOT NULL THEN
        v_range := $sql$({{keys:embver_row}}) > ({{keys:($1)}})$sql$;
    END IF;
    EXECUTE $sql$
        SELECT to_jsonb(embver_key) FROM (
            SELECT {{keys:embver_row}} FROM {{schema}}.document AS embver_row
            WHERE $sql$ || v_range || $sql$ ORDER BY {{keys:embver_row}} OFFSET $2 - 1 LIMIT 1
        ) AS embver_key $sql$
    INTO v_key USING v_after, p_limit;
    -- The last step goes on to the end of the store, where there may be vectors without a document.
    IF v_key IS NOT NULL THEN
        v_last := jsonb_populate_record(NULL::{{store}}.walk, v_key);
        v_range := v_range || $sql$ AND ({{keys:embver_row}}) <= ({{keys:($2)}})$sql$;
    END IF;
    RETURN QUERY EXECUTE $sql$
        WITH embver_document AS (
            SELECT {{keys:embver_row}}, embver.hash(embver_row.content) AS content_hash,
                true AS embver_is
            FROM {{schema}}.document AS embver_row WHERE $sql$ || v_range || $sql$
        ), embver_stored AS (
            SELECT embver_row.* FROM ({{documents}}) AS embver_row WHERE $sql$ || v_range || $sql$
        )
        SELECT $3, count(d.embver_is),
            count(*) FILTER (WHERE d.content_hash IS NOT NULL AND e.chunk IS NULL),
            count(*) FILTER (WHERE d.embver_is AND e.chunk IS NOT NULL
                AND d.content_hash IS DISTINCT FROM e.content_hash),
            count(*) FILTER (WHERE d.embver_is IS NULL)
        FROM embver_document AS d FULL JOIN embver_stored AS e ON {{match:d,e}} $sql$
    USING v_after, v_last, v_key;
END
$fn$;
COMMENT ON FUNCTION {{store}}.verify_step(jsonb, int) IS
'What differences() counts, of the p_limit documents after a key and the vectors up to the last of'
' them; after is NULL when that was the end. One snapshot for all steps: REPEATABLE READ.';

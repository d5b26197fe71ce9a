-- What operators look at, and the few verbs that name a store.

CREATE OR REPLACE FUNCTION embver.verify(collection text, version int)
RETURNS TABLE (missing bigint, stale bigint, orphaned bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, version);
    RETURN QUERY EXECUTE format($sql$
        SELECT count(*) FILTER (WHERE x.difference = 'missing'),
            count(*) FILTER (WHERE x.difference = 'stale'),
            count(*) FILTER (WHERE x.difference = 'orphaned')
        FROM %I.differences() AS x
        $sql$, embver_internal.store_name(v_collection.name, version));
END
$fn$;
COMMENT ON FUNCTION embver.verify(text, int) IS
'Exact, in one snapshot: documents without a vector, with a vector of other content, and vectors'
' without a document. Reads the whole source.';

CREATE OR REPLACE FUNCTION embver.requeue(
    collection text, version int, "only" text DEFAULT 'failed'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_version embver_internal.version :=
        embver_internal.find_version(v_collection.collection_id, version);
    v_count bigint;
BEGIN
    IF "only" IS NULL OR "only" NOT IN ('failed', 'missing', 'stale', 'all') THEN
        PERFORM embver_internal.fail('VM006', format('cannot requeue %L', "only"),
            jsonb_build_object('only', "only"), '"only" => failed, missing, stale or all');
    ELSIF v_version.state NOT IN ('filling', 'ready', 'active', 'fallback') THEN
        PERFORM embver_internal.fail('VM010',
            format('version %s of %L is %s: nobody writes it', version, collection,
                v_version.state),
            jsonb_build_object('from', v_version.state, 'to', 'requeue',
                'allowed', embver_internal.allowed_states(v_version.state)),
            format('embver rollout start %s %s', collection, version));
    END IF;
    EXECUTE format('SELECT %I.requeue($1)', embver_internal.store_name(collection, version))
    INTO v_count USING "only";
    PERFORM embver_internal.record_event(collection, version, 'requeue', "only", NULL,
        jsonb_build_object('jobs', v_count));
    RETURN v_count;
END
$fn$;
COMMENT ON FUNCTION embver.requeue(text, int, text) IS
'Enqueues dead letters (failed) or what verify finds (missing, stale) again, or asks the workers to'
' encode everything (all) again.';

CREATE OR REPLACE FUNCTION embver.waive(collection text, version int, key jsonb, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_count bigint;
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, version);
    IF coalesce(btrim(reason), '') = '' THEN
        PERFORM embver_internal.fail('VM006', 'a waiver needs a reason',
            jsonb_build_object('key', key, 'reason', reason),
            'waive(…, reason => ''why this document may be missing'')');
    END IF;
    BEGIN
        EXECUTE format('SELECT %I.waive($1, $2)', embver_internal.store_name(collection, version))
        INTO v_count USING key, reason;
    EXCEPTION WHEN data_exception THEN
        v_count := 0;  -- not a key of this collection, so no dead letter's either
    END;
    IF v_count = 0 THEN
        PERFORM embver_internal.fail('VM006',
            format('%s is not a dead letter', coalesce(key::text, 'NULL')),
            jsonb_build_object('collection', collection, 'version', version, 'key', key),
            'SELECT * FROM embver.dead_letters');
    END IF;
    PERFORM embver_internal.record_event(collection, version, 'waive', reason, NULL,
        jsonb_build_object('key', key));
END
$fn$;
COMMENT ON FUNCTION embver.waive(text, int, jsonb, text) IS
'Accepts a dead letter, with a reason: it does not block a promotion any more.';

CREATE OR REPLACE FUNCTION embver_internal.request_rewalk(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_store text;
BEGIN
    FOR v_store IN
        SELECT embver_internal.store_name(c.name, v.version)
        FROM embver_internal.version AS v
        INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
        WHERE v.collection_id = p_collection_id
            AND v.state IN ('filling', 'ready', 'active', 'fallback')
    LOOP
        EXECUTE format('SELECT %I.request_rewalk()', v_store);
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.request_rewalk(int) IS
'Every live store of a collection is walked once more.';

CREATE OR REPLACE FUNCTION embver_internal.queue_overview()
RETURNS TABLE (
    collection text, version int, state text, phase text, seen bigint, enqueued bigint,
    waiting_for text[], ready bigint, waiting bigint, leased bigint, dead bigint, waived bigint,
    oldest_at timestamptz, next_due_at timestamptz, vectors bigint, documents bigint
)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_row record;
BEGIN
    FOR v_row IN
        SELECT c.name, c.source, v.version, v.state,
            embver_internal.store_name(c.name, v.version) AS store
        FROM embver_internal.version AS v
        INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
        WHERE v.state NOT IN ('dropped', 'retired') ORDER BY c.name, v.version
    LOOP
        BEGIN
            RETURN QUERY EXECUTE format($sql$
                SELECT $1, $2, $3, w.phase, w.seen, w.enqueued, w.waiting_for, q.ready, q.waiting,
                    q.leased, q.dead, q.waived, q.oldest_at, q.next_due_at, %1$I.count_vectors(),
                    -- The planner's figure, over the partitions too: labelled an estimate.
                    (SELECT sum(greatest(r.reltuples, 0))::bigint
                     FROM embver_internal.capture_relations($4) AS s
                     INNER JOIN pg_class AS r ON r.oid = s.relation AND r.relkind = 'r')
                FROM %1$I.walk_status() AS w, %1$I.queue_status() AS q
                $sql$, v_row.store)
            USING v_row.name, v_row.version, v_row.state, v_row.source;
        EXCEPTION WHEN insufficient_privilege OR undefined_table OR undefined_function
            OR undefined_column OR invalid_schema_name OR lock_not_available THEN
            -- One collection whose source was dropped or given away must not hide the others.
            RETURN QUERY SELECT v_row.name, v_row.version, v_row.state, 'broken', NULL::bigint,
                NULL::bigint, ARRAY[SQLERRM], NULL::bigint, NULL::bigint, NULL::bigint,
                NULL::bigint, NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::bigint,
                NULL::bigint;
        END;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.queue_overview() IS
'Walk and queue of every store; phase ''broken'' with the reason where they cannot be read.';

CREATE OR REPLACE FUNCTION embver_internal.all_dead_letters()
RETURNS TABLE (
    collection text, version int, key jsonb, error text, attempts int, at timestamptz,
    waived_by text, waived_reason text
)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_row record;
BEGIN
    FOR v_row IN
        SELECT c.name, v.version, embver_internal.store_name(c.name, v.version) AS store
        FROM embver_internal.version AS v
        INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
        WHERE v.state <> 'dropped' ORDER BY c.name, v.version
    LOOP
        BEGIN
            RETURN QUERY EXECUTE
                format('SELECT $1, $2, d.* FROM %I.dead_letters() AS d', v_row.store)
            USING v_row.name, v_row.version;
        EXCEPTION WHEN insufficient_privilege OR undefined_table OR undefined_function
            OR undefined_column OR invalid_schema_name THEN
            NULL; -- embver.health says what is wrong with it
        END;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.all_dead_letters() IS 'Dead letters of every store.';

CREATE OR REPLACE FUNCTION embver_internal.all_bridges()
RETURNS TABLE (
    collection text, version int, from_version int, bridge_id bigint, state text, pairs int,
    cosine float8, coverage float8, lambda float8, provenance jsonb, fitted_at timestamptz,
    usable_at timestamptz
)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_row record;
BEGIN
    FOR v_row IN
        SELECT c.name, v.version, embver_internal.store_name(c.name, v.version) AS store
        FROM embver_internal.version AS v
        INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
        WHERE v.state <> 'dropped' ORDER BY c.name, v.version
    LOOP
        BEGIN
            RETURN QUERY EXECUTE format('SELECT $1, $2, b.bridge_from, b.bridge_id, b.state,'
                ' b.pairs, b.cosine, b.coverage, b.lambda, b.provenance, b.fitted_at, b.usable_at'
                ' FROM %I.bridge AS b ORDER BY b.bridge_id', v_row.store)
            USING v_row.name, v_row.version;
        EXCEPTION WHEN insufficient_privilege OR undefined_table OR undefined_column
            OR invalid_schema_name THEN
            NULL; -- embver.health says what is wrong with it
        END;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.all_bridges() IS 'The fits of every store.';

CREATE OR REPLACE FUNCTION embver_internal.refuse_bridge(
    p_collection text, p_version int, p_older int, p_reason text
) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.record_event(p_collection, p_version, 'refuse_bridge', p_reason, NULL,
    jsonb_build_object('from_version', p_older));
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_bridge(text, int, int, text) IS
'Keeps why there is no bridge from an older version.';

CREATE OR REPLACE VIEW embver.collections WITH (security_invoker) AS
SELECT c.name, c.source::text AS source, c.key_columns, c.content, t.active, t.previous, t.mode,
    c.created_at
FROM embver_internal.collection AS c
INNER JOIN embver_internal.route AS t ON t.collection = c.name;
COMMENT ON VIEW embver.collections IS 'Registered sources and their routes.';

CREATE OR REPLACE VIEW embver.versions WITH (security_invoker) AS
SELECT c.name AS collection, v.version, v.state, v.encoder, v.fingerprint, v.dimensions, v.metric,
    v.element_type, v.index_spec, v.created_at, v.changed_at,
    embver_internal.store_name(c.name, v.version) AS store, v.chunker,
    left(encode(embver.hash(v.chunker::text), 'hex'), 16) AS chunker_hash
FROM embver_internal.version AS v
INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id;
COMMENT ON VIEW embver.versions IS 'Model versions and their states.';

CREATE OR REPLACE VIEW embver.rollouts WITH (security_invoker) AS
SELECT r.rollout_id, c.name AS collection, r.from_version, r.to_version, r.strategy, r.options,
    r.state, r.started_at, r.paused_at, r.pause_reason, r.ended_at,
    coalesce(r.options -> 'budget', '{}') AS budget, s.documents AS spent_documents,
    s.tokens AS spent_tokens, s.requests AS spent_requests, s.cost AS spent_cost,
    s.is_estimate AS spent_is_estimate
FROM embver_internal.rollout AS r
INNER JOIN embver_internal.collection AS c ON c.collection_id = r.collection_id
LEFT JOIN embver_internal.rollout_spend AS s ON s.rollout_id = r.rollout_id;
COMMENT ON VIEW embver.rollouts IS
'Rollouts, ended ones too, with their budget and what they spent, reservations included.';

CREATE OR REPLACE VIEW embver.bridges WITH (security_invoker) AS
SELECT b.collection, b.version, b.from_version, b.bridge_id, b.state, NULL::text AS reason, b.pairs,
    b.cosine, (b.provenance ->> 'cosine_low')::float8 AS cosine_low, b.coverage, b.lambda,
    b.fitted_at, b.usable_at
FROM embver_internal.all_bridges() AS b
UNION ALL
-- A refusal is news until a fit succeeds.
SELECT e.collection, e.version, (e.after ->> 'from_version')::int AS from_version,
    NULL AS bridge_id, 'refused' AS state, e.reason, NULL AS pairs, NULL AS cosine,
    NULL AS cosine_low, NULL AS coverage, NULL AS lambda, e.at AS fitted_at, NULL AS usable_at
FROM embver_internal.event AS e
INNER JOIN embver_internal.collection AS c ON c.name = e.collection
INNER JOIN embver_internal.version AS v ON v.collection_id = c.collection_id
    AND v.version = e.version AND v.state <> 'dropped' AND v.created_at <= e.at
WHERE e.kind = 'refuse_bridge'
    AND NOT EXISTS (SELECT FROM embver_internal.event AS x
        WHERE x.kind = e.kind AND x.collection = e.collection AND x.version = e.version
            AND x.after = e.after AND x.event_id > e.event_id)
    AND NOT EXISTS (SELECT FROM embver_internal.all_bridges() AS b
        WHERE b.collection = e.collection AND b.version = e.version
        AND b.from_version = (e.after ->> 'from_version')::int AND b.fitted_at > e.at);
COMMENT ON VIEW embver.bridges IS
'Maps from older versions, every fit: filling, usable, replaced; or refused, with the reason.';

CREATE OR REPLACE VIEW embver.encoder_limits WITH (security_invoker) AS
SELECT l.provider || ':' || l.model AS encoder, l.base_url, l.requests_per_minute,
    l.tokens_per_minute, l.concurrency, (
        SELECT count(*) FROM embver_internal.encoder_slot AS s
        WHERE s.limit_id = l.limit_id AND s.expires_at >= now()
    ) AS requests_under_way
FROM embver_internal.encoder_limit AS l;
COMMENT ON VIEW embver.encoder_limits IS
'What all workers of one encoder share; requests_under_way counts only where concurrency is set.';

CREATE OR REPLACE VIEW embver.queue WITH (security_invoker) AS
SELECT o.collection, o.version, o.state, o.ready, o.waiting, o.leased, o.dead, o.waived,
    o.oldest_at, clock_timestamp() - o.oldest_at AS lag, o.next_due_at
FROM embver_internal.queue_overview() AS o;
COMMENT ON VIEW embver.queue IS 'The queue of every store; lag is the age of its oldest job.';

CREATE OR REPLACE VIEW embver.progress WITH (security_invoker) AS
SELECT o.collection, o.version, o.state, o.phase, o.seen, o.enqueued, o.waiting_for, o.vectors,
    o.documents AS documents_estimate, o.ready + o.waiting + o.leased AS queued, o.dead
FROM embver_internal.queue_overview() AS o;
COMMENT ON VIEW embver.progress IS
'How far the filling of each store is; documents_estimate is the planner''s figure.';

CREATE OR REPLACE VIEW embver.dead_letters WITH (security_invoker) AS
SELECT d.* FROM embver_internal.all_dead_letters() AS d;
COMMENT ON VIEW embver.dead_letters IS 'Documents that failed for good, and waivers.';

CREATE OR REPLACE VIEW embver.workers WITH (security_invoker) AS
SELECT w.worker_id, w.host, w.pid, w.library, w.started_at, w.seen_at, w.documents, w.throttled
FROM embver_internal.worker AS w;
COMMENT ON VIEW embver.workers IS 'Worker processes and when they were last heard of.';

CREATE OR REPLACE VIEW embver.throttle WITH (security_invoker) AS
SELECT t.policy, t.changed_at, t.changed_by, c.reason, c.inactive
FROM embver_internal.throttle AS t, embver_internal.check_throttle() AS c;
COMMENT ON VIEW embver.throttle IS
'When workers hold back the filling, and whether they would now; inactive: what this role cannot'
' watch. The rate of WAL needs two looks: workers compare, this view does not.';

CREATE OR REPLACE VIEW embver.golden_sets WITH (security_invoker) AS
SELECT c.name AS collection, s.name, s.set_version, s.queries, s.judgments, s.unknown_documents,
    s.imported_at, s.imported_by
FROM embver_internal.golden_set AS s
INNER JOIN embver_internal.collection AS c ON c.collection_id = s.collection_id;
COMMENT ON VIEW embver.golden_sets IS 'Golden sets and their versions.';

CREATE OR REPLACE VIEW embver.ann_recalls WITH (security_invoker) AS
SELECT c.name AS collection, a.version, a.k, a.setting, a.value, a.recall, a.lower_bound,
    a.upper_bound, a.golden_queries, a.stored_queries, a.seconds, a.documents, a.index_spec,
    a.measured_at, a.measured_by
FROM embver_internal.ann_recall AS a
INNER JOIN embver_internal.collection AS c ON c.collection_id = a.collection_id;
COMMENT ON VIEW embver.ann_recalls IS
'Recall of indexes against exact search, a row for each setting that was tried.';

CREATE OR REPLACE VIEW embver.evaluations WITH (security_invoker) AS
SELECT e.evaluation_id, c.name AS collection, e.version, s.name AS golden_set, s.set_version,
    e.mode, e.exact, e.k, e.queries, e.ndcg, e.recall, e.mrr, e.documents, e.started_at,
    e.ended_at
FROM embver_internal.evaluation AS e
INNER JOIN embver_internal.collection AS c ON c.collection_id = e.collection_id
INNER JOIN embver_internal.golden_set AS s ON s.golden_set_id = e.golden_set_id;
COMMENT ON VIEW embver.evaluations IS 'Measured runs of golden sets.';

CREATE OR REPLACE VIEW embver.gates WITH (security_invoker) AS
SELECT g.gate_id, c.name AS collection, a.version AS candidate, b.version AS baseline, g.metric,
    g.margin, g.alpha, g.queries, g.difference, g.lower_bound, g.certifiable_margin, g.passed,
    g.decided_at, g.decided_by
FROM embver_internal.gate AS g
INNER JOIN embver_internal.collection AS c ON c.collection_id = g.collection_id
INNER JOIN embver_internal.evaluation AS a ON a.evaluation_id = g.candidate_evaluation
INNER JOIN embver_internal.evaluation AS b ON b.evaluation_id = g.baseline_evaluation;
COMMENT ON VIEW embver.gates IS 'Decisions that open or refuse promotions.';

CREATE OR REPLACE VIEW embver.events WITH (security_invoker) AS
SELECT e.event_id, e.at, e.actor, e.collection, e.version, e.rollout_id, e.kind, e.reason, e.before,
    e.after
FROM embver_internal.event AS e;
COMMENT ON VIEW embver.events IS 'The audit trail.';

CREATE OR REPLACE VIEW embver.health WITH (security_invoker) AS
SELECT o.collection, o.version, o.state,
    CASE
        WHEN o.phase = 'broken' THEN 'broken: ' || o.waiting_for[1]
        WHEN o.dead > 0 THEN 'dead letters'
        WHEN o.state IN ('filling', 'ready', 'active', 'fallback')
            AND o.oldest_at < clock_timestamp() - interval '60 s'
            AND NOT EXISTS (SELECT FROM embver_internal.worker AS w
                WHERE w.seen_at > now() - interval '60 s') THEN 'no worker'
        WHEN o.state IN ('ready', 'active', 'fallback')
            AND o.oldest_at < clock_timestamp() - interval '60 s' THEN 'lagging'
        ELSE 'ok'
    END AS status,
    clock_timestamp() - o.oldest_at AS lag, o.dead
FROM embver_internal.queue_overview() AS o;
COMMENT ON VIEW embver.health IS 'One line a store: ok, or what is wrong.';

CREATE OR REPLACE FUNCTION embver_internal.register_worker(
    p_worker uuid, p_host text, p_pid int, p_library text
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DELETE FROM embver_internal.worker AS w WHERE w.seen_at < now() - interval '1 day';
INSERT INTO embver_internal.worker (worker_id, host, pid, library)
VALUES (p_worker, p_host, p_pid, p_library)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = now();
$fn$;
COMMENT ON FUNCTION embver_internal.register_worker(uuid, text, int, text) IS
'Announces a worker process.';

CREATE OR REPLACE FUNCTION embver_internal.worker_seen(p_worker uuid, p_documents bigint)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
UPDATE embver_internal.worker AS w SET seen_at = now(), documents = w.documents + p_documents
WHERE w.worker_id = p_worker;
$fn$;
COMMENT ON FUNCTION embver_internal.worker_seen(uuid, bigint) IS 'Heartbeat of a worker.';

CREATE OR REPLACE FUNCTION embver_internal.forget_worker(p_worker uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DELETE FROM embver_internal.worker AS w WHERE w.worker_id = p_worker;
$fn$;
COMMENT ON FUNCTION embver_internal.forget_worker(uuid) IS 'A worker says goodbye.';

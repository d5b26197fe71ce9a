-- The state machine: every step is one transaction and one row in the audit trail.

CREATE OR REPLACE FUNCTION embver_internal.allowed_states(p_from text) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN CASE p_from
    WHEN 'created' THEN ARRAY['filling', 'dropped']
    WHEN 'filling' THEN ARRAY['ready', 'created']
    WHEN 'ready' THEN ARRAY['active', 'created', 'retired']
    WHEN 'active' THEN ARRAY['fallback', 'ready', 'retired']
    WHEN 'fallback' THEN ARRAY['active', 'retired']
    WHEN 'retired' THEN ARRAY['dropped']
    ELSE ARRAY[]::text[]
END;
COMMENT ON FUNCTION embver_internal.allowed_states(text) IS
'The state machine of a version: where it may go from here.';

CREATE OR REPLACE FUNCTION embver_internal.change_state(
    p_version embver_internal.version, p_to text, p_kind text, p_reason text,
    p_rollout_id bigint DEFAULT NULL, p_detail jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_name text;
    v_from text;
BEGIN
    SELECT c.name INTO v_name FROM embver_internal.collection AS c
    WHERE c.collection_id = p_version.collection_id;
    SELECT v.state INTO v_from FROM embver_internal.version AS v
    WHERE v.collection_id = p_version.collection_id AND v.version = p_version.version
    FOR NO KEY UPDATE;
    IF p_to <> ALL (embver_internal.allowed_states(v_from)) THEN
        PERFORM embver_internal.fail('VM010',
            format('version %s of %L is %s and cannot become %s', p_version.version, v_name,
                v_from, p_to),
            jsonb_build_object('collection', v_name, 'version', p_version.version, 'from', v_from,
                'to', p_to, 'allowed', embver_internal.allowed_states(v_from)),
            format('embver version show %s %s', v_name, p_version.version));
    END IF;
    UPDATE embver_internal.version AS v SET state = p_to, changed_at = now()
    WHERE v.collection_id = p_version.collection_id AND v.version = p_version.version;
    PERFORM embver_internal.record_event(v_name, p_version.version, p_kind, p_reason,
        jsonb_build_object('state', v_from), jsonb_build_object('state', p_to) || p_detail,
        p_rollout_id);
    -- The pointer that every reader follows says the same as the states, always.
    UPDATE embver_internal.route AS r SET changed_at = now(),
        live = ARRAY(SELECT v.version FROM embver_internal.version AS v
            WHERE v.collection_id = p_version.collection_id
                AND v.state IN ('filling', 'ready', 'active', 'fallback') ORDER BY v.version),
        -- What a rollback left behind answers too: clients have encoded for it a moment before.
        serving = ARRAY(SELECT v.version FROM embver_internal.version AS v
            WHERE v.collection_id = p_version.collection_id
                AND (v.state IN ('active', 'fallback') OR (v.state = 'ready' AND EXISTS (
                    SELECT FROM embver_internal.rollout AS x
                    WHERE x.collection_id = v.collection_id AND x.to_version = v.version
                        AND x.state = 'rolled_back')))
            ORDER BY v.version),
        active = n.active, older = n.active, newer = n.newer,
        -- How two versions answered says nothing of another pair.
        mode = CASE WHEN n.is_same THEN r.mode ELSE 'single' END,
        share = CASE WHEN n.is_same THEN r.share END,
        allow = CASE WHEN n.is_same THEN r.allow ELSE '{}' END,
        weight = CASE WHEN n.is_same THEN r.weight ELSE 0.5 END,
        coverage = CASE WHEN n.newer = r.newer THEN r.coverage ELSE 0 END,
        previous = (SELECT v.version FROM embver_internal.version AS v
            WHERE v.collection_id = p_version.collection_id AND v.state = 'fallback'
            ORDER BY v.changed_at DESC, v.version DESC LIMIT 1)
    FROM (
        SELECT x.active, x.newer,
            (x.active = o.active AND x.newer = o.newer) IS TRUE AS is_same
        FROM embver_internal.route AS o, LATERAL (
            SELECT (SELECT v.version FROM embver_internal.version AS v
                WHERE v.collection_id = p_version.collection_id AND v.state = 'active') AS active,
                (SELECT v.version FROM embver_internal.version AS v
                WHERE v.collection_id = p_version.collection_id
                    AND v.state IN ('filling', 'ready')
                ORDER BY EXISTS (SELECT FROM embver_internal.rollout AS y
                    WHERE y.collection_id = v.collection_id AND y.to_version = v.version
                        AND y.state IN ('running', 'paused')) DESC, v.version DESC LIMIT 1) AS newer
        ) AS x
        WHERE o.collection = v_name) AS n
    WHERE r.collection = v_name;
END
$fn$;
COMMENT ON FUNCTION embver_internal.change_state(
    embver_internal.version, text, text, text, bigint, jsonb
) IS 'Moves a version, writes the event, follows with the route. VM010 where it is not allowed.';

CREATE OR REPLACE FUNCTION embver_internal.open_rollout(p_collection embver_internal.collection)
RETURNS embver_internal.rollout
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_rollout embver_internal.rollout;
BEGIN
    SELECT r.* INTO v_rollout FROM embver_internal.rollout AS r
    WHERE r.collection_id = p_collection.collection_id AND r.state IN ('running', 'paused')
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM010',
            format('no rollout of %L is under way', p_collection.name),
            jsonb_build_object('collection', p_collection.name, 'from', NULL,
                'to', NULL, 'allowed', ARRAY['start_rollout']),
            format('embver rollout start %s VERSION', p_collection.name));
    END IF;
    RETURN v_rollout;
END
$fn$;
COMMENT ON FUNCTION embver_internal.open_rollout(embver_internal.collection) IS
'The rollout under way, locked, or VM010.';

CREATE OR REPLACE FUNCTION embver_internal.rollout_options(p_options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_defaults jsonb := '{"metric": "ndcg", "k": 10, "margin": 0.02, "alpha": 0.05, "max_lag": "60 s",'
        ' "max_age": "7 days", "max_changed": 0.05}';
    v_option record;
    v_options jsonb := v_defaults || coalesce(p_options, '{}');
    v_valid boolean;
BEGIN
    IF jsonb_typeof(coalesce(p_options, '{}')) <> 'object' THEN
        PERFORM embver_internal.fail('VM006', 'options must be a JSON object',
            jsonb_build_object('options', p_options, 'defaults', v_defaults),
            'options => ''{"margin": 0.02}''');
    END IF;
    FOR v_option IN SELECT o.key, o.value FROM jsonb_each(v_options) AS o LOOP
        BEGIN
            v_valid := CASE v_option.key
                WHEN 'metric' THEN v_option.value #>> '{}' IN ('ndcg', 'recall', 'mrr')
                WHEN 'k' THEN (v_option.value #>> '{}')::int BETWEEN 1 AND 1000
                WHEN 'margin' THEN (v_option.value #>> '{}')::float8 BETWEEN 0 AND 1
                WHEN 'alpha' THEN (v_option.value #>> '{}')::float8 BETWEEN 0.0001 AND 0.5
                WHEN 'max_changed' THEN (v_option.value #>> '{}')::float8 BETWEEN 0 AND 1
                WHEN 'ann' THEN embver_internal.is_ann_option(v_option.value)
                WHEN 'max_lag' THEN (v_option.value #>> '{}')::interval > '0'
                WHEN 'max_age' THEN (v_option.value #>> '{}')::interval > '0'
                -- The price may be the encoder's; start_rollout knows.
                WHEN 'budget' THEN
                    embver_internal.check_budget(v_option.value, 0) IS NOT NULL
                ELSE false END;
        EXCEPTION WHEN data_exception THEN
            v_valid := false;
        END;
        IF NOT coalesce(v_valid, false) THEN
            PERFORM embver_internal.fail('VM006',
                format('rollout option %L: %s is unknown or out of range', v_option.key,
                    v_option.value),
                jsonb_build_object('option', v_option.key, 'value', v_option.value,
                    'defaults', v_defaults),
                'options are metric, k, margin, alpha, max_lag, max_age, max_changed, ann and budget');
        END IF;
    END LOOP;
    RETURN v_options;
END
$fn$;
COMMENT ON FUNCTION embver_internal.rollout_options(jsonb) IS
'Options of a rollout with their defaults: the gate''s policy, when it expires, the budget.';

CREATE OR REPLACE FUNCTION embver.start_rollout(
    collection text, to_version int, strategy text DEFAULT 'shadow', options jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_version embver_internal.version;
    v_options jsonb := embver_internal.rollout_options(start_rollout.options);
    v_rollout embver_internal.rollout;
    v_rollout_id bigint;
BEGIN
    IF strategy IS DISTINCT FROM 'shadow' THEN
        PERFORM embver_internal.fail('VM006', format(CASE
                WHEN strategy IN ('blue_green', 'progressive')
                THEN 'strategy %L is not in this release' ELSE 'unknown strategy %L' END, strategy),
            jsonb_build_object('strategy', strategy, 'strategies', ARRAY['shadow']),
            'use strategy => ''shadow''');
    END IF;
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    v_version := embver_internal.find_version(v_collection.collection_id, to_version);
    SELECT r.* INTO v_rollout FROM embver_internal.rollout AS r
    WHERE r.collection_id = v_collection.collection_id AND r.state IN ('running', 'paused');
    IF FOUND THEN
        PERFORM embver_internal.fail('VM010',
            format('a rollout of %L to version %s is %s', v_collection.name, v_rollout.to_version,
                v_rollout.state),
            jsonb_build_object('collection', v_collection.name, 'rollout', v_rollout.rollout_id,
                'to_version', v_rollout.to_version, 'from', v_rollout.state, 'to', 'running',
                'allowed', ARRAY['promote', 'abort_rollout']),
            format('embver rollout status %s; finish it, or: embver rollout abort %s',
                v_collection.name, v_collection.name));
    END IF;
    PERFORM embver_internal.require_origin_check(v_collection, v_version);
    PERFORM embver_internal.check_budget(coalesce(v_options -> 'budget', '{}'),
        embver_internal.encoder_price(v_version.encoder));
    INSERT INTO embver_internal.rollout AS r
        (collection_id, from_version, to_version, strategy, options)
    SELECT v_collection.collection_id, t.active, v_version.version, start_rollout.strategy,
        v_options
    FROM embver_internal.route AS t WHERE t.collection = v_collection.name
    RETURNING r.rollout_id INTO v_rollout_id;
    INSERT INTO embver_internal.rollout_spend (rollout_id) VALUES (v_rollout_id);
    IF v_version.state = 'ready' THEN
        -- Left behind by a rollback: it was written all the while and needs no filling.
        PERFORM embver_internal.record_event(v_collection.name, v_version.version, 'start_rollout',
            NULL, jsonb_build_object('state', 'ready'), jsonb_build_object('state', 'ready'),
            v_rollout_id);
        RETURN;
    END IF;
    PERFORM embver_internal.change_state(v_version, 'filling', 'start_rollout', NULL, v_rollout_id,
        jsonb_build_object('strategy', strategy, 'options', v_options));
    EXECUTE format('SELECT %I.start_walk()',
        embver_internal.store_name(v_collection.name, v_version.version));
    PERFORM embver_internal.generate_capture(v_collection.collection_id);
    PERFORM embver_internal.generate_search(v_collection.collection_id);
END
$fn$;
COMMENT ON FUNCTION embver.start_rollout(text, int, text, jsonb) IS
'Starts filling a version: the capture writes to it from the commit on; workers wait for older'
' writers, then walk the source. Takes the same time whatever the size of the collection.';

CREATE OR REPLACE FUNCTION embver.pause_rollout(collection text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_rollout embver_internal.rollout := embver_internal.open_rollout(v_collection);
BEGIN
    IF v_rollout.state = 'paused' THEN
        RETURN;
    END IF;
    UPDATE embver_internal.rollout AS r
    SET state = 'paused', paused_at = now(), pause_reason = pause_rollout.reason
    WHERE r.rollout_id = v_rollout.rollout_id;
    PERFORM embver_internal.record_event(v_collection.name, v_rollout.to_version, 'pause_rollout',
        reason, jsonb_build_object('rollout', 'running'), jsonb_build_object('rollout', 'paused'),
        v_rollout.rollout_id);
END
$fn$;
COMMENT ON FUNCTION embver.pause_rollout(text, text) IS
'Workers stop writing the rollout''s version within a batch; the capture goes on.';

CREATE OR REPLACE FUNCTION embver.resume_rollout(collection text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_rollout embver_internal.rollout := embver_internal.open_rollout(v_collection);
    v_spend embver_internal.rollout_spend;
    v_over text;
BEGIN
    IF v_rollout.state = 'running' THEN
        RETURN;
    END IF;
    IF v_rollout.paused_for IS NOT NULL THEN
        SELECT s.* INTO v_spend FROM embver_internal.rollout_spend AS s
        WHERE s.rollout_id = v_rollout.rollout_id;
        v_over := embver_internal.exceeded(v_rollout.options -> 'budget',
            v_spend.tokens + (v_rollout.paused_for ->> 'tokens')::numeric,
            v_spend.requests + (v_rollout.paused_for ->> 'requests')::numeric,
            v_spend.cost + (v_rollout.paused_for ->> 'cost')::numeric);
        IF v_over IS NOT NULL THEN
            -- The batch that did not fit still does not: running would be pausing again.
            PERFORM embver_internal.fail('VM021', v_rollout.pause_reason,
                jsonb_build_object('collection', v_collection.name,
                    'version', v_rollout.to_version, 'rollout', v_rollout.rollout_id,
                    'budget', v_rollout.options -> 'budget', 'exceeded', v_over,
                    'spent', to_jsonb(v_spend) - 'rollout_id', 'needed', v_rollout.paused_for),
                format('embver rollout budget %1$s --%2$s N, then: embver rollout resume %1$s',
                    v_collection.name, v_over));
        END IF;
    END IF;
    UPDATE embver_internal.rollout AS r
    SET state = 'running', paused_at = NULL, pause_reason = NULL, paused_for = NULL
    WHERE r.rollout_id = v_rollout.rollout_id;
    PERFORM embver_internal.record_event(v_collection.name, v_rollout.to_version, 'resume_rollout',
        NULL, jsonb_build_object('rollout', 'paused'), jsonb_build_object('rollout', 'running'),
        v_rollout.rollout_id);
END
$fn$;
COMMENT ON FUNCTION embver.resume_rollout(text) IS
'Workers go on where they stopped. VM021 while what the budget refused still does not fit.';

CREATE OR REPLACE FUNCTION embver_internal.stop_writes(
    p_collection embver_internal.collection, p_version int
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
BEGIN
    PERFORM embver_internal.generate_capture(p_collection.collection_id);
    PERFORM embver_internal.generate_search(p_collection.collection_id);
    EXECUTE format('SELECT %I.clear_queue()',
        embver_internal.store_name(p_collection.name, p_version));
END
$fn$;
COMMENT ON FUNCTION embver_internal.stop_writes(embver_internal.collection, int) IS
'The capture and the search leave a version that is not live any more.';

CREATE OR REPLACE FUNCTION embver.abort_rollout(collection text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_rollout embver_internal.rollout;
BEGIN
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    v_rollout := embver_internal.open_rollout(v_collection);
    UPDATE embver_internal.rollout AS r
    SET state = 'aborted', ended_at = now(), paused_at = NULL
    WHERE r.rollout_id = v_rollout.rollout_id;
    PERFORM embver_internal.change_state(
        embver_internal.find_version(v_collection.collection_id, v_rollout.to_version),
        'created', 'abort_rollout', reason, v_rollout.rollout_id);
    PERFORM embver_internal.stop_writes(v_collection, v_rollout.to_version);
END
$fn$;
COMMENT ON FUNCTION embver.abort_rollout(text, text) IS
'Ends the rollout; its version is not written any more. Vectors stay, and a restart checks them.';

CREATE OR REPLACE FUNCTION embver_internal.index_is_valid(p_store text) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN EXISTS (
    SELECT FROM pg_class AS t
    INNER JOIN pg_namespace AS n ON n.oid = t.relnamespace
    INNER JOIN pg_index AS x ON x.indrelid = t.oid AND x.indisvalid AND x.indisready
    INNER JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE n.nspname = p_store AND t.relname = 'embedding'
        AND i.relname = 'embedding_embedding_idx');
COMMENT ON FUNCTION embver_internal.index_is_valid(text) IS 'Whether the vector index is usable.';

CREATE OR REPLACE FUNCTION embver_internal.readiness(
    p_collection text, p_version int, p_max_lag interval DEFAULT '60 s'
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version :=
        embver_internal.find_version(v_collection.collection_id, p_version);
    v_store text := embver_internal.store_name(p_collection, p_version);
    v_walk record;
    v_queue record;
    v_unaccounted bigint;
    v_index boolean;
BEGIN
    EXECUTE format('SELECT * FROM %I.walk_status()', v_store) INTO v_walk;
    EXECUTE format('SELECT * FROM %I.queue_status()', v_store) INTO v_queue;
    v_index := v_version.index_spec ->> 'type' = 'none'
        OR embver_internal.index_is_valid(v_store);
    IF v_walk.phase = 'done' AND NOT v_walk.rewalk_requested THEN
        EXECUTE format('SELECT %I.unaccounted($1)', v_store) INTO v_unaccounted USING p_max_lag;
    END IF;
    RETURN jsonb_build_object(
        'complete', coalesce(v_unaccounted = 0, false) AND v_queue.dead = 0,
        'index', v_index, 'walk', v_walk.phase,
        'barrier', coalesce(to_jsonb(v_walk.waiting_for), '[]'),
        'unaccounted', v_unaccounted,
        'queued', v_queue.ready + v_queue.waiting + v_queue.leased,
        'oldest_at', v_queue.oldest_at, 'dead_letters', v_queue.dead);
END
$fn$;
COMMENT ON FUNCTION embver_internal.readiness(text, int, interval) IS
'Whether a store is complete (walk done; what differs has a young job or a waived dead letter) and'
' its index valid, with what is missing. Reads the whole source once the walk is done.';

CREATE OR REPLACE FUNCTION embver_internal.mark_ready(p_collection text, p_version int)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET lock_timeout = '1s'
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version;
    v_readiness jsonb := embver_internal.readiness(p_collection, p_version);
BEGIN
    -- Dead letters do not keep a version from being ready; they keep it from being promoted.
    IF v_readiness ->> 'unaccounted' IS NULL OR NOT (v_readiness ->> 'index')::boolean
        OR ((v_readiness ->> 'unaccounted')::bigint > 0
            AND (v_readiness ->> 'queued')::bigint > 0) THEN
        RETURN false;
    END IF;
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    v_version := embver_internal.find_version(v_collection.collection_id, p_version);
    IF v_version.state <> 'filling' THEN
        RETURN v_version.state IN ('ready', 'active', 'fallback');
    END IF;
    PERFORM embver_internal.change_state(v_version, 'ready', 'fill_version', NULL,
        (SELECT r.rollout_id FROM embver_internal.rollout AS r
         WHERE r.collection_id = v_version.collection_id AND r.to_version = p_version
             AND r.state IN ('running', 'paused')), v_readiness);
    PERFORM embver_internal.close_origin(v_collection, p_version);
    PERFORM embver_internal.generate_views(v_collection.collection_id);
    RETURN true;
END
$fn$;
COMMENT ON FUNCTION embver_internal.mark_ready(text, int) IS
'filling → ready once the queue was worked off and the index stands; adds the version to the'
' views. Fails with lock_not_available behind a long reader: call again.';

CREATE OR REPLACE FUNCTION embver_internal.check_gate(
    p_collection embver_internal.collection, p_rollout embver_internal.rollout, p_active int
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_gate record;
    v_problem text;
    v_documents bigint;
    v_changed bigint;
    v_hint text := format('embver evaluate %s --versions %s,%s', p_collection.name, p_active,
        p_rollout.to_version);
    v_store text := embver_internal.store_name(p_collection.name, p_rollout.to_version);
BEGIN
    SELECT g.*, c.documents AS candidate_documents,
        v.fingerprint = c.fingerprint AND v.index_spec = c.index_spec
            AND a.fingerprint = b.fingerprint AS same_space,
        c.mode = 'single' AND b.mode = 'single' AS same_mode,
        s.set_version = (SELECT max(x.set_version) FROM embver_internal.golden_set AS x
            WHERE x.collection_id = s.collection_id AND x.name = s.name) AS newest_set
    INTO v_gate
    FROM embver_internal.gate AS g
    INNER JOIN embver_internal.evaluation AS c ON c.evaluation_id = g.candidate_evaluation
    INNER JOIN embver_internal.evaluation AS b ON b.evaluation_id = g.baseline_evaluation
    INNER JOIN embver_internal.golden_set AS s ON s.golden_set_id = c.golden_set_id
        AND s.golden_set_id = b.golden_set_id
    INNER JOIN embver_internal.version AS v ON v.collection_id = c.collection_id
        AND v.version = c.version
    INNER JOIN embver_internal.version AS a ON a.collection_id = b.collection_id
        AND a.version = b.version
    WHERE g.collection_id = p_collection.collection_id
        AND c.version = p_rollout.to_version AND b.version = p_active
        AND g.metric = p_rollout.options ->> 'metric'
        -- At the depth that was agreed on, and through the index that searches go through.
        AND c.k = coalesce((p_rollout.options ->> 'k')::int, 10) AND b.k = c.k
        AND (NOT c.exact OR v.index_spec ->> 'type' = 'none')
        AND (NOT b.exact OR a.index_spec ->> 'type' = 'none')
        AND g.margin <= (p_rollout.options ->> 'margin')::float8
        AND g.alpha <= (p_rollout.options ->> 'alpha')::float8
    ORDER BY g.gate_id DESC LIMIT 1;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM014',
            format('version %s of %L was not evaluated against version %s', p_rollout.to_version,
                p_collection.name, p_active),
            jsonb_build_object('reason', 'not_evaluated', 'candidate', p_rollout.to_version,
                'baseline', p_active, 'metric', p_rollout.options ->> 'metric',
                'k', coalesce((p_rollout.options ->> 'k')::int, 10), 'margin', (p_rollout.options ->> 'margin')::float8),
            v_hint || ' (and, before it, embver golden import)');
    END IF;
    EXECUTE format('SELECT %1$I.count_vectors(), %1$I.changed_since($1)', v_store)
    INTO v_documents, v_changed USING v_gate.decided_at;
    v_changed := greatest(v_changed, abs(v_documents - v_gate.candidate_documents));
    v_problem := CASE
        WHEN NOT v_gate.same_space THEN 'another_space'
        WHEN NOT v_gate.same_mode THEN 'another_mode'
        WHEN NOT v_gate.newest_set THEN 'older_golden_set'
        WHEN v_gate.decided_at < now() - (p_rollout.options ->> 'max_age')::interval
            THEN 'expired'
        WHEN v_changed > (p_rollout.options ->> 'max_changed')::float8 * v_documents
            THEN 'documents_changed'
        WHEN NOT v_gate.passed THEN 'failed' END;
    IF v_problem IS NOT NULL THEN
        PERFORM embver_internal.fail('VM014', CASE v_problem
                WHEN 'failed' THEN format('version %s of %L is not shown to be as good as version'
                    ' %s: %s %s by %s, lower bound %s, margin %s', p_rollout.to_version,
                    p_collection.name, p_active, v_gate.metric,
                    CASE WHEN v_gate.difference < 0 THEN 'falls' ELSE 'rises' END,
                    round(abs(v_gate.difference)::numeric, 4),
                    round(v_gate.lower_bound::numeric, 4), round(v_gate.margin::numeric, 4))
                ELSE format('the evaluation of version %s of %L does not open this promotion: %s',
                    p_rollout.to_version, p_collection.name, replace(v_problem, '_', ' ')) END,
            jsonb_build_object('reason', v_problem, 'gate', v_gate.gate_id,
                'metric', v_gate.metric, 'difference', v_gate.difference,
                'bound', v_gate.lower_bound, 'margin', v_gate.margin,
                'certifiable_margin', v_gate.certifiable_margin, 'queries', v_gate.queries,
                'changed_documents', v_changed, 'candidate', p_rollout.to_version,
                'baseline', p_active),
            CASE v_problem WHEN 'failed'
                THEN format('keep version %s, or: embver rollout promote %s --force --reason …',
                    p_active, p_collection.name)
                ELSE v_hint END);
    END IF;
    RETURN v_gate.gate_id;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_gate(
    embver_internal.collection, embver_internal.rollout, int
) IS 'The passed gate that opens this promotion, or VM014 with the figures.';

CREATE OR REPLACE FUNCTION embver.promote(
    collection text, force boolean DEFAULT false, reason text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_rollout embver_internal.rollout;
    v_version embver_internal.version;
    v_active int;
    v_readiness jsonb;
    v_gate bigint;
    v_overridden jsonb;
BEGIN
    IF coalesce(force, false) AND coalesce(btrim(reason), '') = '' THEN
        PERFORM embver_internal.fail('VM006', 'force needs a reason',
            jsonb_build_object('force', true), 'promote(…, force => true, reason => ''why'')');
    END IF;
    -- Two operators at once: the second waits here, and then finds the work done.
    SELECT r.* INTO v_rollout FROM embver_internal.rollout AS r
    WHERE r.collection_id = v_collection.collection_id
        AND r.state IN ('running', 'paused', 'rolled_back')
    ORDER BY r.rollout_id DESC LIMIT 1 FOR UPDATE;
    IF FOUND THEN
        v_version := embver_internal.find_version(
            v_collection.collection_id, v_rollout.to_version);
    END IF;
    IF v_rollout.rollout_id IS NULL OR (v_rollout.state = 'rolled_back'
            AND (v_version.state <> 'ready' OR EXISTS (
                SELECT FROM embver_internal.rollout AS r
                WHERE r.collection_id = v_collection.collection_id
                    AND r.rollout_id > v_rollout.rollout_id))) THEN
        PERFORM embver_internal.open_rollout(v_collection);
    END IF;
    IF v_rollout.state = 'paused' THEN
        PERFORM embver_internal.fail('VM010', format('the rollout of %L is paused', collection),
            jsonb_build_object('collection', collection, 'from', 'paused', 'to', 'promoted',
                'allowed', ARRAY['resume_rollout', 'abort_rollout']),
            format('embver rollout resume %s', collection));
    END IF;
    SELECT t.active INTO v_active FROM embver_internal.route AS t
    WHERE t.collection = v_collection.name;
    v_readiness := embver_internal.readiness(v_collection.name, v_version.version,
        (v_rollout.options ->> 'max_lag')::interval);
    IF v_version.state <> 'ready' OR NOT (v_readiness ->> 'index')::boolean
        OR NOT ((v_readiness ->> 'complete')::boolean OR coalesce(force, false)) THEN
        PERFORM embver_internal.fail('VM011',
            format('version %s of %L is not ready', v_version.version, collection),
            v_readiness || jsonb_build_object('state', v_version.state),
            CASE WHEN (v_readiness ->> 'dead_letters')::bigint > 0
                THEN format('embver requeue %1$s %2$s, or accept them: embver waive %1$s %2$s --all'
                    ' --reason …',
                    collection, v_version.version)
                WHEN NOT (v_readiness ->> 'index')::boolean
                THEN format('let a worker build the index whose role is a member of %I, the owner of'
                    ' the source: embver worker --drain',
                    embver_internal.source_owner(v_collection.source))
                ELSE 'let the workers finish: embver worker --drain' END);
    END IF;
    BEGIN
        PERFORM embver_internal.check_ann_recall(v_collection, v_rollout);
        IF v_active IS NOT NULL THEN
            v_gate := embver_internal.check_gate(v_collection, v_rollout, v_active);
        END IF;
    EXCEPTION WHEN SQLSTATE 'VM014' THEN
        IF NOT coalesce(force, false) THEN
            RAISE;
        END IF;
        GET STACKED DIAGNOSTICS v_overridden = PG_EXCEPTION_DETAIL;
    END;
    IF v_active IS NOT NULL THEN
        PERFORM embver_internal.change_state(
            embver_internal.find_version(v_collection.collection_id, v_active), 'fallback',
            'promote', reason, v_rollout.rollout_id);
    END IF;
    IF v_version.element_type
        <> embver_internal.view_element_type(v_collection.collection_id) THEN
        RAISE WARNING USING MESSAGE = format('%I.current is empty from now on: version %s holds %s,'
                ' and the views show %s', 'embver_' || collection, v_version.version,
                v_version.element_type,
                embver_internal.view_element_type(v_collection.collection_id)),
            HINT = format('search by %I.search', 'embver_' || collection);
    END IF;
    UPDATE embver_internal.rollout AS r SET state = 'promoted', ended_at = now()
    WHERE r.rollout_id = v_rollout.rollout_id;
    PERFORM embver_internal.change_state(v_version, 'active', 'promote', reason,
        v_rollout.rollout_id, jsonb_build_object('gate', v_gate, 'forced', coalesce(force, false),
            'overridden', v_overridden, 'readiness', v_readiness));
END
$fn$;
COMMENT ON FUNCTION embver.promote(text, boolean, text) IS
'Atomic cutover: the rollout''s version becomes active by one row update of the route. Refused'
' without completeness and a valid index (VM011) and a passed gate (VM014; not for the first'
' version). force overrides the gate and the completeness, needs a reason, and is recorded.';

CREATE OR REPLACE FUNCTION embver.rollback(collection text, reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_route embver_internal.route;
    v_rollout_id bigint;
BEGIN
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    SELECT t.* INTO v_route FROM embver_internal.route AS t
    WHERE t.collection = v_collection.name;
    IF v_route.previous IS NULL THEN
        PERFORM embver_internal.fail('VM010',
            format('%L has no version to go back to', collection),
            jsonb_build_object('collection', collection, 'from', v_route.active, 'to', NULL,
                'allowed', ARRAY['start_rollout']),
            CASE WHEN EXISTS (SELECT FROM embver_internal.rollout AS r
                    WHERE r.collection_id = v_collection.collection_id
                        AND r.state IN ('running', 'paused'))
                THEN format('nothing was promoted yet; to stop the rollout: embver rollout abort'
                    ' %s', collection)
                ELSE format('embver rollout status %s', collection) END);
    END IF;
    UPDATE embver_internal.rollout AS r SET state = 'rolled_back', ended_at = now()
    WHERE r.rollout_id = (
        SELECT x.rollout_id FROM embver_internal.rollout AS x
        WHERE x.collection_id = v_collection.collection_id AND x.state = 'promoted'
            AND x.to_version = v_route.active
        ORDER BY x.rollout_id DESC LIMIT 1)
    RETURNING r.rollout_id INTO v_rollout_id;
    PERFORM embver_internal.change_state(
        embver_internal.find_version(v_collection.collection_id, v_route.active), 'ready',
        'rollback', reason, v_rollout_id);
    PERFORM embver_internal.change_state(
        embver_internal.find_version(v_collection.collection_id, v_route.previous), 'active',
        'rollback', reason, v_rollout_id);
END
$fn$;
COMMENT ON FUNCTION embver.rollback(text, text) IS
'The previous version is active again, by one row update. The version left behind stays written'
' and can be promoted again.';

CREATE OR REPLACE FUNCTION embver.retire_version(
    collection text, version int, force boolean DEFAULT false, reason text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_version embver_internal.version;
    v_rollout embver_internal.rollout;
    v_others int[];
BEGIN
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    v_version := embver_internal.find_version(v_collection.collection_id, version);
    SELECT r.* INTO v_rollout FROM embver_internal.rollout AS r
    WHERE r.collection_id = v_collection.collection_id AND r.state IN ('running', 'paused')
        AND r.to_version = v_version.version;
    IF FOUND THEN
        PERFORM embver_internal.fail('VM010',
            format('version %s of %L is the target of a rollout', v_version.version, collection),
            jsonb_build_object('collection', collection, 'version', v_version.version,
                'from', v_version.state, 'to', 'retired', 'allowed', ARRAY['abort_rollout']),
            format('embver rollout abort %s', collection));
    END IF;
    IF v_version.state = 'active' THEN
        SELECT array_agg(v.version ORDER BY v.version) INTO v_others
        FROM embver_internal.version AS v
        WHERE v.collection_id = v_collection.collection_id AND v.version <> v_version.version
            AND v.state IN ('filling', 'ready', 'fallback');
        IF v_others IS NOT NULL OR NOT coalesce(force, false) THEN
            PERFORM embver_internal.fail('VM010',
                format('version %s of %L is active: retiring it ends its searches',
                    v_version.version, collection),
                jsonb_build_object('collection', collection, 'version', v_version.version,
                    'from', 'active', 'to', 'retired', 'live', v_others,
                    'allowed', ARRAY['fallback', 'ready']),
                CASE WHEN v_others IS NOT NULL
                    THEN format('first promote or retire version %s', v_others[1])
                    ELSE format('to give the collection up: embver version retire %s %s --force'
                        ' --reason …', collection, v_version.version) END);
        ELSIF coalesce(btrim(reason), '') = '' THEN
            PERFORM embver_internal.fail('VM006', 'force needs a reason',
                jsonb_build_object('force', true),
                'retire_version(…, force => true, reason => ''why'')');
        END IF;
    END IF;
    PERFORM embver_internal.change_state(v_version, 'retired', 'retire_version', reason);
    PERFORM embver_internal.stop_writes(v_collection, v_version.version);
END
$fn$;
COMMENT ON FUNCTION embver.retire_version(text, int, boolean, text) IS
'Stops the writes of a version that serves no more; dropping it is a separate step. The last live'
' version, which is active, only with force and a reason: the searches of the collection end.';

CREATE OR REPLACE FUNCTION embver.set_route(
    collection text, mode text, share float8 DEFAULT NULL, reason text DEFAULT NULL,
    options jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_route embver_internal.route;
    v_after embver_internal.route;
    v_option record;
    v_valid boolean;
BEGIN
    IF mode IS NULL OR mode NOT IN ('single', 'split', 'fused', 'bridged') THEN
        PERFORM embver_internal.fail('VM006', format('a route cannot have mode %L', mode),
            jsonb_build_object('mode', mode,
                'modes', ARRAY['single', 'split', 'fused', 'bridged']),
            'rrf_partial, rrf and zscore are asked for by search(…, mode => …)');
    ELSIF (mode = 'split') <> (share IS NOT NULL) OR NOT share BETWEEN 0 AND 1
        OR share = 'NaN' THEN
        PERFORM embver_internal.fail('VM006', 'a share, from 0 to 1, goes with mode split',
            jsonb_build_object('mode', mode, 'share', share), CASE mode WHEN 'split'
                THEN 'share => 0.1' ELSE 'leave share out' END);
    ELSIF jsonb_typeof(coalesce(options, '{}')) <> 'object' THEN
        PERFORM embver_internal.fail('VM006', 'options must be a JSON object',
            jsonb_build_object('options', options), 'options => ''{"weight": 0.5}''');
    END IF;
    SELECT t.* INTO v_route FROM embver_internal.route AS t
    WHERE t.collection = v_collection.name FOR NO KEY UPDATE;
    v_after := v_route;
    v_after.mode := mode;
    v_after.share := share;
    v_after.allow := '{}';
    v_after.weight := 0.5;
    FOR v_option IN SELECT o.key, o.value FROM jsonb_each(coalesce(options, '{}')) AS o LOOP
        v_valid := CASE v_option.key
            WHEN 'weight' THEN mode = 'fused' AND CASE jsonb_typeof(v_option.value)
                WHEN 'number' THEN (v_option.value)::numeric BETWEEN 0 AND 1 END
            WHEN 'allow' THEN mode = 'split' AND CASE jsonb_typeof(v_option.value)
                WHEN 'array' THEN NOT EXISTS (
                    SELECT FROM jsonb_array_elements(v_option.value) AS x
                    WHERE jsonb_typeof(x.value) <> 'string') END
            ELSE false END;
        IF NOT coalesce(v_valid, false) THEN
            PERFORM embver_internal.fail('VM006',
                format('route option %L: %s is unknown, out of range or not of mode %s',
                    v_option.key, v_option.value, mode),
                jsonb_build_object('option', v_option.key, 'value', v_option.value, 'mode', mode),
                'options are weight (0 to 1, with fused) and allow (list of route keys, with split)');
        END IF;
        CASE v_option.key
            WHEN 'weight' THEN v_after.weight := (v_option.value)::float8;
            ELSE v_after.allow := ARRAY(SELECT jsonb_array_elements_text(v_option.value));
        END CASE;
    END LOOP;
    IF mode <> 'single' AND (v_route.older IS NULL OR v_route.newer IS NULL) THEN
        PERFORM embver_internal.refuse_pair(v_route, mode);
    ELSIF mode = 'split' AND embver_internal.newer_coverage(v_route) < 1 THEN
        -- Who is sent to a version that is half filled finds half.
        PERFORM embver_internal.fail('VM011',
            format('version %s of %L is not filled: a split sends searches to it alone',
                v_route.newer, v_collection.name),
            jsonb_build_object('collection', v_collection.name, 'version', v_route.newer,
                'coverage', v_route.coverage),
            format('let the workers finish, or: embver route set %s fused',
                v_collection.name));
    END IF;
    UPDATE embver_internal.route AS t SET mode = v_after.mode, share = v_after.share,
        allow = v_after.allow, weight = v_after.weight, changed_at = now()
    WHERE t.collection = v_collection.name;
    PERFORM embver_internal.record_event(v_collection.name, v_route.newer, 'set_route', reason,
        to_jsonb(v_route), jsonb_build_object('mode', mode, 'share', share,
            'older', v_route.older, 'newer', v_route.newer, 'weight', v_after.weight,
            'allow', v_after.allow));
END
$fn$;
COMMENT ON FUNCTION embver.set_route(text, text, float8, text, jsonb) IS
'How searches are answered from now on: single, split (a share of the route keys goes to the newer'
' version), fused or bridged (both answer together). options: weight, allow.';

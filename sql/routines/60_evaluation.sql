-- Golden sets, evaluations and gates: what was measured is kept, and promotions read it.

CREATE OR REPLACE FUNCTION embver_internal.key_as_text(p_key jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN CASE WHEN jsonb_array_length(p_key) = 1 THEN p_key ->> 0 ELSE p_key::text END;
COMMENT ON FUNCTION embver_internal.key_as_text(jsonb) IS
'How a golden set names a document: the key as text, of a composite key a JSON array of texts.';

CREATE OR REPLACE FUNCTION embver_internal.import_golden_set(
    p_collection text, p_name text, p_queries text[], p_texts text[],
    p_judged text[], p_documents text[], p_grades int[]
) RETURNS TABLE (set_version int, queries int, judgments int, unknown_documents int)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_id int;
    v_unknown int;
    v_version int;
    v_example text[];
BEGIN
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    EXECUTE format($sql$
        SELECT count(*), (array_agg(j.document))[1:5] FROM (SELECT DISTINCT unnest($1) AS document) AS j
        WHERE NOT EXISTS (SELECT FROM %I.document_names() AS d WHERE d.name = j.document)
        $sql$, 'embver_' || v_collection.name)
    INTO v_unknown, v_example USING p_documents;
    IF v_unknown > 0 AND v_unknown = (SELECT count(DISTINCT x) FROM unnest(p_documents) AS u (x)) THEN
        PERFORM embver_internal.fail('VM006',
            format('none of the %s judged documents is in %L', v_unknown, p_collection),
            jsonb_build_object('collection', p_collection, 'unknown_documents', v_unknown,
                'examples', v_example, 'key_columns', v_collection.key_columns),
            'judgments name documents by their key as text; a composite key is a JSON array of'
            ' texts, such as ["7", "eu"]');
    END IF;
    v_version := 1 + coalesce((SELECT max(s.set_version) FROM embver_internal.golden_set AS s
        WHERE s.collection_id = v_collection.collection_id AND s.name = p_name), 0);
    INSERT INTO embver_internal.golden_set AS s
        (collection_id, name, set_version, queries, judgments, unknown_documents)
    VALUES (v_collection.collection_id, p_name, v_version, cardinality(p_queries),
        cardinality(p_documents), v_unknown)
    RETURNING s.golden_set_id INTO v_id;
    INSERT INTO embver_internal.golden_query (golden_set_id, query_id, query)
    SELECT v_id, q.id, q.query FROM unnest(p_queries, p_texts) AS q (id, query);
    INSERT INTO embver_internal.golden_judgment (golden_set_id, query_id, document, grade)
    SELECT v_id, j.query_id, j.document, j.grade
    FROM unnest(p_judged, p_documents, p_grades) AS j (query_id, document, grade);
    PERFORM embver_internal.record_event(p_collection, NULL, 'import_golden_set', NULL, NULL,
        jsonb_build_object('name', p_name, 'set_version', v_version,
            'queries', cardinality(p_queries), 'unknown_documents', v_unknown));
    RETURN QUERY SELECT v_version, cardinality(p_queries), cardinality(p_documents), v_unknown;
END
$fn$;
COMMENT ON FUNCTION embver_internal.import_golden_set(
    text, text, text[], text[], text[], text[], int[]
) IS 'Stores a golden set as the next version of its name, and counts documents that do not exist.';

CREATE OR REPLACE FUNCTION embver_internal.find_golden_set(p_collection text, p_name text)
RETURNS embver_internal.golden_set
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_set embver_internal.golden_set;
BEGIN
    SELECT s.* INTO v_set FROM embver_internal.golden_set AS s
    WHERE s.collection_id = v_collection.collection_id AND (p_name IS NULL OR s.name = p_name)
    ORDER BY s.imported_at DESC, s.golden_set_id DESC LIMIT 1;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM006', CASE WHEN p_name IS NULL
                THEN format('collection %L has no golden set', p_collection)
                ELSE format('collection %L has no golden set %L', p_collection, p_name) END,
            jsonb_build_object('collection', p_collection, 'golden_set', p_name),
            format('embver golden import %s PATH', p_collection));
    END IF;
    RETURN v_set;
END
$fn$;
COMMENT ON FUNCTION embver_internal.find_golden_set(text, text) IS
'The newest golden set of that name (or at all), or VM006.';

CREATE OR REPLACE FUNCTION embver_internal.record_evaluation(
    p_collection text, p_version int, p_golden_set_id int, p_mode text, p_exact boolean, p_k int,
    p_started_at timestamptz, p_queries text[], p_ndcg float8[], p_recall float8[],
    p_mrr float8[], p_seconds float8[]
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version :=
        embver_internal.find_version(v_collection.collection_id, p_version);
    v_documents bigint;
    v_id bigint;
BEGIN
    EXECUTE format('SELECT %I.count_vectors()',
        embver_internal.store_name(p_collection, p_version)) INTO v_documents;
    INSERT INTO embver_internal.evaluation AS e
        (collection_id, version, golden_set_id, fingerprint, index_spec, mode, exact, k, queries,
            ndcg, recall, mrr, documents, started_at)
    SELECT v_collection.collection_id, p_version, p_golden_set_id, v_version.fingerprint,
        v_version.index_spec, p_mode, p_exact, p_k, count(*), avg(q.ndcg), avg(q.recall),
        avg(q.mrr), v_documents, p_started_at
    FROM unnest(p_ndcg, p_recall, p_mrr) AS q (ndcg, recall, mrr)
    RETURNING e.evaluation_id INTO v_id;
    INSERT INTO embver_internal.evaluation_query
        (evaluation_id, query_id, ndcg, recall, mrr, seconds)
    SELECT v_id, q.* FROM unnest(p_queries, p_ndcg, p_recall, p_mrr, p_seconds) AS q;
    RETURN v_id;
END
$fn$;
COMMENT ON FUNCTION embver_internal.record_evaluation(
    text, int, int, text, boolean, int, timestamptz, text[], float8[], float8[], float8[],
    float8[]
) IS 'Keeps one measured run, per query.';

CREATE OR REPLACE FUNCTION embver_internal.record_gate(
    p_collection text, p_candidate bigint, p_baseline bigint, p_metric text, p_margin float8,
    p_alpha float8, p_queries int, p_difference float8, p_lower_bound float8,
    p_certifiable_margin float8
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_id bigint;
BEGIN
    INSERT INTO embver_internal.gate AS g
        (collection_id, candidate_evaluation, baseline_evaluation, metric, margin, alpha, queries,
            difference, lower_bound, certifiable_margin, passed)
    VALUES (v_collection.collection_id, p_candidate, p_baseline, p_metric, p_margin, p_alpha,
        p_queries, p_difference, p_lower_bound, p_certifiable_margin, p_lower_bound > -p_margin)
    RETURNING g.gate_id INTO v_id;
    PERFORM embver_internal.record_event(p_collection,
        (SELECT e.version FROM embver_internal.evaluation AS e WHERE e.evaluation_id = p_candidate),
        'gate', NULL, NULL, jsonb_build_object('gate', v_id, 'passed', p_lower_bound > -p_margin,
            'difference', p_difference, 'bound', p_lower_bound, 'margin', p_margin));
    RETURN v_id;
END
$fn$;
COMMENT ON FUNCTION embver_internal.record_gate(
    text, bigint, bigint, text, float8, float8, int, float8, float8, float8
) IS 'Keeps the decision of a comparison; whether it passed follows from the bound.';

CREATE OR REPLACE FUNCTION embver_internal.search_setting(
    p_index_spec jsonb, p_k int, OUT setting text, OUT value int
)
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
SELECT 'ef_search', least(greatest(p_k, 40), 1000) WHERE p_index_spec ->> 'type' = 'hnsw';
$fn$;
COMMENT ON FUNCTION embver_internal.search_setting(jsonb, int) IS
'The search option that trades time for recall with such an index, and its value where a search'
' does not set it; NULL where searches are exact.';

CREATE OR REPLACE FUNCTION embver_internal.record_ann_recall(
    p_collection text, p_version int, p_k int, p_setting text, p_values int[], p_recall float8[],
    p_lower float8[], p_upper float8[], p_seconds float8[], p_golden_queries int,
    p_stored_queries int, p_measured_at timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version :=
        embver_internal.find_version(v_collection.collection_id, p_version);
    v_documents bigint;
BEGIN
    EXECUTE format('SELECT %I.count_vectors()',
        embver_internal.store_name(p_collection, p_version)) INTO v_documents;
    INSERT INTO embver_internal.ann_recall
        (collection_id, version, fingerprint, index_spec, k, setting, value, golden_queries,
            stored_queries, recall, lower_bound, upper_bound, seconds, documents, measured_at)
    SELECT v_collection.collection_id, p_version, v_version.fingerprint, v_version.index_spec, p_k,
        p_setting, m.value, p_golden_queries, p_stored_queries, m.recall, m.lower_bound,
        m.upper_bound, m.seconds, v_documents, p_measured_at
    FROM unnest(p_values, p_recall, p_lower, p_upper, p_seconds)
        AS m (value, recall, lower_bound, upper_bound, seconds)
    ORDER BY m.value;
END
$fn$;
COMMENT ON FUNCTION embver_internal.record_ann_recall(
    text, int, int, text, int[], float8[], float8[], float8[], float8[], int, int, timestamptz
) IS 'Keeps what one comparison of index and exact search found, a row for each setting.';

CREATE OR REPLACE FUNCTION embver_internal.is_ann_option(p_option jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
SELECT jsonb_typeof(p_option) = 'object' AND coalesce(p_option -> 'recall', 'null') <> 'null'
    AND (SELECT bool_and(CASE o.key
            WHEN 'recall' THEN (o.value #>> '{}')::float8 BETWEEN 0 AND 1
            WHEN 'ef_search' THEN (o.value #>> '{}')::int BETWEEN 1 AND 1000
            ELSE false END) AND count(*) <= 2
        FROM jsonb_each(
            CASE jsonb_typeof(p_option) WHEN 'object' THEN p_option ELSE '{}' END) AS o);
$fn$;
COMMENT ON FUNCTION embver_internal.is_ann_option(jsonb) IS
'Whether this is the rollout option ann: a recall, and the setting that searches will use.';

CREATE OR REPLACE FUNCTION embver_internal.check_ann_recall(
    p_collection embver_internal.collection, p_rollout embver_internal.rollout
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_version embver_internal.version :=
        embver_internal.find_version(p_collection.collection_id, p_rollout.to_version);
    v_goal float8 := (p_rollout.options #>> '{ann,recall}')::float8;
    v_k int := coalesce((p_rollout.options ->> 'k')::int, 10);
    v_setting text;
    v_value int;
    v_found embver_internal.ann_recall;
    v_enough int;
    v_changed bigint := 0;
    v_documents bigint;
    v_problem text;
BEGIN
    SELECT s.setting, s.value INTO v_setting, v_value
    FROM embver_internal.search_setting(v_version.index_spec, v_k) AS s;
    IF v_goal IS NULL OR v_setting IS NULL THEN
        RETURN; -- not asked for, or exact
    END IF;
    v_value := coalesce((p_rollout.options -> 'ann' ->> v_setting)::int, v_value);
    SELECT a.* INTO v_found FROM embver_internal.ann_recall AS a
    WHERE a.collection_id = p_collection.collection_id AND a.version = v_version.version
        AND a.fingerprint = v_version.fingerprint AND a.index_spec = v_version.index_spec
        AND a.k = v_k AND a.setting = v_setting AND a.value = v_value
    ORDER BY a.ann_recall_id DESC LIMIT 1;
    IF FOUND THEN
        EXECUTE format('SELECT %1$I.count_vectors(), %1$I.changed_since($1)',
            embver_internal.store_name(p_collection.name, v_version.version))
        INTO v_documents, v_changed USING v_found.measured_at;
        v_changed := greatest(v_changed, abs(v_documents - v_found.documents));
    END IF;
    v_problem := CASE
        WHEN v_found IS NULL THEN 'ann_not_measured'
        WHEN v_found.measured_at < now() - (p_rollout.options ->> 'max_age')::interval
            THEN 'ann_expired'
        WHEN v_changed > (p_rollout.options ->> 'max_changed')::float8 * v_documents
            THEN 'ann_documents_changed'
        WHEN v_found.lower_bound < v_goal THEN 'ann_recall' END;
    IF v_problem IS NULL THEN
        RETURN;
    END IF;
    SELECT min(a.value) INTO v_enough FROM embver_internal.ann_recall AS a
    WHERE a.collection_id = p_collection.collection_id AND a.version = v_version.version
        AND a.measured_at = v_found.measured_at AND a.k = v_k AND a.lower_bound >= v_goal;
    PERFORM embver_internal.fail('VM014', CASE v_problem
            WHEN 'ann_recall' THEN format('the index of version %s of %L finds %s of the exact'
                ' answers at %s %s, lower bound %s; %s is wanted', v_version.version,
                p_collection.name, round(v_found.recall::numeric, 4), v_setting, v_value,
                round(v_found.lower_bound::numeric, 4), v_goal)
            ELSE format('the recall of the index of version %s of %L at %s %s is not known: %s',
                v_version.version, p_collection.name, v_setting, v_value,
                replace(v_problem, '_', ' ')) END,
        jsonb_build_object('reason', v_problem, 'metric', 'ann_recall', 'candidate',
            v_version.version, 'k', v_k, 'setting', v_setting, 'value', v_value,
            'recall', v_found.recall, 'bound', v_found.lower_bound, 'goal', v_goal,
            'queries', v_found.golden_queries + v_found.stored_queries,
            'changed_documents', v_changed, 'enough', v_enough),
        CASE WHEN v_problem = 'ann_recall' AND v_enough IS NOT NULL
            THEN format('search with %1$s %2$s, and start the rollout with the option ann:'
                ' {"recall": %3$s, "%1$s": %2$s}', v_setting, v_enough, v_goal)
            WHEN v_problem = 'ann_recall'
            THEN format('give a version a better index: embver version add %s ENCODER --m …'
                ' --ef-construction …', p_collection.name)
            ELSE format('embver evaluate %s %s --ann --k %s', p_collection.name, v_version.version,
                v_k) END);
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_ann_recall(
    embver_internal.collection, embver_internal.rollout
) IS 'VM014 where the option ann asks for a recall that was not measured, or not reached.';

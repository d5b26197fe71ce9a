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

-- Search: what to encode for, the checked query, filters.

CREATE OR REPLACE FUNCTION embver_internal.search_modes() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT
RETURN ARRAY['single', 'split', 'fused', 'bridged', 'rrf_partial', 'rrf', 'zscore'];
COMMENT ON FUNCTION embver_internal.search_modes() IS 'The modes that search takes.';

CREATE OR REPLACE FUNCTION embver_internal.check_mode(p_mode text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF p_mode IS NULL OR p_mode <> ALL (embver_internal.search_modes()) THEN
        PERFORM embver_internal.fail('VM006', format('unknown mode %L', p_mode),
            jsonb_build_object('mode', p_mode, 'modes', embver_internal.search_modes()),
            'use mode => ''single'', or leave mode out');
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_mode(text) IS 'VM006 for a mode that is not built.';

CREATE OR REPLACE FUNCTION embver_internal.refuse_pair(p_route embver_internal.route, p_mode text)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    PERFORM embver_internal.fail('VM011',
        format('mode %s needs an active version of %L and one beside it', p_mode,
            p_route.collection),
        jsonb_build_object('collection', p_route.collection, 'mode', p_mode,
            'older', p_route.older, 'newer', p_route.newer),
        format('embver rollout start %s VERSION', p_route.collection));
END
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_pair(embver_internal.route, text) IS
'VM011 where no two versions can answer together.';

CREATE OR REPLACE FUNCTION embver_internal.newer_coverage(p_route embver_internal.route)
RETURNS float8
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN (
    SELECT CASE WHEN v.state = 'filling' THEN (p_route).coverage ELSE 1 END
    FROM embver_internal.version AS v
    INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
    WHERE c.name = (p_route).collection AND v.version = (p_route).newer);
COMMENT ON FUNCTION embver_internal.newer_coverage(embver_internal.route) IS
'Share of the older version''s vectors that the newer has; 1 once it is filled.';

CREATE OR REPLACE FUNCTION embver_internal.split_version(
    p_route embver_internal.route, p_route_key text
) RETURNS int
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN CASE
    WHEN p_route.allow @> ARRAY[p_route_key]
        -- The same key in the same place whatever the share: who is sent over stays.
        OR ('x' || left(md5(p_route.collection || ':' || p_route_key), 8))::bit(32)::bigint
            / 4294967296.0 < p_route.share
    THEN p_route.newer ELSE p_route.older END;
COMMENT ON FUNCTION embver_internal.split_version(embver_internal.route, text) IS
'The version that a split gives to a route key.';

CREATE OR REPLACE FUNCTION embver_internal.effective_mode(
    p_route embver_internal.route, p_mode text
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_has_bridge boolean;
BEGIN
    IF p_mode = 'single' THEN
        RETURN p_mode;
    ELSIF p_route.older IS NULL OR p_route.newer IS NULL THEN
        PERFORM embver_internal.refuse_pair(p_route, p_mode);
    ELSIF p_mode NOT IN ('fused', 'bridged') OR embver_internal.newer_coverage(p_route) >= 1 THEN
        RETURN p_mode;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.bridge AS b'
        ' WHERE b.bridge_from = $1 AND b.state = ''usable'')',
        embver_internal.store_name(p_route.collection, p_route.newer))
    INTO v_has_bridge USING p_route.older;
    RETURN CASE WHEN v_has_bridge THEN p_mode ELSE 'rrf_partial' END;
END
$fn$;
COMMENT ON FUNCTION embver_internal.effective_mode(embver_internal.route, text) IS
'The mode that answers: rrf_partial where fused or bridged has no bridge. VM011 without a pair.';

CREATE OR REPLACE FUNCTION embver_internal.versions_read(
    p_route embver_internal.route, p_mode text
) RETURNS int[]
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN CASE
    WHEN p_mode = 'bridged' OR (p_mode IN ('fused', 'rrf_partial')
        AND embver_internal.newer_coverage(p_route) >= 1) THEN ARRAY[p_route.newer]
    ELSE ARRAY[p_route.older, p_route.newer] END;
COMMENT ON FUNCTION embver_internal.versions_read(embver_internal.route, text) IS
'The versions whose queries a mode over two versions needs.';

CREATE OR REPLACE FUNCTION embver_internal.route_versions(
    p_collection text, p_route_key text, p_mode text
) RETURNS TABLE (
    version int, mode text, share float8, encoder jsonb, fingerprint text, dimensions int
)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_route embver_internal.route;
    v_mode text;
    v_versions int[];
BEGIN
    SELECT t.* INTO v_route FROM embver_internal.route AS t
    WHERE t.collection = v_collection.name;
    v_mode := coalesce(p_mode, v_route.mode);
    PERFORM embver_internal.check_mode(v_mode);
    IF v_route.active IS NULL THEN
        PERFORM embver_internal.fail('VM011',
            format('collection %L has no active version yet', v_collection.name),
            jsonb_build_object('collection', v_collection.name, 'versions', (
                SELECT coalesce(jsonb_object_agg(v.version, v.state), '{}')
                FROM embver_internal.version AS v
                WHERE v.collection_id = v_collection.collection_id)),
            format('embver rollout promote %s', v_collection.name));
    END IF;
    v_mode := embver_internal.effective_mode(v_route, v_mode);
    v_versions := CASE v_mode
        WHEN 'single' THEN ARRAY[v_route.active]
        WHEN 'split' THEN ARRAY[CASE WHEN p_route_key IS NOT NULL
            THEN embver_internal.split_version(v_route, p_route_key)
            WHEN random() < v_route.share THEN v_route.newer ELSE v_route.older END]
        ELSE embver_internal.versions_read(v_route, v_mode) END;
    RETURN QUERY
    SELECT v.version, v_mode, CASE WHEN v_mode <> 'split' THEN 1.0::float8
            WHEN v.version = v_route.newer THEN v_route.share ELSE 1 - v_route.share END,
        v.encoder, v.fingerprint, v.dimensions
    FROM embver_internal.version AS v
    WHERE v.collection_id = v_collection.collection_id AND v.version = ANY (v_versions)
    ORDER BY v.version = v_route.newer, v.version;
END
$fn$;
COMMENT ON FUNCTION embver_internal.route_versions(text, text, text) IS
'The versions that a search reads; VM011 where none is active yet.';

-- A parameter and a column are both named mode, which only SQL allows.
CREATE OR REPLACE FUNCTION embver.route(
    collection text, route_key text DEFAULT NULL, mode text DEFAULT NULL
) RETURNS TABLE (
    version int, mode text, share float8, encoder jsonb, fingerprint text, dimensions int
)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT r.* FROM embver_internal.route_versions($1, $2, $3) AS r;
$fn$;
COMMENT ON FUNCTION embver.route(text, text, text) IS
'Which versions a caller must encode its query for, now, and with which encoder. mode says what'
' will answer: rrf_partial where fused or bridged has no bridge yet.';

CREATE OR REPLACE FUNCTION embver_internal.refuse_query(p_collection text, p_version int)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_encode jsonb := (
        SELECT jsonb_agg(v.version ORDER BY v.version)
        FROM embver_internal.route AS t
        INNER JOIN embver_internal.collection AS c ON c.name = t.collection
        INNER JOIN embver_internal.version AS v ON v.collection_id = c.collection_id
            AND v.version = t.active
        WHERE t.collection = p_collection);
BEGIN
    PERFORM embver_internal.fail('VM012',
        format('version %s of %L does not answer searches', p_version, p_collection),
        jsonb_build_object('collection', p_collection, 'version', p_version,
            'encode_for', coalesce(v_encode, '[]')),
        format('ask embver.route(%L) and encode the query for version %s', p_collection,
            coalesce(v_encode ->> 0, '… (none is active yet)')));
END
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_query(text, int) IS
'VM012 with the versions to encode for.';

CREATE OR REPLACE FUNCTION embver_internal.refuse_foreign_query(
    p_collection text, p_query embver.query_vector
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    PERFORM embver_internal.fail('VM012',
        CASE WHEN p_query.collection IS DISTINCT FROM p_collection
            THEN format('the query is of collection %L, not of %L', p_query.collection,
                p_collection)
            ELSE format('the query is of another space than version %s of %L', p_query.version,
                p_collection) END,
        jsonb_build_object('collection', p_collection, 'version', p_query.version,
            'query_collection', p_query.collection,
            'encode_for', coalesce((SELECT jsonb_build_array(t.active)
                FROM embver_internal.route AS t
                WHERE t.collection = p_collection AND t.active IS NOT NULL), '[]')),
        format('encode with what embver.route(%L) names, and tag it by embver.query(%1$L, …)',
            p_collection));
END
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_foreign_query(text, embver.query_vector) IS
'VM012 for a query of another collection, or one whose fingerprint is not the version''s.';

CREATE OR REPLACE FUNCTION embver.query(collection text, version int, embedding vector)
RETURNS embver.query_vector
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_fingerprint text;
    v_dimensions int;
BEGIN
    SELECT v.fingerprint, v.dimensions INTO v_fingerprint, v_dimensions
    FROM embver_internal.version AS v
    INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
    WHERE c.name = query.collection AND v.version = query.version AND v.state <> 'dropped';
    -- What is plainly right costs no call.
    IF NOT FOUND OR query.embedding IS NULL OR vector_dims(query.embedding) <> v_dimensions
        OR vector_norm(query.embedding) = 0 THEN
        PERFORM embver_internal.check_dimensions(
            embver_internal.find_version(
                (embver_internal.find_collection(query.collection)).collection_id, query.version),
            query.collection, query.embedding);
    END IF;
    RETURN ROW(query.collection, query.version, v_fingerprint, query.embedding)
        ::embver.query_vector;
END
$fn$;
COMMENT ON FUNCTION embver.query(text, int, vector) IS
'A query vector tagged with the space it was encoded for; what search takes.';

CREATE OR REPLACE FUNCTION embver_internal.check_dimensions(
    p_version embver_internal.version, p_collection text, p_embedding vector
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF p_embedding IS NULL THEN
        PERFORM embver_internal.fail('VM006', 'the query vector is NULL',
            jsonb_build_object('collection', p_collection, 'version', p_version.version),
            'encode the query first');
    ELSIF vector_dims(p_embedding) <> p_version.dimensions THEN
        PERFORM embver_internal.fail('VM013',
            format('version %s of %L has %s dimensions, the vector %s', p_version.version,
                p_collection, p_version.dimensions, vector_dims(p_embedding)),
            jsonb_build_object('collection', p_collection, 'version', p_version.version,
                'expected', p_version.dimensions, 'got', vector_dims(p_embedding)),
            format('encode with the encoder that embver.route(%L) names', p_collection));
    ELSIF p_version.metric = 'cosine' AND vector_norm(p_embedding) = 0 THEN
        PERFORM embver_internal.fail('VM006', 'the query vector is zero and has no direction',
            jsonb_build_object('collection', p_collection, 'version', p_version.version),
            'encode a text that is not empty');
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_dimensions(embver_internal.version, text, vector) IS
'VM013 for another number of dimensions, VM006 for NULL and for zero under cosine.';

CREATE OR REPLACE FUNCTION embver_internal.check_search_arguments(
    p_k int, p_mode text, p_options jsonb
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_option record;
    v_valid boolean;
BEGIN
    IF p_mode IS NOT NULL THEN
        PERFORM embver_internal.check_mode(p_mode);
    END IF;
    IF p_k IS NULL OR p_k < 1 OR p_k > 10000 THEN
        PERFORM embver_internal.fail('VM006',
            format('k must be from 1 to 10000, not %s', coalesce(p_k::text, 'NULL')),
            jsonb_build_object('k', p_k), 'k => 10');
    END IF;
    IF p_options = '{}' OR p_options IS NULL THEN
        RETURN;
    END IF;
    IF jsonb_typeof(p_options) <> 'object' THEN
        PERFORM embver_internal.fail('VM006', 'options must be a JSON object',
            jsonb_build_object('options', p_options), 'options => ''{"ef_search": 100}''');
    END IF;
    FOR v_option IN SELECT o.key, o.value FROM jsonb_each(p_options) AS o LOOP
        v_valid := CASE v_option.key
            WHEN 'exact' THEN jsonb_typeof(v_option.value) = 'boolean'
            WHEN 'ef_search' THEN jsonb_typeof(v_option.value) = 'number'
                AND v_option.value::numeric BETWEEN 1 AND 1000 AND v_option.value::numeric % 1 = 0
            ELSE false END;
        IF NOT v_valid THEN
            PERFORM embver_internal.fail('VM006',
                format('search option %L: %s is unknown or out of range', v_option.key,
                    v_option.value),
                jsonb_build_object('option', v_option.key, 'value', v_option.value),
                'options are exact (boolean) and ef_search (1 to 1000)');
        END IF;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_search_arguments(int, text, jsonb) IS
'VM006 for a k, mode or option that search does not take.';

CREATE OR REPLACE FUNCTION embver_internal.plan_search(
    p_collection text, p_queries embver.query_vector[], p_k int, p_route_key text, p_mode text,
    p_options jsonb
) RETURNS embver_internal.search_plan
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_plan embver_internal.search_plan;
    v_route embver_internal.route;
    v_query embver.query_vector;
    v_version record;
    v_preferred int;
    v_needed int[];
BEGIN
    -- Every search passes here: what is plainly right costs no call.
    IF p_k IS NULL OR p_k NOT BETWEEN 1 AND 10000 OR p_mode IS NOT NULL OR p_options <> '{}' THEN
        PERFORM embver_internal.check_search_arguments(p_k, p_mode, p_options);
    END IF;
    IF coalesce(cardinality(p_queries), 0) = 0 THEN
        PERFORM embver_internal.fail('VM006', 'there is no query vector',
            jsonb_build_object('collection', p_collection),
            format('pass ARRAY[embver.query(%L, version, vector)]', p_collection));
    END IF;
    SELECT t.* INTO v_route FROM embver_internal.route AS t WHERE t.collection = p_collection;
    v_plan.mode := coalesce(p_mode, v_route.mode);
    v_preferred := CASE v_plan.mode
        WHEN 'single' THEN CASE WHEN p_mode IS NULL THEN v_route.active END
        WHEN 'split' THEN CASE WHEN p_route_key IS NOT NULL
            THEN embver_internal.split_version(v_route, p_route_key) END END;
    FOREACH v_query IN ARRAY p_queries LOOP
        IF v_query IS NULL THEN
            PERFORM embver_internal.fail('VM006', 'a query vector is NULL',
                jsonb_build_object('collection', p_collection),
                format('pass ARRAY[embver.query(%L, version, vector)]', p_collection));
        END IF;
        SELECT v.fingerprint, v.dimensions INTO v_version FROM embver_internal.version AS v
        INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
        WHERE c.name = p_collection AND v.version = v_query.version AND v.state <> 'dropped';
        IF v_query.collection IS DISTINCT FROM p_collection
            OR (FOUND AND v_query.fingerprint IS DISTINCT FROM v_version.fingerprint) THEN
            PERFORM embver_internal.refuse_foreign_query(p_collection, v_query);
        ELSIF v_version IS NULL THEN
            PERFORM embver_internal.refuse_query(p_collection, v_query.version);
        END IF;
        IF v_query.embedding IS NULL OR vector_dims(v_query.embedding) <> v_version.dimensions
            OR vector_norm(v_query.embedding) = 0 THEN
            PERFORM embver_internal.check_dimensions(
                embver_internal.find_version(
                    (embver_internal.find_collection(p_collection)).collection_id,
                    v_query.version), p_collection, v_query.embedding);
        END IF;
        IF v_query.version = v_route.older THEN
            v_plan.older := v_query;
        ELSIF v_query.version = v_route.newer THEN
            v_plan.newer := v_query;
        END IF;
        -- Asked for by name, any live version answers its own vectors; else those that serve, and
        -- of a route over two versions both.
        IF (v_query.version = ANY (CASE WHEN p_mode IS NULL THEN v_route.serving
                ELSE v_route.live END)
                OR (v_plan.mode <> 'single' AND v_query.version IN (v_route.older, v_route.newer)))
            AND (v_plan.query IS NULL OR v_query.version = v_preferred) THEN
            v_plan.query := v_query;
        END IF;
    END LOOP;
    IF v_plan.mode <> 'single' THEN
        v_plan.mode := embver_internal.effective_mode(v_route, v_plan.mode);
    END IF;
    IF v_plan.mode NOT IN ('single', 'split') THEN
        v_needed := embver_internal.versions_read(v_route, v_plan.mode);
        IF v_plan.newer IS NULL OR (v_plan.older IS NULL AND v_route.older = ANY (v_needed)) THEN
            PERFORM embver_internal.fail('VM012',
                format('mode %s of %L needs a query of each of the versions %s', v_plan.mode,
                    p_collection, array_to_string(v_needed, ' and ')),
                jsonb_build_object('collection', p_collection, 'mode', v_plan.mode,
                    'encode_for', v_needed),
                format('ask embver.route(%L) and encode the query for each version that it names',
                    p_collection));
        END IF;
        v_plan.pair := v_route.older || '_' || v_route.newer;
        v_plan.weight := v_route.weight;
        v_plan.coverage := embver_internal.newer_coverage(v_route);
        RETURN v_plan;
    ELSIF v_plan.query IS NULL THEN
        PERFORM embver_internal.refuse_query(p_collection, v_query.version);
    END IF;
    RETURN v_plan;
END
$fn$;
COMMENT ON FUNCTION embver_internal.plan_search(
    text, embver.query_vector[], int, text, text, jsonb
) IS 'Checks every query vector and says which versions answer and how: the route, or mode.';

CREATE OR REPLACE FUNCTION embver_internal.record_coverage(
    p_collection text, p_version int, p_coverage float8
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
-- A sample without a gap is no proof: at 1 the older version is not asked any more, and that is
-- for the state to say.
UPDATE embver_internal.route AS r SET coverage = least(p_coverage, 0.999)
FROM (SELECT x.collection FROM embver_internal.route AS x
    WHERE x.collection = p_collection AND x.newer = p_version AND p_coverage IS NOT NULL
        AND x.coverage + 0.005 < least(p_coverage, 0.999)
    -- A promotion under way is not waited for.
    FOR NO KEY UPDATE SKIP LOCKED) AS l
WHERE r.collection = l.collection;
$fn$;
COMMENT ON FUNCTION embver_internal.record_coverage(text, int, float8) IS
'Keeps how much of the newer version there is, which only grows.';

CREATE OR REPLACE FUNCTION embver_internal.filter_condition(
    p_collection text, p_source regclass, p_filter jsonb
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_conditions text[] := '{}';
    v_entry record;
    v_operator record;
    v_type text;
    v_values text[];
    v_comparison text;
BEGIN
    IF jsonb_typeof(p_filter) IS DISTINCT FROM 'object' THEN
        PERFORM embver_internal.refuse_filter(p_collection, p_filter, 'it is not a JSON object');
    END IF;
    FOR v_entry IN SELECT f.key, f.value FROM jsonb_each(p_filter) AS f LOOP
        IF v_entry.key IN ('$and', '$or') THEN
            IF jsonb_typeof(v_entry.value) <> 'array' OR jsonb_array_length(v_entry.value) = 0 THEN
                PERFORM embver_internal.refuse_filter(p_collection, p_filter,
                    format('%s takes a list of filters', v_entry.key));
            END IF;
            v_conditions := v_conditions || (
                SELECT '(' || string_agg(
                    embver_internal.filter_condition(p_collection, p_source, x.value),
                    CASE v_entry.key WHEN '$and' THEN ' AND ' ELSE ' OR ' END) || ')'
                FROM jsonb_array_elements(v_entry.value) AS x);
            CONTINUE;
        END IF;
        SELECT format_type(a.atttypid, -1) INTO v_type FROM pg_attribute AS a
        WHERE a.attrelid = p_source AND a.attname = v_entry.key
            AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            PERFORM embver_internal.refuse_filter(p_collection, p_filter,
                format('the source has no column %I', v_entry.key));
        END IF;
        IF v_entry.value = '{}' THEN
            PERFORM embver_internal.refuse_filter(p_collection, p_filter,
                format('%I: {} names no operator', v_entry.key));
        END IF;
        FOR v_operator IN
            SELECT o.key, o.value FROM jsonb_each(CASE jsonb_typeof(v_entry.value)
                WHEN 'object' THEN v_entry.value
                ELSE jsonb_build_object('$eq', v_entry.value) END) AS o
        LOOP
            IF v_operator.key NOT IN ('$eq', '$in', '$lt', '$lte', '$gt', '$gte')
                OR (jsonb_typeof(v_operator.value) = 'array') <> (v_operator.key = '$in')
                OR jsonb_typeof(v_operator.value) = 'object'
                OR (jsonb_typeof(v_operator.value) = 'null' AND v_operator.key <> '$eq') THEN
                PERFORM embver_internal.refuse_filter(p_collection, p_filter,
                    format('%I: %s %s is not an operator with its operand', v_entry.key,
                        v_operator.key, v_operator.value));
            END IF;
            v_values := CASE WHEN v_operator.key = '$in'
                THEN ARRAY(SELECT jsonb_array_elements_text(v_operator.value))
                ELSE ARRAY[v_operator.value #>> '{}'] END;
            v_comparison := CASE
                WHEN v_operator.key = '$in'
                    THEN format('= ANY (%L::%s[])', v_values::text, v_type)
                WHEN v_values[1] IS NULL THEN 'IS NULL'
                ELSE format('%s %L::%s', CASE v_operator.key
                        WHEN '$eq' THEN '=' WHEN '$lt' THEN '<' WHEN '$lte' THEN '<='
                        WHEN '$gt' THEN '>' ELSE '>=' END, v_values[1], v_type) END;
            BEGIN
                -- Are the values of the column's type, and does the type have the operator?
                EXECUTE format('SELECT %L::%s %s', v_values[1], v_type, v_comparison);
            EXCEPTION
                WHEN data_exception OR integrity_constraint_violation
                    OR syntax_error_or_access_rule_violation THEN
                PERFORM embver_internal.refuse_filter(p_collection, p_filter,
                    format('%I, which is %s, cannot be compared with %s: %s', v_entry.key, v_type,
                        v_operator.value, SQLERRM));
            END;
            v_conditions := v_conditions || format('embver_row.%I %s', v_entry.key, v_comparison);
        END LOOP;
    END LOOP;
    RETURN coalesce(nullif(array_to_string(v_conditions, ' AND '), ''), 'true');
END
$fn$;
COMMENT ON FUNCTION embver_internal.filter_condition(text, regclass, jsonb) IS
'A filter as a condition over the source row embver_row: names and values quoted, values of the'
' column''s type. VM006 for what is no filter.';

CREATE OR REPLACE FUNCTION embver_internal.refuse_filter(
    p_collection text, p_filter jsonb, p_reason text
) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.fail('VM006', format('the filter is refused: %s', p_reason),
    jsonb_build_object('collection', p_collection, 'filter', p_filter, 'reason', p_reason),
    'filter => ''{"tenant": 5, "year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]}}''');
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_filter(text, jsonb, text) IS 'Raises VM006.';

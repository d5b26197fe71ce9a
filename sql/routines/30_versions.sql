-- Versions: registering, attaching and dropping a store. The tables of a store are made by the
-- Alembic line `store`, between register_version and attach_store, in one transaction.

CREATE OR REPLACE FUNCTION embver_internal.writable_versions()
RETURNS TABLE (
    collection text, version int, state text, store text, encoder jsonb, fingerprint text,
    dimensions int, metric text, element_type text, index_spec jsonb
)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT c.name, v.version, v.state, embver_internal.store_name(c.name, v.version), v.encoder,
    v.fingerprint, v.dimensions, v.metric, v.element_type, v.index_spec
FROM embver_internal.version AS v
INNER JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id
WHERE v.state IN ('filling', 'ready', 'active', 'fallback')
    AND NOT EXISTS (
        SELECT FROM embver_internal.rollout AS r
        WHERE r.collection_id = v.collection_id AND r.to_version = v.version
            AND r.state = 'paused')
ORDER BY c.name, v.version;
$fn$;
COMMENT ON FUNCTION embver_internal.writable_versions() IS
'What workers write: live versions, without the target of a paused rollout.';

CREATE OR REPLACE FUNCTION embver_internal.check_chunker(p_chunker jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_size numeric;
    v_overlap numeric;
BEGIN
    IF p_chunker IS NULL THEN
        RETURN;
    END IF;
    IF jsonb_typeof(p_chunker) = 'object' THEN
        v_size := CASE jsonb_typeof(p_chunker -> 'size') WHEN 'number'
            THEN (p_chunker -> 'size')::numeric END;
        v_overlap := CASE jsonb_typeof(p_chunker -> 'overlap') WHEN 'number'
            THEN (p_chunker -> 'overlap')::numeric END;
    END IF;
    IF v_size IS NULL OR v_size % 1 <> 0 OR v_size NOT BETWEEN 1 AND 1000000
        OR v_overlap IS NULL OR v_overlap % 1 <> 0 OR v_overlap < 0 OR v_overlap >= v_size
        OR coalesce(p_chunker ->> 'type', '') NOT IN ('characters', 'tokens')
        OR p_chunker - ARRAY['type', 'size', 'overlap'] <> '{}' THEN
        PERFORM embver_internal.fail('VM006', format('the chunker %s is unknown or out of range',
                p_chunker), jsonb_build_object('chunker', p_chunker),
            '{"type": "characters", "size": 1000, "overlap": 100}: characters or tokens, whole'
            ' numbers, size 1 to 1000000, overlap less than size');
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_chunker(jsonb) IS
'VM006 for what says nothing of how documents are cut.';

CREATE OR REPLACE FUNCTION embver_internal.register_version(
    p_collection text, p_encoder jsonb, p_fingerprint text, p_dimensions int,
    p_metric text DEFAULT 'cosine', p_element_type text DEFAULT 'vector',
    p_index_spec jsonb DEFAULT '{"type": "hnsw"}', p_expected_version int DEFAULT NULL,
    p_chunker jsonb DEFAULT NULL
) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version int;
    v_limit int := CASE p_element_type WHEN 'vector' THEN 2000 WHEN 'halfvec' THEN 4000 END;
    v_unknown text;
    v_m int;
    v_ef_construction int;
BEGIN
    -- Two at once: the second waits here and takes the next number.
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    IF jsonb_typeof(p_encoder) IS DISTINCT FROM 'object'
        OR coalesce(btrim(p_fingerprint), '') = '' THEN
        PERFORM embver_internal.fail('VM006', 'a version needs an encoder and its fingerprint',
            jsonb_build_object('encoder', p_encoder, 'fingerprint', p_fingerprint),
            format('embver version add %s ENCODER', p_collection));
    ELSIF v_limit IS NULL THEN
        PERFORM embver_internal.fail('VM006', format('unknown element type %L', p_element_type),
            jsonb_build_object('element_type', p_element_type), 'use vector or halfvec');
    ELSIF p_metric IS NULL OR p_metric NOT IN ('cosine', 'l2', 'ip') THEN
        PERFORM embver_internal.fail('VM006', format('unknown metric %L', p_metric),
            jsonb_build_object('metric', p_metric), 'use cosine, l2 or ip');
    ELSIF p_dimensions IS NULL OR p_dimensions < 1 OR p_dimensions > v_limit THEN
        PERFORM embver_internal.fail('VM006',
            format('an index over %s serves 1 to %s dimensions, not %s', p_element_type, v_limit,
                coalesce(p_dimensions::text, 'NULL')),
            jsonb_build_object('dimensions', p_dimensions, 'element_type', p_element_type,
                'limit', v_limit),
            CASE WHEN p_element_type = 'vector' AND p_dimensions <= 4000
                THEN 'use element_type halfvec (up to 4000 dimensions)'
                ELSE 'ask the model for fewer dimensions (Matryoshka truncation): the encoder''s'
                    ' option dimensions' END);
    END IF;
    IF jsonb_typeof(p_index_spec) IS DISTINCT FROM 'object'
        OR coalesce(p_index_spec ->> 'type', '') NOT IN ('hnsw', 'none') THEN
        PERFORM embver_internal.fail('VM006', format('unknown index %s', p_index_spec),
            jsonb_build_object('index', p_index_spec),
            'use {"type": "hnsw", "m": 16, "ef_construction": 64} or {"type": "none"}');
    END IF;
    SELECT o.key INTO v_unknown FROM jsonb_each(p_index_spec) AS o
    WHERE CASE
        WHEN o.key = 'type' THEN false
        WHEN p_index_spec ->> 'type' = 'none' OR o.key NOT IN ('m', 'ef_construction')
            OR jsonb_typeof(o.value) <> 'number' THEN true
        ELSE (o.value)::numeric % 1 <> 0 OR (o.value)::numeric NOT BETWEEN
            CASE o.key WHEN 'm' THEN 2 ELSE 4 END AND CASE o.key WHEN 'm' THEN 100 ELSE 1000 END
        END
    LIMIT 1;
    IF FOUND THEN
        PERFORM embver_internal.fail('VM006', format('index option %L is unknown or out of range',
                v_unknown), jsonb_build_object('index', p_index_spec),
            'm 2 to 100 and ef_construction 4 to 1000, whole numbers');
    END IF;
    v_m := coalesce((p_index_spec ->> 'm')::int, 16);
    v_ef_construction := coalesce((p_index_spec ->> 'ef_construction')::int, 64);
    IF v_ef_construction < 2 * v_m THEN
        PERFORM embver_internal.fail('VM006',
            format('ef_construction %s is less than twice m %s', v_ef_construction, v_m),
            jsonb_build_object('index', p_index_spec),
            format('{"type": "hnsw", "m": %s, "ef_construction": %s}', v_m, 2 * v_m));
    END IF;
    PERFORM embver_internal.check_chunker(p_chunker);
    PERFORM embver_internal.check_may_create('a version');
    v_version := 1 + coalesce((SELECT max(v.version) FROM embver_internal.version AS v
        WHERE v.collection_id = v_collection.collection_id), 0);
    IF v_version <> p_expected_version THEN
        PERFORM embver_internal.fail('VM010',
            format('the next version is %s, not %s', v_version, p_expected_version),
            jsonb_build_object('next', v_version, 'expected', p_expected_version),
            'print the script again: another version was added since');
    END IF;
    INSERT INTO embver_internal.version
        (collection_id, version, encoder, fingerprint, dimensions, metric, element_type, index_spec,
            chunker)
    VALUES (v_collection.collection_id, v_version, p_encoder, p_fingerprint, p_dimensions, p_metric,
        p_element_type, p_index_spec, p_chunker);
    IF p_element_type
        <> embver_internal.view_element_type(v_collection.collection_id) THEN
        RAISE WARNING USING MESSAGE = format('the views current and versions of %L show %s: this'
            ' version will be found by search and in its store only', p_collection,
            embver_internal.view_element_type(v_collection.collection_id));
    END IF;
    PERFORM embver_internal.record_event(p_collection, v_version, 'add_version', NULL, NULL,
        jsonb_build_object('fingerprint', p_fingerprint, 'dimensions', p_dimensions,
            'encoder', p_encoder)
        || CASE WHEN p_chunker IS NULL THEN '{}' ELSE jsonb_build_object('chunker', p_chunker) END);
    RETURN v_version;
END
$fn$;
COMMENT ON FUNCTION embver_internal.register_version(
    text, jsonb, text, int, text, text, jsonb, int, jsonb
) IS 'Registers the next version of a collection in state created, and returns its number.';

CREATE OR REPLACE FUNCTION embver_internal.render_store_schema(
    p_collection text, p_version int, p_template text
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, p_version);
    RETURN embver_internal.render(p_template,
        embver_internal.variables(v_collection.collection_id, p_version));
END
$fn$;
COMMENT ON FUNCTION embver_internal.render_store_schema(text, int, text) IS
'A file of sql/schema/store filled for one store.';

CREATE OR REPLACE FUNCTION embver_internal.attach_store(p_collection_id int, p_version int)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_variables jsonb := embver_internal.variables(p_collection_id, p_version);
    v_chunked boolean := v_variables ->> 'is_chunked';
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    v_variables := v_variables || jsonb_build_object('documents',
        embver_internal.render_template('store_documents'
            || CASE WHEN v_chunked THEN '_chunked' ELSE '' END, v_variables),
        'copy_chunks', CASE WHEN v_chunked
            THEN format('PERFORM %s.copy_chunks(p_walk, v_lease);', v_variables ->> 'store')
            ELSE '' END,
        'sampled_text', CASE WHEN v_chunked
            THEN 'substr(d.content, d.chunk_from + 1, d.chunk_to - d.chunk_from)'
            ELSE 'd.content' END);
    PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
        embver_internal.render_template('store_queue', v_variables)
        || embver_internal.render_template('store_origin', v_variables)
        || CASE WHEN v_chunked
            THEN embver_internal.render_template('store_origin_chunks', v_variables) ELSE '' END
        || embver_internal.render_template('store_walk', v_variables)
        || embver_internal.render_template('store_bridge', v_variables)
        || embver_internal.render_template('store_bridge_fit', v_variables)
        || embver_internal.render_template('store_access', v_variables)
        || embver_internal.store_grants(v_variables ->> 'store'));
END
$fn$;
COMMENT ON FUNCTION embver_internal.attach_store(int, int) IS
'(Re)creates the functions, policies and grants of a store.';

CREATE OR REPLACE FUNCTION embver_internal.drop_store(p_collection text, p_version int)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET lock_timeout = '2s'
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version;
BEGIN
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id FOR NO KEY UPDATE;
    v_version := embver_internal.find_version(v_collection.collection_id, p_version);
    PERFORM embver_internal.change_state(v_version, 'dropped', 'drop_version', NULL);
    PERFORM embver_internal.generate_search(v_collection.collection_id);
    PERFORM embver_internal.generate_views(v_collection.collection_id);
    PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
        format('DROP SCHEMA %I CASCADE', embver_internal.store_name(p_collection, p_version)));
END
$fn$;
COMMENT ON FUNCTION embver_internal.drop_store(text, int) IS
'Drops the store of a created or retired version. Callers wait for older writers first.';

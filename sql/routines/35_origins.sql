-- Origins: versions that are filled from vectors that exist already, a column, a side table or
-- another version. Each is checked against its encoder on a sample, by a client, before it starts.

CREATE OR REPLACE FUNCTION embver_internal.refuse_origin(p_reason text, p_detail jsonb, p_hint text)
RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.fail('VM006', format('the vectors cannot be adopted: %s', p_reason),
    p_detail || jsonb_build_object('reason', p_reason), p_hint);
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_origin(text, jsonb, text) IS 'Raises VM006.';

CREATE OR REPLACE FUNCTION embver_internal.check_origin_column(
    p_table regclass, p_column text, p_dimensions int
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_attribute pg_attribute;
    v_detail jsonb := jsonb_build_object('table', p_table::text, 'column', p_column);
BEGIN
    SELECT a.* INTO v_attribute FROM pg_attribute AS a
    WHERE a.attrelid = p_table AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        PERFORM embver_internal.refuse_origin(format('%s has no column %s', p_table,
            coalesce(quote_ident(p_column), 'NULL')), v_detail, 'name the column of the vectors');
    ELSIF NOT embver_internal.is_vector_type(v_attribute.atttypid) THEN
        PERFORM embver_internal.refuse_origin(format('%I is %s, not vector or halfvec', p_column,
                format_type(v_attribute.atttypid, v_attribute.atttypmod)), v_detail,
            format('ALTER TABLE %s ALTER COLUMN %I TYPE vector', p_table, p_column));
    ELSIF v_attribute.atttypmod > 0 AND v_attribute.atttypmod <> p_dimensions THEN
        PERFORM embver_internal.fail('VM013',
            format('%s.%I has %s dimensions, the encoder %s', p_table, p_column,
                v_attribute.atttypmod, p_dimensions),
            v_detail || jsonb_build_object('column_dimensions', v_attribute.atttypmod,
                'encoder_dimensions', p_dimensions),
            'name the encoder that made the vectors, with its option dimensions where it has one');
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_origin_column(regclass, text, int) IS
'Refuses a column that holds no vectors (VM006), or vectors of other dimensions (VM013).';

CREATE OR REPLACE FUNCTION embver_internal.join_origin_table(
    p_collection embver_internal.collection, p_table regclass, p_key_columns text[]
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_keys text[] := coalesce(p_key_columns, p_collection.key_columns);
    v_detail jsonb := jsonb_build_object('table', p_table::text, 'key_columns', v_keys);
    v_column text;
BEGIN
    IF cardinality(v_keys) <> cardinality(p_collection.key_columns) THEN
        PERFORM embver_internal.refuse_origin(format('the key of %L has %s columns, not %s',
                p_collection.name, cardinality(p_collection.key_columns), cardinality(v_keys)),
            v_detail, format('name those of %s that hold %s, in this order', p_table,
                array_to_string(p_collection.key_columns, ', ')));
    END IF;
    SELECT k INTO v_column FROM unnest(v_keys) AS u (k)
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p_table
        AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped);
    IF FOUND THEN
        PERFORM embver_internal.refuse_origin(format('%s has no column %s', p_table,
                coalesce(quote_ident(v_column), 'NULL')), v_detail,
            'name its columns that hold the documents'' key');
    ELSIF NOT EXISTS (
        SELECT FROM pg_index AS x
        WHERE x.indrelid = p_table AND x.indisunique AND x.indisvalid
            AND x.indpred IS NULL AND x.indexprs IS NULL
            AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
                 FROM unnest((x.indkey::int[])[0:x.indnkeyatts - 1]) AS k (attnum)
                 INNER JOIN pg_attribute AS a
                     ON a.attrelid = x.indrelid AND a.attnum = k.attnum)
                = (SELECT array_agg(c ORDER BY c) FROM unnest(v_keys) AS u (c))) THEN
        PERFORM embver_internal.refuse_origin(format('%s has no unique index on (%s)', p_table,
                array_to_string(v_keys, ', ')), v_detail,
            'one vector a document: CREATE UNIQUE INDEX CONCURRENTLY on these columns');
    END IF;
    RETURN format('LEFT JOIN %s AS embver_side ON ', p_table) || (
        SELECT string_agg(format('embver_%s.key_%s(embver_row) %s = embver_side.%I',
            p_collection.name, u.i, p_collection.key_collations[u.i], u.k), ' AND ' ORDER BY u.i)
        FROM unnest(v_keys) WITH ORDINALITY AS u (k, i));
END
$fn$;
COMMENT ON FUNCTION embver_internal.join_origin_table(
    embver_internal.collection, regclass, text[]
) IS 'The join of a side table of vectors to the source row embver_row; VM006 where it has no key.';

CREATE OR REPLACE FUNCTION embver_internal.stale_condition(p_source regclass, p_condition text)
RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_reason text;
BEGIN
    IF p_condition IS NULL THEN
        RETURN 'NULL::text';
    END IF;
    BEGIN
        RETURN (embver_internal.parse_content(p_source,
            format(E'CASE WHEN (\n%s\n) THEN ''stale'' END', p_condition))).expression;
    EXCEPTION WHEN SQLSTATE 'VM005' THEN
        GET STACKED DIAGNOSTICS v_reason = PG_EXCEPTION_DETAIL;
        v_reason := coalesce(v_reason::jsonb ->> 'reason', 'it must read columns of the source');
    END;
    PERFORM embver_internal.refuse_origin(
        format('stale_where %L is refused: %s', p_condition, v_reason),
        jsonb_build_object('stale_where', p_condition),
        'a condition over the source''s own columns, by immutable functions, such as'
        ' embedded_at < updated_at');
END
$fn$;
COMMENT ON FUNCTION embver_internal.stale_condition(regclass, text) IS
'A condition as an expression over a row d that is NULL where it does not hold; VM006 if unfit.';

CREATE OR REPLACE FUNCTION embver_internal.add_origin(
    p_collection text, p_version int, p_kind text, p_origin jsonb
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version :=
        embver_internal.find_version(v_collection.collection_id, p_version);
    v_table regclass := CASE p_kind WHEN 'column' THEN v_collection.source
        WHEN 'table' THEN to_regclass(p_origin ->> 'table') END;
    v_column text := p_origin ->> 'column';
    v_variables jsonb :=
        embver_internal.variables(v_collection.collection_id, p_version);
    v_normal text := 'CASE WHEN abs(vector_norm(%1$s) - 1) > 1e-5 THEN l2_normalize(%1$s)'
        ' ELSE %1$s END';
    v_vector text;
BEGIN
    IF v_version.state <> 'created' THEN
        PERFORM embver_internal.fail('VM010',
            format('version %s of %L is %s: its origin is fixed', p_version, p_collection,
                v_version.state),
            jsonb_build_object('version', p_version, 'from', v_version.state, 'to', 'created',
                'allowed', ARRAY['created']),
            format('embver version show %s %s', p_collection, p_version));
    ELSIF p_kind <> 'version' AND v_version.chunker IS NOT NULL THEN
        PERFORM embver_internal.refuse_origin('a chunker cuts documents, and nothing tells which'
            ' part of its document a vector made by hand is of',
            p_origin || jsonb_build_object('chunker', v_version.chunker),
            format('adopt whole documents, then: embver version add %s ENCODER --chunk-size …',
                p_collection));
    ELSIF p_kind = 'version' THEN
        PERFORM embver_internal.check_parent(v_collection, (p_origin ->> 'version')::int,
            v_version);
        v_vector := 'embver_parent.embedding::vector';
        IF (SELECT v.dimensions FROM embver_internal.version AS v
            WHERE v.collection_id = v_collection.collection_id
                AND v.version = (p_origin ->> 'version')::int) <> v_version.dimensions THEN
            v_vector := format('subvector(%s, 1, %s)::vector', v_vector, v_version.dimensions);
            IF (v_version.encoder ->> 'normalize')::boolean THEN
                v_vector := format('l2_normalize(%s)', v_vector);
            END IF;
        END IF;
        v_variables := v_variables || jsonb_build_object('vector', v_vector, 'parent', quote_ident(
            embver_internal.store_name(p_collection, (p_origin ->> 'version')::int)));
    ELSIF v_table IS NULL THEN
        PERFORM embver_internal.refuse_origin(
            format('there is no table %s', coalesce(p_origin ->> 'table', 'NULL')), p_origin,
            'name it as SQL does, with its schema');
    ELSE
        PERFORM embver_internal.check_origin_column(v_table, v_column, v_version.dimensions);
        v_column := format(CASE p_kind WHEN 'column' THEN 'embver_row.%I'
            ELSE 'embver_side.%I' END, v_column);
        v_vector := v_column || '::vector';
        -- For the cosine the length says nothing; stored as the encoder would have made it.
        IF v_version.metric = 'cosine' AND (v_version.encoder ->> 'normalize')::boolean THEN
            v_vector := format(v_normal, v_vector);
        END IF;
        v_variables := v_variables || jsonb_build_object('column', v_column, 'vector', v_vector,
            'stale', embver_internal.stale_condition(
                v_collection.source, p_origin ->> 'stale_where'),
            'join', CASE p_kind WHEN 'table' THEN embver_internal.join_origin_table(
                v_collection, v_table, CASE WHEN jsonb_typeof(p_origin -> 'key_columns') = 'array'
                    THEN ARRAY(SELECT jsonb_array_elements_text(p_origin -> 'key_columns')) END)
                ELSE '' END);
    END IF;
    INSERT INTO embver_internal.origin AS o (collection_id, version, kind, origin)
    VALUES (v_collection.collection_id, p_version, p_kind, p_origin);
    PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
        embver_internal.render_template(
            CASE WHEN p_kind <> 'version' THEN 'origin_own'
                WHEN v_version.chunker IS NULL THEN 'origin_version'
                ELSE 'origin_version_chunked' END, v_variables));
    PERFORM embver_internal.record_event(p_collection, p_version, 'add_origin', NULL, NULL,
        p_origin || jsonb_build_object('kind', p_kind));
END
$fn$;
COMMENT ON FUNCTION embver_internal.add_origin(text, int, text, jsonb) IS
'Says what vectors a new version is filled with: of a column ({"column", "stale_where"}), a table'
' ({"table", "key_columns", "column", "stale_where"}) or a version ({"version"}).';

CREATE OR REPLACE FUNCTION embver_internal.check_parent(
    p_collection embver_internal.collection, p_parent int, p_version embver_internal.version
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_parent embver_internal.version :=
        embver_internal.find_version(p_collection.collection_id, p_parent);
BEGIN
    IF v_parent.state NOT IN ('filling', 'ready', 'active', 'fallback') THEN
        PERFORM embver_internal.fail('VM011',
            format('version %s of %L is %s: nothing is derived from a version that is not written',
                p_parent, p_collection.name, v_parent.state),
            jsonb_build_object('reason', 'parent_not_live', 'version', p_parent,
                'state', v_parent.state),
            CASE v_parent.state
                WHEN 'created' THEN format('embver rollout start %s %s', p_collection.name,
                    p_parent)
                ELSE format('embver version add %s ENCODER', p_collection.name) END);
    ELSIF v_parent.chunker IS DISTINCT FROM p_version.chunker THEN
        PERFORM embver_internal.refuse_origin(
            'its documents are cut in another way than those of the version it derives from',
            jsonb_build_object('version', p_parent, 'chunker', v_parent.chunker,
                'version_chunker', p_version.chunker),
            format('embver version add %s ENCODER --chunk-size …', p_collection.name));
    ELSIF v_parent.metric <> p_version.metric OR v_parent.dimensions < p_version.dimensions
        OR (v_parent.dimensions = p_version.dimensions
            AND (v_parent.fingerprint <> p_version.fingerprint
                OR (v_parent.element_type, p_version.element_type) <> ('vector', 'halfvec'))) THEN
        PERFORM embver_internal.refuse_origin(
            'a version derives from one of more dimensions, or its half-precision copy from one of'
            ' the same space, of the same metric',
            jsonb_build_object('version', p_parent, 'dimensions', v_parent.dimensions,
                'element_type', v_parent.element_type, 'metric', v_parent.metric),
            format('embver version show %s %s', p_collection.name, p_parent));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_parent(
    embver_internal.collection, int, embver_internal.version
) IS 'Refuses a parent that is not written (VM011) or has no vectors for the version (VM006).';

CREATE OR REPLACE FUNCTION embver_internal.sample_origin(
    p_collection text, p_version int, p_limit int
) RETURNS TABLE (content text, dimensions int, vector_values real[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, p_version);
    RETURN QUERY EXECUTE format('SELECT * FROM %I.sample_origin($1)',
        embver_internal.store_name(p_collection, p_version)) USING p_limit;
END
$fn$;
COMMENT ON FUNCTION embver_internal.sample_origin(text, int, int) IS
'Texts of random documents and their vectors in the origin, for the check against the encoder.';

CREATE OR REPLACE FUNCTION embver_internal.record_origin_check(
    p_collection text, p_version int, p_passed boolean, p_figures jsonb
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, p_version);
    UPDATE embver_internal.origin AS o SET check_passed = p_passed, check_figures = p_figures,
        checked_at = clock_timestamp(), checked_by = session_user
    WHERE o.collection_id = v_collection.collection_id AND o.version = p_version;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM006',
            format('version %s of %L was neither adopted nor derived', p_version, p_collection),
            jsonb_build_object('collection', p_collection, 'version', p_version),
            format('embver version adopt %s ENCODER --from-column embedding', p_collection));
    END IF;
    PERFORM embver_internal.record_event(p_collection, p_version, 'check_origin', NULL, NULL,
        p_figures || jsonb_build_object('passed', p_passed));
END
$fn$;
COMMENT ON FUNCTION embver_internal.record_origin_check(text, int, boolean, jsonb) IS
'Keeps what the check of a version''s origin against its encoder found.';

CREATE OR REPLACE FUNCTION embver_internal.require_origin_check(
    p_collection embver_internal.collection, p_version embver_internal.version
) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_origin embver_internal.origin;
    v_reason text;
BEGIN
    SELECT o.* INTO v_origin FROM embver_internal.origin AS o
    WHERE o.collection_id = p_version.collection_id AND o.version = p_version.version
        AND o.closed_at IS NULL;
    IF NOT FOUND OR p_version.state <> 'created' THEN
        RETURN;
    ELSIF v_origin.kind = 'version' THEN
        PERFORM embver_internal.check_parent(p_collection,
            (v_origin.origin ->> 'version')::int, p_version);
    END IF;
    v_reason := CASE
        WHEN v_origin.check_passed IS NULL THEN 'not_checked'
        WHEN NOT v_origin.check_passed THEN 'check_failed'
        -- Nobody captured what was edited since the abort. A parent knows by its hash.
        WHEN v_origin.checked_at < p_version.changed_at AND v_origin.kind <> 'version'
            THEN 'aborted_since_check' END;
    IF v_reason IS NOT NULL THEN
        PERFORM embver_internal.fail('VM011',
            format('the vectors that version %s of %L adopts are not believed: %s',
                p_version.version, p_collection.name, replace(v_reason, '_', ' ')),
            jsonb_build_object('reason', v_reason, 'version', p_version.version,
                'checked_at', v_origin.checked_at, 'figures', v_origin.check_figures),
            format('embver version check %s %s', p_collection.name, p_version.version));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.require_origin_check(
    embver_internal.collection, embver_internal.version
) IS 'VM011 where a version would be filled with vectors that no check has passed.';

CREATE OR REPLACE FUNCTION embver_internal.close_origin(
    p_collection embver_internal.collection, p_version int
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
BEGIN
    UPDATE embver_internal.origin AS o SET closed_at = now()
    WHERE o.collection_id = p_collection.collection_id AND o.version = p_version
        AND o.closed_at IS NULL;
    IF FOUND THEN
        PERFORM embver_internal.execute_as(embver_internal.source_owner(p_collection.source),
            replace('DROP VIEW IF EXISTS {store}.origin, {store}.origin_chunk;'
                ' DROP FUNCTION IF EXISTS {store}.is_stale', '{store}', quote_ident(
                    embver_internal.store_name(p_collection.name, p_version))));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.close_origin(embver_internal.collection, int) IS
'The version is filled: nothing is copied any more, and the column or table may be dropped.';

CREATE OR REPLACE FUNCTION embver_internal.count_copied(p_store text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_copied bigint;
BEGIN
    IF to_regclass(format('%I.origin_copy', p_store)) IS NOT NULL THEN
        EXECUTE format('SELECT t.copied FROM %I.origin_copy AS t', p_store) INTO v_copied;
    END IF;
    RETURN v_copied;
END
$fn$;
COMMENT ON FUNCTION embver_internal.count_copied(text) IS
'Vectors that were copied into a store; NULL where the store is gone.';

CREATE OR REPLACE VIEW embver.origins WITH (security_invoker) AS
SELECT c.name AS collection, o.version, o.kind, o.origin, o.check_passed, o.check_figures,
    o.checked_at, o.checked_by, o.closed_at,
    embver_internal.count_copied(embver_internal.store_name(c.name, o.version)) AS copied
FROM embver_internal.origin AS o
INNER JOIN embver_internal.collection AS c ON c.collection_id = o.collection_id;
COMMENT ON VIEW embver.origins IS
'Versions that are filled without their encoder: from what, how the check went, how far it is.';

-- Helpers that every other family uses: hash, errors, events, rendering, roles.

CREATE OR REPLACE FUNCTION embver.hash(content text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
SELECT sha256(convert_to(content, 'UTF8'));
END;
COMMENT ON FUNCTION embver.hash(text) IS
'SHA-256 of the UTF-8 form of a text: identity of the content a vector was made of.';

CREATE OR REPLACE FUNCTION embver_internal.fail(
    p_code text, p_message text, p_detail jsonb DEFAULT '{}', p_hint text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
BEGIN
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message,
        DETAIL = coalesce(p_detail, '{}')::text, HINT = coalesce(p_hint, '');
END
$fn$;
COMMENT ON FUNCTION embver_internal.fail(text, text, jsonb, text) IS
'Raises an error of class VM: message for people, detail as jsonb, hint = what to type next.';

CREATE OR REPLACE FUNCTION embver_internal.record_event(
    p_collection text, p_version int, p_kind text, p_reason text,
    p_before jsonb DEFAULT NULL, p_after jsonb DEFAULT NULL, p_rollout_id bigint DEFAULT NULL
) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
INSERT INTO embver_internal.event
    (collection, version, rollout_id, kind, reason, before, after)
VALUES (p_collection, p_version, p_rollout_id, p_kind, p_reason, p_before, p_after);
$fn$;
COMMENT ON FUNCTION embver_internal.record_event(text, int, text, text, jsonb, jsonb, bigint) IS
'Writes one row of the audit trail.';

CREATE OR REPLACE FUNCTION embver_internal.find_collection(p_name text)
RETURNS embver_internal.collection
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c WHERE c.name = p_name;
    IF NOT FOUND THEN
        PERFORM embver_internal.fail('VM001', format('there is no collection %L', p_name),
            jsonb_build_object('collection', p_name, 'collections',
                (SELECT coalesce(jsonb_agg(c.name ORDER BY c.name), '[]') FROM (
                    SELECT x.name FROM embver_internal.collection AS x
                    ORDER BY x.name LIMIT 20) AS c)),
            'embver collection list');
    ELSIF NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = v_collection.source) THEN
        PERFORM embver_internal.fail('VM004', format('the source of %L was dropped', p_name),
            jsonb_build_object('collection', p_name, 'reason', 'source gone'),
            format('embver collection drop %s', p_name));
    END IF;
    RETURN v_collection;
END
$fn$;
COMMENT ON FUNCTION embver_internal.find_collection(text) IS
'The collection, or VM001; VM004 where its source was dropped.';

CREATE OR REPLACE FUNCTION embver_internal.find_version(p_collection_id int, p_version int)
RETURNS embver_internal.version
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_version embver_internal.version;
    v_name text;
BEGIN
    SELECT v.* INTO v_version FROM embver_internal.version AS v
    WHERE v.collection_id = p_collection_id AND v.version = p_version AND v.state <> 'dropped';
    IF NOT FOUND THEN
        SELECT c.name INTO v_name FROM embver_internal.collection AS c
        WHERE c.collection_id = p_collection_id;
        PERFORM embver_internal.fail('VM002',
            format('collection %L has no version %s', v_name, coalesce(p_version::text, 'NULL')),
            jsonb_build_object('collection', v_name, 'version', p_version, 'versions',
                (SELECT coalesce(jsonb_agg(v.version ORDER BY v.version), '[]')
                 FROM embver_internal.version AS v
                 WHERE v.collection_id = p_collection_id AND v.state <> 'dropped')),
            format('embver version list %s', v_name));
    END IF;
    RETURN v_version;
END
$fn$;
COMMENT ON FUNCTION embver_internal.find_version(int, int) IS 'The version, or VM002.';

CREATE OR REPLACE FUNCTION embver_internal.store_name(p_collection text, p_version int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT
RETURN 'embver_' || p_collection || '_v' || p_version;
COMMENT ON FUNCTION embver_internal.store_name(text, int) IS 'Schema of a version''s store.';

CREATE OR REPLACE FUNCTION embver_internal.quote_name(p_name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT
RETURN '"' || replace(p_name, '"', '""') || '"';
COMMENT ON FUNCTION embver_internal.quote_name(text) IS
'A name in quotes, always: quote_ident leaves words alone that PL/pgSQL reserves (loop, by, if).';

CREATE OR REPLACE FUNCTION embver_internal.render(p_template text, p_variables jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_pieces text[] := string_to_array(p_template, '{{');
    v_result text := v_pieces[1];
    v_mark text;
    v_name text;
    v_alias text;
    v_keys text[] := ARRAY(SELECT jsonb_array_elements_text(p_variables -> 'key_columns'));
    v_collations text[] := ARRAY(
        SELECT jsonb_array_elements_text(p_variables -> 'key_collations'));
    v_accessors text := p_variables ->> 'schema';
    v_value text;
BEGIN
    -- One pass: what is filled in is never read as a template again.
    FOR v_piece IN 2..coalesce(array_length(v_pieces, 1), 1) LOOP
        v_mark := split_part(v_pieces[v_piece], '}}', 1);
        v_name := split_part(v_mark, ':', 1);
        v_alias := substr(v_mark, length(v_name) + 2);
        v_value := CASE
            WHEN v_alias = '' THEN p_variables ->> v_name
            -- {{keys:e}}: e.id, e.region
            WHEN v_name = 'keys' THEN (
                SELECT string_agg(v_alias || '.' || embver_internal.quote_name(k), ', ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{collated:h}}: h.id, h.region COLLATE … AS region, of rows that lost the collation
            WHEN v_name = 'collated' THEN (
                SELECT string_agg(format('%1$s.%2$s %3$s AS %2$s', v_alias,
                    embver_internal.quote_name(k), v_collations[i]), ', ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{keys_descending:l}}: l.id DESC, l.region DESC
            WHEN v_name = 'keys_descending' THEN (
                SELECT string_agg(format('%s.%s DESC', v_alias, embver_internal.quote_name(k)),
                    ', ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{keys_as_text:d}}: d.id::text, d.region::text
            WHEN v_name = 'keys_as_text' THEN (
                SELECT string_agg(format('%s.%I::text', v_alias, k), ', ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{match:a,b}}: a.id = b.id AND a.region = b.region
            WHEN v_name = 'match' THEN (
                SELECT string_agg(format('%1$s.%3$s = %2$s.%3$s', split_part(v_alias, ',', 1),
                                         split_part(v_alias, ',', 2),
                                         embver_internal.quote_name(k)), ' AND ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{source_match:e}}: the key of the source row embver_row is that of e
            WHEN v_name = 'source_match' THEN (
                SELECT string_agg(format('%s.key_%s(embver_row) %s = %s.%s', v_accessors, i,
                                         v_collations[i], v_alias, embver_internal.quote_name(k)),
                    ' AND ' ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
            -- {{row_keys:r}}: the accessors of a whole row, named as the key columns
            WHEN v_name = 'row_keys' THEN (
                SELECT string_agg(format('%s.key_%s(%s) %s AS %s', v_accessors, i, v_alias,
                                         v_collations[i], embver_internal.quote_name(k)), ', '
                                  ORDER BY i)
                FROM unnest(v_keys) WITH ORDINALITY AS u (k, i))
        END;
        IF v_value IS NULL THEN
            RAISE EXCEPTION 'template variable % has no value', v_mark;
        END IF;
        v_result := v_result || v_value || substr(v_pieces[v_piece], length(v_mark) + 3);
    END LOOP;
    RETURN v_result;
END
$fn$;
COMMENT ON FUNCTION embver_internal.render(text, jsonb) IS
'Fills the {{variables}} of a template with SQL fragments that are quoted already.';

CREATE OR REPLACE FUNCTION embver_internal.check_fragments(p_fragments jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $body$
BEGIN
    -- Quoted names stand inside function bodies: one that holds the body's own quote would end it.
    IF p_fragments::text ~ '[$](fn|sql|do)[$]' THEN
        PERFORM embver_internal.fail('VM004',
            'a name of the source holds $fn$, $sql$ or $do$, which end the generated functions',
            jsonb_build_object('source', p_fragments ->> 'source', 'keys', p_fragments ->> 'keys'),
            'rename the table, schema or column');
    END IF;
    RETURN p_fragments;
END
$body$;
COMMENT ON FUNCTION embver_internal.check_fragments(jsonb) IS
'The fragments, or VM004 where one would break out of a generated function.';

CREATE OR REPLACE FUNCTION embver_internal.variables(
    p_collection_id int, p_version int DEFAULT NULL
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
WITH c AS (
    SELECT c.*, n.nspname, r.relname
    FROM embver_internal.collection AS c
    INNER JOIN pg_class AS r ON r.oid = c.source
    INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE c.collection_id = p_collection_id
),

k AS (
    SELECT c.name, embver_internal.quote_name(k.column_name) AS column_name, k.type,
        k.collate_clause, k.i
    FROM c, unnest(c.key_columns, c.key_types, c.key_collations) WITH ORDINALITY
        AS k (column_name, type, collate_clause, i)
),

fragments AS (
    SELECT
        string_agg(k.column_name, ', ' ORDER BY k.i) AS keys,
        string_agg(format('%s %s %s NOT NULL', k.column_name, k.type, k.collate_clause),
            E',\n    ' ORDER BY k.i) AS definitions,
        string_agg(format('%s %s %s', k.column_name, k.type, k.collate_clause),
            E',\n    ' ORDER BY k.i) AS nullable_definitions,
        string_agg(format('%s %s[] %s NOT NULL', k.column_name, k.type, k.collate_clause),
            E',\n    ' ORDER BY k.i) AS array_definitions,
        string_agg(format('%s %s', k.column_name, k.type), ', ' ORDER BY k.i) AS attributes,
        string_agg(format('array_agg(x.%s ORDER BY x.ordinal)', k.column_name), ', ' ORDER BY k.i)
            AS aggregates
    FROM k
),

v AS (
    SELECT v.* FROM embver_internal.version AS v
    WHERE v.collection_id = p_collection_id AND v.version = p_version
)

SELECT embver_internal.check_fragments(jsonb_build_object(
    'collection', quote_literal(c.name),
    'schema', quote_ident('embver_' || c.name),
    'schema_literal', quote_literal(quote_ident('embver_' || c.name)),
    'source', format('%I.%I', c.nspname, c.relname),
    'source_literal', quote_literal(format('%I.%I', c.nspname, c.relname)),
    'key_columns', to_jsonb(c.key_columns),
    'key_collations', to_jsonb(c.key_collations),
    'keys', f.keys,
    'key_definitions', f.definitions,
    'key_nullable_definitions', f.nullable_definitions,
    'key_array_definitions', f.array_definitions,
    'key_attributes', f.attributes,
    'key_aggregates', f.aggregates
) || coalesce((
    SELECT jsonb_build_object(
        'version', v.version::text,
        'store', quote_ident(embver_internal.store_name(c.name, v.version)),
        'store_literal', quote_literal(quote_ident(embver_internal.store_name(c.name, v.version))),
        'element_type', v.element_type,
        'is_chunked', CASE WHEN v.chunker IS NULL THEN 'false' ELSE 'true' END,
        'dimensions', v.dimensions::text,
        'fingerprint', quote_literal(v.fingerprint),
        'operator', CASE v.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END,
        'score', CASE v.metric WHEN 'cosine' THEN '1 - distance' WHEN 'ip' THEN '-distance'
            ELSE '1 / (1 + distance)' END,
        'operator_class', v.element_type || '_' || v.metric || '_ops',
        -- Which vector of the right length, as p.embedding, the store can hold.
        'fits', CASE WHEN v.element_type = 'halfvec'
                THEN 'CASE WHEN vector_norm(p.embedding) <= 65504'
                    ' THEN l2_norm(p.embedding::halfvec) > 0 ELSE false END'
                ELSE 'vector_norm(p.embedding) > 0' END
    ) FROM v), '{}'))
FROM c, fragments AS f;
$fn$;
COMMENT ON FUNCTION embver_internal.variables(int, int) IS
'The SQL fragments, quoted, that the templates of a collection or a store are filled with.';

CREATE OR REPLACE FUNCTION embver_internal.render_template(p_name text, p_variables jsonb)
RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.render(t.body, p_variables)
FROM embver_internal.template AS t WHERE t.name = p_name;
$fn$;
COMMENT ON FUNCTION embver_internal.render_template(text, jsonb) IS 'A template by name, filled.';

CREATE OR REPLACE FUNCTION embver_internal.execute_as(p_role name, p_statements text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_before text := current_setting('role');
    -- The server knows the settings of the extension only once its library is loaded.
    v_loaded vector := '[0]';
BEGIN
    BEGIN
        PERFORM set_config('role', p_role, true);
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = SQLERRM,
            DETAIL = jsonb_build_object('role', p_role, 'user', session_user)::text,
            HINT = format('objects of a collection belong to the owner of its source: GRANT %I'
                ' TO %I', p_role, session_user);
    END;
    EXECUTE p_statements;
    PERFORM set_config('role', v_before, true);
END
$fn$;
COMMENT ON FUNCTION embver_internal.execute_as(name, text) IS
'Runs generated DDL as the owner of the source, so that every generated object is his.';

CREATE OR REPLACE FUNCTION embver_internal.source_owner(p_source regclass) RETURNS name
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN (SELECT pg_get_userbyid(r.relowner) FROM pg_class AS r WHERE r.oid = p_source);
COMMENT ON FUNCTION embver_internal.source_owner(regclass) IS 'The role that owns the source.';

CREATE OR REPLACE FUNCTION embver_internal.grant_to_role(p_role text, p_grant text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = p_role) THEN
        EXECUTE format('GRANT %s TO %I', p_grant, p_role);
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.grant_to_role(text, text) IS
'A GRANT to a group role, where the role exists.';

CREATE OR REPLACE FUNCTION embver_internal.grant_to_owner(p_owner name) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
BEGIN
    -- What the generated definer functions, owned by the source's owner, read.
    EXECUTE format('GRANT USAGE ON SCHEMA embver, embver_internal TO %I', p_owner);
    EXECUTE format('GRANT SELECT ON embver_internal.collection, embver_internal.version,'
        ' embver_internal.rollout, embver_internal.route TO %I', p_owner);
    EXECUTE format('GRANT EXECUTE ON FUNCTION embver_internal.writable_versions,'
        ' embver_internal.store_name, embver_internal.capture_relations, embver_internal.fail,'
        -- The store line renders its tables as the owner.
        ' embver_internal.render_store_schema, embver_internal.render, embver_internal.variables,'
        ' embver_internal.quote_name,'
        ' embver_internal.check_fragments,'
        ' embver_internal.key_as_text, embver_internal.plan_search, embver_internal.refuse_query,'
        ' embver_internal.effective_mode, embver_internal.split_version,'
        ' embver_internal.newer_coverage, embver_internal.search_modes,'
        ' embver_internal.versions_read, embver_internal.refuse_pair,'
        ' embver_internal.record_coverage,'
        ' embver_internal.refuse_foreign_query,'
        ' embver_internal.filter_condition, embver_internal.refuse_filter,'
        ' embver_internal.check_mode, embver_internal.check_dimensions,'
        ' embver_internal.check_search_arguments, embver.route, embver.query,'
        ' embver_internal.route_versions,'
        ' embver_internal.find_collection, embver_internal.find_version TO %I', p_owner);
END
$fn$;
COMMENT ON FUNCTION embver_internal.grant_to_owner(name) IS
'Lets the owner of a source read the control tables that its generated functions need.';
REVOKE EXECUTE ON FUNCTION embver_internal.grant_to_owner(name) FROM PUBLIC;

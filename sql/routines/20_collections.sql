-- Collections: registering a source, its generated objects, dropping.

CREATE OR REPLACE FUNCTION embver_internal.refuse_source(
    p_source regclass, p_reason text, p_hint text, p_detail jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.fail('VM004', format('%s cannot be a source: %s', p_source, p_reason),
    jsonb_build_object('source', p_source::text, 'reason', p_reason) || p_detail, p_hint);
$fn$;
COMMENT ON FUNCTION embver_internal.refuse_source(regclass, text, text, jsonb) IS 'Raises VM004.';

CREATE OR REPLACE FUNCTION embver_internal.check_source(p_source regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_source pg_class;
BEGIN
    SELECT r.* INTO v_source FROM pg_class AS r WHERE r.oid = p_source;
    IF v_source.relkind NOT IN ('r', 'p') THEN
        PERFORM embver_internal.refuse_source(p_source,
            'it is not a table', 'name the table whose rows are to be embedded');
    ELSIF v_source.relpersistence = 't' THEN
        PERFORM embver_internal.refuse_source(p_source,
            'it is temporary', 'use a permanent table');
    ELSIF v_source.relispartition THEN
        PERFORM embver_internal.refuse_source(p_source,
            'it is a partition', format('register its parent %s',
                (SELECT i.inhparent::regclass FROM pg_inherits AS i WHERE i.inhrelid = p_source)));
    ELSIF v_source.relkind = 'r' AND EXISTS (
        SELECT FROM pg_inherits AS i WHERE p_source IN (i.inhrelid, i.inhparent)) THEN
        PERFORM embver_internal.refuse_source(p_source, 'it uses table inheritance',
            'use declarative partitioning, or register each table on its own');
    ELSIF v_source.relforcerowsecurity AND NOT EXISTS (
        SELECT FROM pg_roles AS o
        WHERE o.oid = v_source.relowner AND (o.rolbypassrls OR o.rolsuper)) THEN
        PERFORM embver_internal.refuse_source(p_source,
            'FORCE ROW LEVEL SECURITY hides rows from the capture, which runs as the owner',
            format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, or give the owner BYPASSRLS',
                p_source));
    ELSIF EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = p_source) THEN
        PERFORM embver_internal.refuse_source(p_source,
            'a logical subscription writes it, and its apply fires no statement triggers',
            'register the table on the publisher');
    ELSIF getdatabaseencoding() = 'SQL_ASCII' THEN
        PERFORM embver_internal.refuse_source(p_source,
            'the database encoding is SQL_ASCII', 'use a database with encoding UTF8');
    END IF;
    PERFORM embver_internal.check_column_names(p_source);
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_source(regclass) IS
'Refuses with VM004 what the capture could not follow.';

CREATE OR REPLACE FUNCTION embver_internal.is_vector_type(p_type oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN p_type IN ('vector'::regtype, 'halfvec'::regtype);
COMMENT ON FUNCTION embver_internal.is_vector_type(oid) IS 'Whether a type is vector or halfvec.';

CREATE OR REPLACE FUNCTION embver_internal.check_column_names(p_source regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_column text;
BEGIN
    SELECT a.attname INTO v_column FROM pg_attribute AS a
    WHERE a.attrelid = p_source AND a.attnum > 0 AND NOT a.attisdropped
        AND (a.attname = 'version' OR starts_with(a.attname::text, 'embver_')
            -- Vectors made by hand, which a version may adopt; the views leave them out.
            OR (a.attname = 'embedding' AND NOT embver_internal.is_vector_type(a.atttypid)))
    LIMIT 1;
    IF FOUND THEN
        PERFORM embver_internal.refuse_source(p_source,
            format('its column %I has a name that the generated views and functions use', v_column),
            format('ALTER TABLE %s RENAME COLUMN %I TO …', p_source, v_column),
            jsonb_build_object('column', v_column));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_column_names(regclass) IS
'Refuses with VM004 columns named like those of the generated objects.';

CREATE OR REPLACE FUNCTION embver_internal.check_unique(p_source regclass, p_columns text[])
RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_index AS x
        WHERE x.indrelid = p_source AND x.indisunique AND x.indisvalid
            AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indimmediate
            AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
                 FROM unnest((x.indkey::int[])[0:x.indnkeyatts - 1]) AS k (attnum)
                 INNER JOIN pg_attribute AS a
                     ON a.attrelid = x.indrelid AND a.attnum = k.attnum)
                = (SELECT array_agg(c ORDER BY c) FROM unnest(p_columns) AS u (c))
    ) THEN
        PERFORM embver_internal.refuse_source(p_source,
            format('no unique index covers exactly the key (%s)', array_to_string(p_columns, ', ')),
            'create one that is not partial and not deferrable',
            jsonb_build_object('key_columns', p_columns));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_unique(regclass, text[]) IS
'VM004 where no unique index covers exactly these columns.';

CREATE OR REPLACE FUNCTION embver_internal.source_keys(p_source regclass, p_columns text[])
RETURNS TABLE (column_name text, type text, collate_clause text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_columns text[] := p_columns;
    v_column text;
    v_attribute pg_attribute;
    v_type pg_type;
BEGIN
    IF v_columns IS NULL THEN
        SELECT array_agg(a.attname::text ORDER BY k.i) INTO v_columns
        FROM pg_index AS x
        CROSS JOIN LATERAL unnest(x.indkey::int[]) WITH ORDINALITY AS k (attnum, i)
        INNER JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
        WHERE x.indrelid = p_source AND x.indisprimary AND k.i <= x.indnkeyatts;
        IF v_columns IS NULL THEN
            PERFORM embver_internal.refuse_source(p_source, 'it has no primary key',
                'add one, or name key_columns that a unique index covers and that are NOT NULL');
        END IF;
    END IF;
    FOREACH v_column IN ARRAY v_columns LOOP
        SELECT a.* INTO v_attribute FROM pg_attribute AS a
        WHERE a.attrelid = p_source AND a.attname = v_column
            AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            PERFORM embver_internal.refuse_source(p_source,
                format('it has no column %s', coalesce(quote_ident(v_column), 'NULL')),
                'name existing key columns', jsonb_build_object('column', v_column));
        ELSIF NOT v_attribute.attnotnull THEN
            PERFORM embver_internal.refuse_source(p_source,
                format('its key column %I is nullable', v_column),
                format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', p_source, v_column),
                jsonb_build_object('column', v_column));
        ELSIF v_column = ANY (ARRAY['embedding', 'chunk', 'content', 'content_hash', 'encoded_at',
                'encoded_lease', 'chunk_from', 'chunk_to', 'chunk_count', 'chunk_text', 'score',
                'distance', 'rank', 'ordinal', 'difference', 'queries', 'k', 'route_key', 'filter', 'mode', 'options', 'error', 'index_builder',
                'index_builder_until'])
            OR v_column ~ '^(job|lease|dead|walk|waived)_(seq|priority|attempts|due_at|enqueued_at'
                '|worker|claimed_at|expires_at|hash|error|at|by|reason|only|phase|barrier|sweep'
                '|seen|enqueued|started_at|ended_at|is_begun|renewal|renew_lease)$'
            -- Parameters and variables of the store's functions, which the key would hide.
            OR v_column ~ '^[pv]_(worker|limit|chunks|to|after|last|range|lease|leases|bytes|items|hashes|vectors|errors|done'
                '|delay|failed|max_lag|only|key|reason|builder|for|at|settled|walk|from|seen'
                '|enqueued|requested|renewal|count|query|hits|exact|iterative|source|condition|setting|rows'
                '|bridge|page|norms|pass|older|newer|step|plan|depth|lists|list|old|new|image|constant|unit'
                '|coverage|weight)$'
            OR v_column ~ '^[$][0-9]+$' THEN
            PERFORM embver_internal.refuse_source(p_source,
                format('its key column %I has a name that the store uses', v_column),
                'rename the column, or name other key_columns',
                jsonb_build_object('column', v_column));
        END IF;
        -- A store keeps the type under a domain: the walk's cursor may be NULL.
        SELECT t.* INTO v_type FROM pg_type AS t WHERE t.oid = v_attribute.atttypid;
        WHILE v_type.typtype = 'd' LOOP
            v_attribute.atttypmod := v_type.typtypmod;
            SELECT t.* INTO v_type FROM pg_type AS t WHERE t.oid = v_type.typbasetype;
        END LOOP;
        IF v_type.typtype = 'c' OR v_type.typcategory = 'A' THEN
            PERFORM embver_internal.refuse_source(p_source,
                format('its key column %I is an array or a row', v_column),
                'name key_columns of a scalar type', jsonb_build_object('column', v_column));
        END IF;
        column_name := v_column;
        type := format_type(v_type.oid, v_attribute.atttypmod);
        collate_clause := coalesce((
            SELECT format('COLLATE %I.%I', n.nspname, o.collname)
            FROM pg_collation AS o
            INNER JOIN pg_namespace AS n ON n.oid = o.collnamespace
            WHERE o.oid = v_attribute.attcollation
                AND v_attribute.attcollation <> v_type.typcollation), '');
        RETURN NEXT;
    END LOOP;
    PERFORM embver_internal.check_unique(p_source, v_columns);
END
$fn$;
COMMENT ON FUNCTION embver_internal.source_keys(regclass, text[]) IS
'The key columns with type and COLLATE clause; default the primary key; VM004 if unfit.';

CREATE OR REPLACE FUNCTION embver_internal.parse_content(
    p_source regclass, p_content text, OUT expression text, OUT columns text[]
) RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_mark text := 'embver_mark_' || md5(coalesce(p_content, ''));
    v_definition text;
    v_source text := (SELECT format('%I.%I', n.nspname, r.relname) FROM pg_class AS r
        INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE r.oid = p_source);
    v_virtual text;
BEGIN
    IF p_content IS NULL OR btrim(p_content) = '' THEN
        PERFORM embver_internal.fail('VM005', 'the content expression is empty',
            jsonb_build_object('source', p_source::text),
            'give an expression over the source''s columns, such as title || E''\n'' || body');
    END IF;
    BEGIN
        -- A generated column accepts just what content may be: immutable, over its own row. The
        -- newlines keep a trailing comment from swallowing what follows.
        EXECUTE format('CREATE TEMPORARY TABLE embver_probe (LIKE %s)', v_source);
        EXECUTE format(E'ALTER TABLE pg_temp.embver_probe ADD COLUMN %I text'
            ' GENERATED ALWAYS AS ((\n%s\n)::text) STORED', v_mark, p_content);
        IF (SELECT count(*) FROM pg_attribute AS a
            WHERE a.attrelid = 'pg_temp.embver_probe'::regclass AND a.attnum > 0)
            <> 1 + (SELECT count(*) FROM pg_attribute AS a
                WHERE a.attrelid = p_source AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION USING ERRCODE = 'syntax_error', MESSAGE = 'it is not one expression';
        END IF;
        SELECT array_agg(a.attname::text ORDER BY a.attnum) INTO columns
        FROM pg_depend AS d
        INNER JOIN pg_attrdef AS g ON g.oid = d.objid
        INNER JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_attrdef'::regclass
            AND g.adrelid = 'pg_temp.embver_probe'::regclass
            AND d.refobjid = g.adrelid AND a.attname <> v_mark;
        -- With a second relation in scope the server prints every column as d.column, which is
        -- just how a function over the row type names it.
        EXECUTE format(E'CREATE TEMPORARY VIEW embver_probe_view AS'
            ' SELECT ((\n%s\n)::text COLLATE "C") AS %I FROM %s AS d, (VALUES (1)) AS embver_one (embver_one)',
            p_content, v_mark, v_source);
        v_definition := pg_get_viewdef('pg_temp.embver_probe_view'::regclass, false);
        DROP VIEW pg_temp.embver_probe_view;
        DROP TABLE pg_temp.embver_probe;
    EXCEPTION
        WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported
            OR invalid_object_definition OR invalid_table_definition OR program_limit_exceeded THEN
            PERFORM embver_internal.fail('VM005',
                format('the content expression %L is refused: %s', p_content, SQLERRM),
                jsonb_build_object('content', p_content, 'sqlstate', SQLSTATE, 'reason', SQLERRM),
                'use immutable functions over the source''s own columns; in place of concat_ws,'
                ' format and casts that depend on settings write coalesce and ||');
    END;
    IF columns && ARRAY['tableoid', 'ctid', 'xmin', 'cmin', 'xmax', 'cmax'] THEN
        PERFORM embver_internal.fail('VM005',
            format('the content expression %L reads a system column', p_content),
            jsonb_build_object('content', p_content, 'columns', columns),
            'use the table''s own columns');
    ELSIF columns IS NULL THEN
        PERFORM embver_internal.fail('VM005',
            format('the content expression %L reads no column of %s', p_content, p_source),
            jsonb_build_object('content', p_content), 'name the columns that hold the text');
    END IF;
    SELECT a.attname INTO v_virtual FROM pg_attribute AS a
    WHERE a.attrelid = p_source AND a.attname = ANY (columns) AND a.attgenerated = 'v';
    IF FOUND THEN
        PERFORM embver_internal.fail('VM005',
            format('the content reads %I, a virtual generated column, which triggers do not see',
                v_virtual),
            jsonb_build_object('content', p_content, 'column', v_virtual),
            'write the column''s own expression, or make it STORED');
    END IF;
    expression := btrim(substr(v_definition, strpos(v_definition, 'SELECT ') + 7,
        strpos(v_definition, v_mark) - strpos(v_definition, 'SELECT ') - 7
        - length(' AS ')));
END
$fn$;
COMMENT ON FUNCTION embver_internal.parse_content(regclass, text) IS
'The content expression as the server prints it over a row d, and its columns; VM005 if unfit.';

CREATE OR REPLACE FUNCTION embver_internal.capture_relations(p_source regclass)
RETURNS TABLE (relation regclass, same_layout boolean)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
WITH tree AS (
    SELECT t.relid AS relation FROM pg_partition_tree(p_source) AS t
    UNION
    SELECT p_source
),

layout AS (
    SELECT t.relation, (
        SELECT array_agg((a.attname, a.atttypid, a.atttypmod)::text ORDER BY a.attnum)
        FROM pg_attribute AS a
        WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns
    FROM tree AS t
)

SELECT l.relation, l.columns = root.columns
FROM layout AS l
INNER JOIN layout AS root ON root.relation = p_source
INNER JOIN pg_class AS r ON r.oid = l.relation AND r.relkind IN ('r', 'p')
ORDER BY l.relation;
$fn$;
COMMENT ON FUNCTION embver_internal.capture_relations(regclass) IS
'The source and every partition, and whether its columns stand in the source''s order.';

CREATE OR REPLACE FUNCTION embver_internal.lock_schema() RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT
AS $fn$
SELECT pg_advisory_xact_lock(hashtextextended('embver-pg schema', 0));
$fn$;
COMMENT ON FUNCTION embver_internal.lock_schema() IS
'The lock of preflight.sql: GRANTs and DDL on shared objects, one transaction at a time. Taken'
' before any lock on a collection.';

CREATE OR REPLACE FUNCTION embver_internal.check_may_create(p_what text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
AS $fn$
BEGIN
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%s is a schema of its own, and %I may not create one', p_what,
                current_user),
            DETAIL = jsonb_build_object('database', current_database(), 'role', current_user)::text,
            HINT = format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user);
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_may_create(text) IS
'Says what to grant where the caller may not create a schema.';

CREATE OR REPLACE FUNCTION embver_internal.install_triggers(p_collection_id int) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_owner name;
    v_schema text;
    v_relation record;
    v_event record;
    v_installed int := 0;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    v_owner := embver_internal.source_owner(v_collection.source);
    v_schema := 'embver_' || v_collection.name;
    FOR v_relation IN
        SELECT r.* FROM embver_internal.capture_relations(v_collection.source) AS r
        WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = r.relation
            AND t.tgname = 'embver_' || v_collection.name || '_truncate')
    LOOP
        FOR v_event IN
            SELECT * FROM (VALUES
                ('insert', 'REFERENCING NEW TABLE AS new_rows'),
                ('update', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
                ('delete', 'REFERENCING OLD TABLE AS old_rows'),
                ('truncate', '')) AS e (name, transition)
        LOOP
            PERFORM embver_internal.execute_as(v_owner, format(
                'CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()',
                'embver_' || v_collection.name || '_' || v_event.name, v_event.name,
                v_relation.relation, v_event.transition, v_schema,
                'capture_' || v_event.name
                || CASE WHEN v_relation.same_layout OR v_event.name = 'truncate'
                    THEN '' ELSE '_by_name' END));
            PERFORM embver_internal.execute_as(v_owner, format(
                'ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', v_relation.relation,
                'embver_' || v_collection.name || '_' || v_event.name));
        END LOOP;
        v_installed := v_installed + 1;
    END LOOP;
    RETURN v_installed;
END
$fn$;
COMMENT ON FUNCTION embver_internal.install_triggers(int) IS
'Capture triggers on the source and every partition that has none yet; returns how many got them.';

CREATE OR REPLACE FUNCTION embver_internal.generate_capture(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_variables jsonb := embver_internal.variables(p_collection_id);
    v_statements text;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    SELECT v_variables || jsonb_build_object(
        'live', CASE WHEN count(v.version) > 0 THEN 'true' ELSE 'false' END,
        'enqueue', coalesce(string_agg(
            embver_internal.render_template('capture_enqueue', b.variables), ''
            ORDER BY v.version), ''),
        'enqueue_one', coalesce(string_agg(
            embver_internal.render_template('capture_enqueue_one', b.variables), ''
            ORDER BY v.version), ''),
        'remove', coalesce(string_agg(
            embver_internal.render_template('capture_remove', b.variables), ''
            ORDER BY v.version), ''),
        'remove_one', coalesce(string_agg(
            embver_internal.render_template('capture_remove_one', b.variables), ''
            ORDER BY v.version), ''),
        'remove_all', coalesce(string_agg(
            embver_internal.render_template('capture_remove_all', b.variables), ''
            ORDER BY v.version), ''))
    INTO v_variables
    FROM embver_internal.version AS v
    CROSS JOIN LATERAL (
        SELECT embver_internal.variables(p_collection_id, v.version) AS variables) AS b
    WHERE v.collection_id = p_collection_id
        AND v.state IN ('filling', 'ready', 'active', 'fallback');
    v_statements := embver_internal.render_template('capture', v_variables || jsonb_build_object(
            'suffix', '', 'old_rows', 'old_rows AS embver_old',
            'new_rows', 'new_rows AS embver_new'))
        || embver_internal.render_template('capture', v_variables || jsonb_build_object(
            'suffix', '_by_name',
            'old_rows', embver_internal.render(
                'old_rows AS embver_row,'
                ' LATERAL {{schema}}.as_row(to_jsonb(embver_row)) AS embver_old', v_variables),
            'new_rows', embver_internal.render(
                'new_rows AS embver_row,'
                ' LATERAL {{schema}}.as_row(to_jsonb(embver_row)) AS embver_new', v_variables)))
        || embver_internal.render_template('capture_truncate', v_variables);
    PERFORM embver_internal.execute_as(
        embver_internal.source_owner(v_collection.source), v_statements);
END
$fn$;
COMMENT ON FUNCTION embver_internal.generate_capture(int) IS
'Replaces the capture functions by ones that write to every live version; locks no table.';

CREATE OR REPLACE FUNCTION embver_internal.generate_search(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_variables jsonb := embver_internal.variables(p_collection_id);
    v_live int[] := ARRAY(SELECT v.version FROM embver_internal.version AS v
        WHERE v.collection_id = p_collection_id
            AND v.state IN ('filling', 'ready', 'active', 'fallback') ORDER BY v.version);
    v_pairs text := '';
    v_fuse text := '';
    v_pair record;
    v_else text;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    v_else := format(E'        ELSE\n            PERFORM embver_internal.refuse_query(%L,'
        ' v_query.version);\n        END CASE;\n', v_collection.name);
    FOR v_pair IN
        SELECT o.older, n.newer FROM unnest(v_live) AS o (older), unnest(v_live) AS n (newer)
        WHERE o.older <> n.newer ORDER BY o.older, n.newer
    LOOP
        v_fuse := v_fuse || embver_internal.render_fuse(
            p_collection_id, v_pair.older, v_pair.newer);
        v_pairs := v_pairs || format(E'            WHEN \'%1$s_%2$s\' THEN\n'
            '                v_hits := %3$s.fuse_%1$s_%2$s(v_plan, k, filter, options);\n',
            v_pair.older, v_pair.newer, v_variables ->> 'schema');
    END LOOP;
    SELECT v_variables || jsonb_build_object('pairs', v_pairs, 'scan_loop',
        embver_internal.render_scan_loop(p_collection_id, 'k',
            E'        CASE v_query.version\n            WHEN 0 THEN NULL; -- the statement needs a branch\n'
            || coalesce(string_agg(format(E'            WHEN %s THEN\n', u.version)
                || embver_internal.render_scan(p_collection_id, u.version, 'v_query.embedding', 'k'),
                '' ORDER BY u.version), '') || v_else))
    INTO v_variables
    FROM unnest(v_live) AS u (version);
    PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
        v_fuse || embver_internal.render_template('search', v_variables));
END
$fn$;
COMMENT ON FUNCTION embver_internal.generate_search(int) IS
'Replaces the collection''s search by one with a static branch for each live version, and the'
' functions by which two of them answer together.';

CREATE OR REPLACE FUNCTION embver_internal.view_element_type(p_collection_id int) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
RETURN coalesce((
    SELECT v.element_type FROM embver_internal.version AS v
    WHERE v.collection_id = p_collection_id ORDER BY v.version LIMIT 1), 'vector');
COMMENT ON FUNCTION embver_internal.view_element_type(int) IS
'The element type of the views current and versions: that of the collection''s first version.';

CREATE OR REPLACE FUNCTION embver_internal.views_have_changed(
    p_collection embver_internal.collection, p_element_type text
) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
WITH view_column AS (
    SELECT c.relname, a.attname, row_number() OVER (PARTITION BY c.relname ORDER BY a.attnum) AS i,
        t.typname, a.atttypid, a.atttypmod, a.attcollation
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    INNER JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE n.nspname = 'embver_' || p_collection.name AND c.relname IN ('current', 'versions')
),

source_column AS (
    SELECT a.attname, 2 + row_number() OVER (ORDER BY a.attnum) AS i, a.atttypid, a.atttypmod,
        a.attcollation
    FROM pg_attribute AS a
    WHERE a.attrelid = p_collection.source AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname <> 'embedding'
)

SELECT count(DISTINCT v.relname) <> 2 OR bool_or(CASE v.i
    WHEN 1 THEN v.typname <> p_element_type
    WHEN 2 THEN false
    ELSE (v.attname, v.atttypid, v.atttypmod, v.attcollation)
        IS DISTINCT FROM (s.attname, s.atttypid, s.atttypmod, s.attcollation) END)
FROM view_column AS v
LEFT JOIN source_column AS s ON s.i = v.i;
$fn$;
COMMENT ON FUNCTION embver_internal.views_have_changed(embver_internal.collection, text) IS
'Whether the views current and versions must be made anew: one is missing, or a column of theirs is'
' not the source''s any more.';

CREATE OR REPLACE FUNCTION embver_internal.generate_views(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_variables jsonb := embver_internal.variables(p_collection_id) || jsonb_build_object(
        'element_type', embver_internal.view_element_type(p_collection_id));
    v_columns text := 'embver_row.*';
    v_retyped boolean;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    PERFORM embver_internal.check_column_names(v_collection.source);
    IF EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = v_collection.source
            AND a.attname = 'embedding' AND NOT a.attisdropped) THEN
        SELECT string_agg(format('embver_row.%I', a.attname), ', ' ORDER BY a.attnum) INTO v_columns
        FROM pg_attribute AS a
        WHERE a.attrelid = v_collection.source AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attname <> 'embedding';
    END IF;
    v_variables := v_variables || jsonb_build_object('columns', v_columns);
    -- One element type a collection: a halfvec cast to vector would lose its index.
    SELECT v_variables || jsonb_build_object('branches', coalesce(
        string_agg(embver_internal.render_template('views_version', b.variables),
            E'\n    UNION ALL\n' ORDER BY v.version),
        embver_internal.render_template('views_empty', v_variables)))
    INTO v_variables
    FROM embver_internal.version AS v
    CROSS JOIN LATERAL (
        SELECT embver_internal.variables(p_collection_id, v.version) AS variables) AS b
    WHERE v.collection_id = p_collection_id AND v.state IN ('ready', 'active', 'fallback')
        AND v.element_type = embver_internal.view_element_type(p_collection_id);
    SELECT v_variables || jsonb_build_object('chunk_branches', coalesce(
        string_agg(embver_internal.render_template('views_version_chunks', b.variables),
            E'\n    UNION ALL\n' ORDER BY v.version),
        embver_internal.render_template('views_empty_chunks', v_variables)))
    INTO v_variables
    FROM embver_internal.version AS v
    CROSS JOIN LATERAL (
        SELECT embver_internal.variables(p_collection_id, v.version) AS variables) AS b
    WHERE v.collection_id = p_collection_id AND v.state IN ('ready', 'active', 'fallback');
    -- REPLACE can add columns at the end, and nothing else: the source was altered, or the first
    -- version is halfvec, where the views of a collection without one say vector.
    v_retyped := embver_internal.views_have_changed(v_collection, v_variables ->> 'element_type');
    IF v_retyped THEN
        PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
            format('DROP VIEW IF EXISTS %1$I.current, %1$I.versions', 'embver_' || v_collection.name));
    END IF;
    PERFORM embver_internal.execute_as(embver_internal.source_owner(v_collection.source),
        embver_internal.render_template('views', v_variables));
    IF v_retyped THEN
        PERFORM embver_internal.grant_collection(p_collection_id);
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.generate_views(int) IS
'Replaces the views current and versions; their branches are the versions that are filled.';

CREATE OR REPLACE FUNCTION embver.create_collection(
    name text, source regclass, content text, key_columns text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_id int;
    v_owner name := embver_internal.source_owner(source);
    v_parsed record;
    v_keys record;
    v_variables jsonb;
BEGIN
    IF name IS NULL OR NOT (name ~ '^[a-z][a-z0-9_]{0,39}$' AND name !~ '_v[0-9]+$'
            AND name <> 'internal') THEN
        PERFORM embver_internal.fail('VM004', format('%L cannot be the name of a collection', name),
            jsonb_build_object('name', name, 'pattern', '^[a-z][a-z0-9_]{0,39}$'),
            'lower-case letters, digits and underscores, at most 40, not ending in _v<digits>,'
            ' not "internal"');
    END IF;
    IF source IS NULL THEN
        PERFORM embver_internal.fail('VM006', 'the source is NULL',
            jsonb_build_object('source', NULL),
            'name a table, such as ''public.docs''');
    END IF;
    IF EXISTS (SELECT FROM embver_internal.collection AS c
            WHERE c.name = create_collection.name) THEN
        PERFORM embver_internal.fail('VM003', format('collection %L exists already', name),
            jsonb_build_object('collection', name), format('embver collection show %s', name));
    END IF;
    IF EXISTS (SELECT FROM pg_namespace AS n WHERE n.nspname = 'embver_' || name) THEN
        PERFORM embver_internal.fail('VM003', format('schema %I exists already', 'embver_' || name),
            jsonb_build_object('schema', 'embver_' || name), 'choose another name');
    END IF;
    PERFORM embver_internal.check_may_create('a collection');
    PERFORM embver_internal.check_source(source);
    SELECT array_agg(k.column_name) AS columns, array_agg(k.type) AS types,
        array_agg(k.collate_clause) AS collations
    INTO v_keys FROM embver_internal.source_keys(source, create_collection.key_columns) AS k;
    v_parsed := embver_internal.parse_content(source, content);
    PERFORM embver_internal.lock_schema();
    INSERT INTO embver_internal.collection AS c
        (name, source, key_columns, key_types, key_collations, content, content_columns)
    VALUES (create_collection.name, create_collection.source, v_keys.columns, v_keys.types,
        v_keys.collations, create_collection.content, v_parsed.columns)
    RETURNING c.collection_id INTO v_id;
    INSERT INTO embver_internal.route (collection) VALUES (create_collection.name);

    PERFORM embver_internal.grant_to_owner(v_owner);
    EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', 'embver_' || name, v_owner);
    v_variables := embver_internal.variables(v_id)
        || jsonb_build_object('expression', v_parsed.expression);
    SELECT v_variables || jsonb_build_object('key_accessors', string_agg(
        embver_internal.render_template('key_accessor', v_variables || jsonb_build_object(
            'ordinal', k.i::text, 'type', k.type,
            'column', embver_internal.quote_name(k.column_name))),
        '' ORDER BY k.i))
    INTO v_variables
    FROM unnest(v_keys.columns, v_keys.types) WITH ORDINALITY AS k (column_name, type, i);
    PERFORM embver_internal.execute_as(v_owner,
        embver_internal.render_template('accessors', v_variables));
    PERFORM embver_internal.generate_capture(v_id);
    PERFORM embver_internal.generate_search(v_id);
    PERFORM embver_internal.generate_sampling(v_id);
    PERFORM embver_internal.generate_views(v_id);
    PERFORM embver_internal.install_triggers(v_id);
    PERFORM embver_internal.grant_collection(v_id);
    PERFORM embver_internal.record_event(name, NULL, 'create_collection', NULL, NULL,
        jsonb_build_object('source', source::text, 'content', content, 'keys', v_keys.columns));
END
$fn$;
COMMENT ON FUNCTION embver.create_collection(text, regclass, text, text[]) IS
'Registers a source table: content is an SQL expression over its columns, key_columns default to'
' the primary key. Installs the capture triggers, which stay idle until a rollout starts.';

CREATE OR REPLACE FUNCTION embver_internal.follow_owner(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_owner name;
    v_statement text;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    v_owner := embver_internal.source_owner(v_collection.source);
    FOR v_statement IN
        WITH ours AS (
            SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace AS n
            WHERE n.nspname = 'embver_' || v_collection.name OR n.nspname IN (
                SELECT embver_internal.store_name(v_collection.name, v.version)
                FROM embver_internal.version AS v
                WHERE v.collection_id = p_collection_id AND v.state <> 'dropped')
        )

        SELECT format('ALTER SCHEMA %I OWNER TO %I', o.nspname, v_owner)
        FROM ours AS o WHERE pg_get_userbyid(o.nspowner) <> v_owner
        UNION ALL
        SELECT format('ALTER %s %I.%I OWNER TO %I', CASE r.relkind WHEN 'v' THEN 'VIEW'
                WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, o.nspname, r.relname, v_owner)
        FROM pg_class AS r INNER JOIN ours AS o ON o.oid = r.relnamespace
        WHERE r.relkind IN ('r', 'v', 'c') AND pg_get_userbyid(r.relowner) <> v_owner
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, v_owner)
        FROM pg_proc AS p INNER JOIN ours AS o ON o.oid = p.pronamespace
        WHERE pg_get_userbyid(p.proowner) <> v_owner
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$fn$;
COMMENT ON FUNCTION embver_internal.follow_owner(int) IS
'Gives what is generated for a collection to the owner of its source, who may have changed.';

CREATE OR REPLACE FUNCTION embver.refresh_collection(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET lock_timeout = '2s'
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(name);
    v_id int := v_collection.collection_id;
    v_version int;
    v_attached int;
    v_detached int := 0;
    v_trigger record;
BEGIN
    PERFORM embver_internal.lock_schema();
    -- What is rendered here must not undo a rollout that starts meanwhile.
    PERFORM FROM embver_internal.collection AS c
    WHERE c.collection_id = v_id FOR NO KEY UPDATE;
    PERFORM embver_internal.check_source(v_collection.source);
    -- By the accessors, which follow a renamed column.
    PERFORM embver_internal.check_unique(v_collection.source, (
        SELECT array_agg(a.attname::text) FROM pg_proc AS p
        INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
        INNER JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        INNER JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE n.nspname = 'embver_' || v_collection.name AND p.proname ~ '^key_[0-9]+$'
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = v_collection.source
            AND a.attnum > 0));
    PERFORM embver_internal.grant_to_owner(embver_internal.source_owner(v_collection.source));
    PERFORM embver_internal.follow_owner(v_id);
    PERFORM embver_internal.generate_capture(v_id);
    PERFORM embver_internal.generate_search(v_id);
    PERFORM embver_internal.generate_sampling(v_id);
    -- Locks in the order in which applications take them: a write the source's, then a store's;
    -- a search a view's, then a store's.
    FOR v_trigger IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM pg_trigger AS t
        INNER JOIN pg_proc AS p ON p.oid = t.tgfoid
        INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'embver_' || v_collection.name AND NOT EXISTS (
            SELECT FROM embver_internal.capture_relations(v_collection.source) AS r
            WHERE r.relation = t.tgrelid)
    LOOP
        -- A detached partition goes on with its own life: its deletes are not ours.
        PERFORM embver_internal.execute_as(embver_internal.source_owner(v_trigger.relation),
            format('DROP TRIGGER %I ON %s', v_trigger.tgname, v_trigger.relation));
        v_detached := v_detached + 1;
    END LOOP;
    v_attached := embver_internal.install_triggers(v_id);
    PERFORM embver_internal.generate_views(v_id);
    FOR v_version IN
        SELECT v.version FROM embver_internal.version AS v
        WHERE v.collection_id = v_id AND v.state <> 'dropped' ORDER BY v.version
    LOOP
        PERFORM embver_internal.attach_store(v_id, v_version);
    END LOOP;
    PERFORM embver_internal.grant_collection(v_id);
    IF v_attached + v_detached > 0 OR EXISTS (SELECT FROM pg_class AS r
            WHERE r.oid = v_collection.source AND r.relkind = 'p') THEN
        -- What was written to a partition before it had triggers is known to nobody, nor what went
        -- with a partition that was detached or dropped.
        PERFORM embver_internal.request_rewalk(v_id);
    END IF;
    PERFORM embver_internal.record_event(name, NULL, 'refresh_collection', NULL, NULL,
        jsonb_build_object('relations_attached', v_attached, 'triggers_removed', v_detached));
END
$fn$;
COMMENT ON FUNCTION embver.refresh_collection(text) IS
'Rebuilds the generated objects after the source was altered, got a partition or another owner.'
' Fails with lock_not_available behind a long reader of the views: call again.';

CREATE OR REPLACE FUNCTION embver.drop_collection(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_is_gone boolean;
    v_owner name;
    v_stores int[];
    v_statement text;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.name = drop_collection.name FOR UPDATE;
    v_is_gone := FOUND AND NOT EXISTS (
        SELECT FROM pg_class AS r WHERE r.oid = v_collection.source);
    IF NOT v_is_gone THEN
        v_collection := embver_internal.find_collection(name);
    END IF;
    SELECT array_agg(v.version ORDER BY v.version) INTO v_stores
    FROM embver_internal.version AS v
    WHERE v.collection_id = v_collection.collection_id AND v.state <> 'dropped';
    IF v_stores IS NOT NULL AND NOT v_is_gone THEN
        PERFORM embver_internal.fail('VM010', format('collection %L still has stores', name),
            jsonb_build_object('collection', name, 'versions', v_stores),
            (SELECT CASE WHEN v.state IN ('created', 'retired')
                THEN format('embver version drop %s %s', name, v.version)
                ELSE format('embver version retire %1$s %2$s%3$s, then embver version drop %1$s'
                    ' %2$s', name, v.version,
                    CASE v.state WHEN 'active' THEN ' --force --reason …' ELSE '' END) END
             FROM embver_internal.version AS v
             WHERE v.collection_id = v_collection.collection_id AND v.version = v_stores[1]));
    END IF;
    SELECT pg_get_userbyid(n.nspowner) INTO v_owner FROM pg_namespace AS n
    WHERE n.nspname = 'embver_' || v_collection.name;
    FOR v_statement IN
        SELECT format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass)
        FROM embver_internal.capture_relations(v_collection.source) AS r
        INNER JOIN pg_trigger AS t ON t.tgrelid = r.relation
        INNER JOIN pg_proc AS p ON p.oid = t.tgfoid
        INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'embver_' || v_collection.name
    LOOP
        PERFORM embver_internal.execute_as(
            embver_internal.source_owner(v_collection.source), v_statement);
    END LOOP;
    -- Without its source a store is of no use to anybody.
    FOR v_statement IN
        SELECT format('DROP SCHEMA IF EXISTS %I CASCADE',
            embver_internal.store_name(v_collection.name, u.version))
        FROM unnest(v_stores) AS u (version)
        UNION ALL
        SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', 'embver_' || v_collection.name)
    LOOP
        PERFORM embver_internal.execute_as(v_owner, v_statement);
    END LOOP;
    DELETE FROM embver_internal.collection AS c
    WHERE c.collection_id = v_collection.collection_id;
    PERFORM embver_internal.record_event(name, NULL, 'drop_collection', NULL, NULL,
        jsonb_build_object('source_gone', v_is_gone, 'stores', v_stores));
END
$fn$;
COMMENT ON FUNCTION embver.drop_collection(text) IS
'Forgets a collection whose stores have all been dropped; the source table is not touched. One'
' whose source was dropped goes with its stores.';

-- Runs before every installation and upgrade: is this a server we can use, one session at a time,
-- and the search_path that all functions are pinned to (SET search_path FROM CURRENT).
DO $$
DECLARE
    v_vector record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('embver-pg schema', 0));
    SELECT e.extversion, n.nspname INTO v_vector
    FROM pg_extension AS e
    INNER JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
    IF current_setting('server_version_num')::int < 160000 THEN
        RAISE EXCEPTION USING ERRCODE = 'VM030',
            MESSAGE = format('PostgreSQL %s is too old', current_setting('server_version')),
            DETAIL = jsonb_build_object('server', current_setting('server_version'),
                'needed', '16')::text,
            HINT = 'use PostgreSQL 16, 17 or 18';
    ELSIF v_vector.extversion IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'VM030',
            MESSAGE = 'the extension vector is not installed in this database',
            DETAIL = jsonb_build_object('available', (
                SELECT x.default_version FROM pg_available_extensions AS x
                WHERE x.name = 'vector'), 'needed', '0.8')::text,
            HINT = 'as an administrator: CREATE EXTENSION vector';
    ELSIF (string_to_array(regexp_replace(v_vector.extversion, '[^0-9.].*$', ''), '.')::int[])[1:2]
        < ARRAY[0, 8] THEN
        RAISE EXCEPTION USING ERRCODE = 'VM030',
            MESSAGE = format('pgvector %s is too old', v_vector.extversion),
            DETAIL = jsonb_build_object('vector', v_vector.extversion, 'needed', '0.8')::text,
            HINT = 'as an administrator: ALTER EXTENSION vector UPDATE';
    END IF;
    PERFORM set_config('search_path',
        concat_ws(', ', 'pg_catalog', quote_ident(v_vector.nspname), 'pg_temp'), true);
END
$$;
-- The server knows the settings of the extension once its library is loaded.
SELECT '[0]'::vector;
CREATE SCHEMA IF NOT EXISTS embver_internal;

-- How one version is scanned: the place where kinds of index differ.

CREATE OR REPLACE FUNCTION embver_internal.render_scan(
    p_collection_id int, p_version int, p_query text, p_depth text
) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.render_template(
    CASE WHEN (b.variables ->> 'is_chunked')::boolean THEN 'scan_chunked' ELSE 'scan' END,
    b.variables || jsonb_build_object('query', p_query, 'depth', p_depth))
FROM (SELECT embver_internal.variables(p_collection_id, p_version) AS variables) AS b;
$fn$;
COMMENT ON FUNCTION embver_internal.render_scan(int, int, text, text) IS
'PL/pgSQL that sets v_hits to the documents of a version that are nearest to p_query, at most'
' p_depth (both expressions), nearest first, each by its best chunk. It stands in a scan loop.';

CREATE OR REPLACE FUNCTION embver_internal.render_scan_loop(
    p_collection_id int, p_depth text, p_scans text
) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.render_template('scan_loop',
    embver_internal.variables(p_collection_id)
    || jsonb_build_object('depth', p_depth, 'scans', p_scans));
$fn$;
COMMENT ON FUNCTION embver_internal.render_scan_loop(int, text, text) IS
'PL/pgSQL that runs p_scans until p_depth documents are found: by the index, by the index further,'
' by everything. Its surroundings have k, filter, options and the variables v_hits, v_exact,'
' v_iterative, v_source, v_condition, v_setting and v_rows.';

CREATE OR REPLACE FUNCTION embver_internal.render_fuse(
    p_collection_id int, p_older int, p_newer int
) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.render_template('fuse', embver_internal.variables(p_collection_id)
    || jsonb_build_object(
        'older', p_older::text, 'newer', p_newer::text,
        'older_store', embver_internal.variables(p_collection_id, p_older) ->> 'store',
        'newer_store', embver_internal.variables(p_collection_id, p_newer) ->> 'store',
        'scan_loop', embver_internal.render_scan_loop(p_collection_id, 'v_depth',
            E'        IF v_list = 2 THEN\n'
            || embver_internal.render_scan(p_collection_id, p_newer, 'v_query', 'v_depth')
            || E'        ELSE\n'
            || embver_internal.render_scan(p_collection_id, p_older, 'v_query', 'v_depth')
            || E'        END IF;\n')));
$fn$;
COMMENT ON FUNCTION embver_internal.render_fuse(int, int, int) IS
'The function by which two versions answer together.';

-- Who may do what with a store. Readers see the vectors of the documents that they may read.
DO $do$
DECLARE
    -- The scalar form keeps the index scan; EXISTS becomes a scan of the whole source. The first
    -- test spares the look-up where no row-level security applies; naming the source needs SELECT.
    v_policies jsonb := jsonb_build_object('embedding', $sql$
CREATE POLICY embedding_follows_source ON {{store}}.embedding FOR SELECT USING (
    (SELECT NOT row_security_active({{source_literal}}::regclass)
        AND has_table_privilege({{source_literal}}::regclass, 'SELECT'))
    OR (SELECT true FROM {{source}} AS embver_row
        WHERE {{source_match:embedding}} LIMIT 1)
)$sql$,
        -- Keys are what a reader may not see either.
        'bridge_norm', $sql$
CREATE POLICY bridge_norm_follows_source ON {{store}}.bridge_norm FOR SELECT USING (
    (SELECT NOT row_security_active({{source_literal}}::regclass)
        AND has_table_privilege({{source_literal}}::regclass, 'SELECT'))
    OR (SELECT true FROM {{source}} AS embver_row
        WHERE {{source_match:bridge_norm}} LIMIT 1)
)$sql$);
    v_table text;
    v_policy text;
    v_comment text;
BEGIN
    FOR v_table, v_policy IN SELECT p.key, p.value FROM jsonb_each_text(v_policies) AS p LOOP
        v_comment := 'Readers see the vectors of documents that they may read; ' || md5(v_policy);
        -- Its lock holds readers up, so it is made again only when it differs.
        IF NOT EXISTS (
            SELECT FROM pg_policy AS p
            INNER JOIN pg_class AS r ON r.oid = p.polrelid AND r.relrowsecurity
            WHERE r.oid = to_regclass({{store_literal}} || '.' || v_table)
                AND p.polname = v_table || '_follows_source'
                AND obj_description(p.oid, 'pg_policy') = v_comment
        ) THEN
            EXECUTE format('ALTER TABLE %1$s.%2$s ENABLE ROW LEVEL SECURITY;'
                ' DROP POLICY IF EXISTS %2$s_follows_source ON %1$s.%2$s',
                {{store_literal}}, v_table);
            EXECUTE v_policy;
            EXECUTE format('COMMENT ON POLICY %2$s_follows_source ON %1$s.%2$s IS %3$L',
                {{store_literal}}, v_table, v_comment);
        END IF;
    END LOOP;
END
$do$;
REVOKE ALL ON ALL TABLES IN SCHEMA {{store}} FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {{store}} FROM PUBLIC;

-- Who may do what with a store. Readers see the vectors of the documents that they may read.
DO $do$
DECLARE
    -- The scalar form keeps the index scan; EXISTS becomes a scan of the whole source. The first
    -- test spares the look-up where no row-level security applies; naming the source needs SELECT.
    v_policy text := $sql$
CREATE POLICY embedding_follows_source ON {{store}}.embedding FOR SELECT USING (
    (SELECT NOT row_security_active({{source_literal}}::regclass)
        AND has_table_privilege({{source_literal}}::regclass, 'SELECT'))
    OR (SELECT true FROM {{source}} AS embver_row
        WHERE {{source_match:embedding}} LIMIT 1)
)$sql$;
    v_comment text := 'Readers see the vectors of documents that they may read; ' || md5(v_policy);
BEGIN
    -- Its lock holds readers up, so it is made again only when it differs.
    IF NOT EXISTS (
        SELECT FROM pg_policy AS p
        INNER JOIN pg_class AS r ON r.oid = p.polrelid AND r.relrowsecurity
        WHERE r.oid = to_regclass({{store_literal}} || '.embedding')
            AND p.polname = 'embedding_follows_source'
            AND obj_description(p.oid, 'pg_policy') = v_comment
    ) THEN
        ALTER TABLE {{store}}.embedding ENABLE ROW LEVEL SECURITY;
        DROP POLICY IF EXISTS embedding_follows_source ON {{store}}.embedding;
        EXECUTE v_policy;
        EXECUTE format('COMMENT ON POLICY embedding_follows_source ON %s.embedding IS %L',
            {{store_literal}}, v_comment);
    END IF;
END
$do$;
REVOKE ALL ON ALL TABLES IN SCHEMA {{store}} FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {{store}} FROM PUBLIC;

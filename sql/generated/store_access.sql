-- Who may do what with a store. Readers see the vectors of the documents that they may read.
ALTER TABLE {{store}}.embedding ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS embedding_follows_source ON {{store}}.embedding;
-- The scalar form keeps the index scan; EXISTS becomes a scan of the whole source. The first test
-- spares the look-up where no row-level security applies; naming the source needs SELECT on it.
CREATE POLICY embedding_follows_source ON {{store}}.embedding FOR SELECT USING (
    (SELECT NOT row_security_active({{source_literal}}::regclass)
        AND has_table_privilege({{source_literal}}::regclass, 'SELECT'))
    OR (SELECT true FROM {{source}} AS embver_row
        WHERE {{source_match:embedding}} LIMIT 1)
);
REVOKE ALL ON ALL TABLES IN SCHEMA {{store}} FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {{store}} FROM PUBLIC;

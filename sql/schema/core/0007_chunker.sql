-- A version may cut documents into chunks; how is part of what it is.
ALTER TABLE embver_internal.version ADD COLUMN chunker jsonb;
COMMENT ON COLUMN embver_internal.version.chunker IS
'How documents are cut: {"type", "size", "overlap"}; NULL: not at all. Outside the fingerprint.';
-- Their signatures change: the routines bring the new ones.
DROP FUNCTION IF EXISTS embver_internal.register_version(
    text, jsonb, text, int, text, text, jsonb, int
);
DROP FUNCTION IF EXISTS embver_internal.worker_targets();

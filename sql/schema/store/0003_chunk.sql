-- Where in its document a chunk stands, and how many the document has.
ALTER TABLE {{store}}.embedding
ADD COLUMN chunk_from int,
ADD COLUMN chunk_to int,
ADD COLUMN chunk_count int;
COMMENT ON COLUMN {{store}}.embedding.chunk_from IS
'Characters of the content before the chunk; NULL in a version that does not cut.';
COMMENT ON COLUMN {{store}}.embedding.chunk_to IS
'Characters of the content up to the end of the chunk.';
COMMENT ON COLUMN {{store}}.embedding.chunk_count IS
'Chunks of the document: one that is missing, or one too many, shows.';
-- Its signature changes: the templates bring the new one.
DROP FUNCTION IF EXISTS {{store}}.complete(bigint, int[], bytea[], {{element_type}}[], text[]);

CREATE VIEW {{store}}.origin AS
SELECT {{row_keys:embver_row}}, {{schema}}.content(embver_row) AS content,
    {{vector}} AS embedding,
    embver_parent.embedding IS NOT NULL AS embver_has_vector,
    embver_parent.content_hash AS embver_made_of,
    NULL::bigint AS embver_row_xid,
    embver_parent.chunk_from, embver_parent.chunk_to
FROM {{source}} AS embver_row
LEFT JOIN {{parent}}.embedding AS embver_parent
    ON {{source_match:embver_parent}} AND embver_parent.chunk = 0;
COMMENT ON VIEW {{store}}.origin IS
'Every document with its first vector of another version; goes when this one is filled.';

CREATE VIEW {{store}}.origin_chunk AS
SELECT {{keys:embver_parent}}, embver_parent.chunk, {{vector}} AS embedding,
    embver_parent.content_hash, embver_parent.chunk_from, embver_parent.chunk_to,
    embver_parent.chunk_count
FROM {{parent}}.embedding AS embver_parent;
COMMENT ON VIEW {{store}}.origin_chunk IS
'Every chunk of another version; goes when this one is filled.';

CREATE VIEW {{store}}.origin AS
SELECT {{row_keys:embver_row}}, {{schema}}.content(embver_row) AS content,
    {{vector}} AS embedding,
    embver_parent.embedding IS NOT NULL AS embver_has_vector,
    embver_parent.content_hash AS embver_made_of,
    NULL::bigint AS embver_row_xid
FROM {{source}} AS embver_row
LEFT JOIN {{parent}}.embedding AS embver_parent
    ON {{source_match:embver_parent}} AND embver_parent.chunk = 0;
COMMENT ON VIEW {{store}}.origin IS
'Every document with its vector of another version; goes when this one is filled.';

-- The pointer test stands outside the union: each branch keeps its index, and the branches of the
-- other versions are pruned before they run.
CREATE OR REPLACE VIEW {{schema}}.versions WITH (security_invoker) AS
SELECT e.embedding, e.version, {{columns}}
FROM {{source}} AS embver_row
INNER JOIN (
{{branches}}) AS e ON {{source_match:e}}
WHERE e.version = ANY ((SELECT r.live FROM embver_internal.route AS r
    WHERE r.collection = {{collection}})::int[]);
COMMENT ON VIEW {{schema}}.versions IS
'The source''s columns with the vector of every live version: WHERE version = n … prunes to one'
' index, and keeps answering that version''s own vectors until it is retired.';

CREATE OR REPLACE VIEW {{schema}}.current WITH (security_invoker) AS
SELECT e.embedding, e.version, {{columns}}
FROM {{source}} AS embver_row
INNER JOIN (
{{branches}}) AS e ON {{source_match:e}}
WHERE e.version = (SELECT r.active FROM embver_internal.route AS r
    WHERE r.collection = {{collection}});
COMMENT ON VIEW {{schema}}.current IS
'The source''s columns with the vector of the active version. It takes untagged vectors: add AND'
' version = n, or use versions, so that a query never meets another space.';

CREATE OR REPLACE VIEW {{schema}}.chunks WITH (security_invoker) AS
SELECT {{row_keys:embver_row}}, e.version, e.chunk, e.chunk_from, e.chunk_to,
    -- The span is one of the text that was encoded.
    CASE WHEN e.content_hash = embver.hash(x.content)
        THEN substr(x.content, coalesce(e.chunk_from, 0) + 1,
            coalesce(e.chunk_to - e.chunk_from, length(x.content))) END AS chunk_text
FROM {{source}} AS embver_row
INNER JOIN (
{{chunk_branches}}) AS e ON {{source_match:e}}
CROSS JOIN LATERAL (SELECT {{schema}}.content(embver_row) AS content OFFSET 0) AS x
WHERE e.version = ANY ((SELECT r.live FROM embver_internal.route AS r
    WHERE r.collection = {{collection}})::int[]);
COMMENT ON VIEW {{schema}}.chunks IS
'What stands in each chunk, by key, version and chunk as search returns them; a document that is not'
' cut is chunk 0. NULL while a change of the document is not encoded yet.';

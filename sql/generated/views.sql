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

-- How a row of the source is read: by functions with a parsed body, which follow RENAME and
-- SET SCHEMA and make the server refuse to drop a column they need. Made once, by create_collection.
{{key_accessors}}
CREATE FUNCTION {{schema}}.content(d {{source}}) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT NULLIF({{expression}}, '');
END;
COMMENT ON FUNCTION {{schema}}.content({{source}}) IS
'The text to embed; NULL where there is none, and then there is no vector.';

CREATE FUNCTION {{schema}}.as_row(fields jsonb) RETURNS {{source}}
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT jsonb_populate_record(NULL::{{source}}, fields);
END;
COMMENT ON FUNCTION {{schema}}.as_row(jsonb) IS
'A row of the source by column names, for partitions whose columns stand in another order.';

CREATE VIEW {{schema}}.document AS
SELECT {{row_keys:embver_row}}, {{schema}}.content(embver_row) AS content
FROM {{source}} AS embver_row;
COMMENT ON VIEW {{schema}}.document IS
'Key and content of every row of the source, read with the rights of its owner; for the engine.';

CREATE VIEW {{schema}}.visible WITH (security_invoker) AS
SELECT {{row_keys:embver_row}}
FROM {{source}} AS embver_row;
COMMENT ON VIEW {{schema}}.visible IS
'The key of every row of the source that the caller may read; search goes by it.';

CREATE FUNCTION {{schema}}.document_names() RETURNS TABLE (name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT embver_internal.key_as_text(jsonb_build_array({{keys_as_text:d}}))
FROM {{schema}}.document AS d;
$fn$;
COMMENT ON FUNCTION {{schema}}.document_names() IS 'Every document as golden sets name it.';
REVOKE EXECUTE ON FUNCTION {{schema}}.document_names() FROM PUBLIC;

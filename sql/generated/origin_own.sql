CREATE FUNCTION {{store}}.is_stale(d {{source}}) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT ({{stale}}) IS NOT NULL;
END;
COMMENT ON FUNCTION {{store}}.is_stale({{source}}) IS
'Whether the row''s vector was said to be out of date when the version was adopted.';
REVOKE EXECUTE ON FUNCTION {{store}}.is_stale({{source}}) FROM PUBLIC;

CREATE VIEW {{store}}.origin AS
SELECT {{row_keys:embver_row}}, {{schema}}.content(embver_row) AS content,
    CASE WHEN NOT {{store}}.is_stale(embver_row) THEN {{vector}} END AS embedding,
    {{column}} IS NOT NULL AND NOT {{store}}.is_stale(embver_row) AS embver_has_vector,
    NULL::bytea AS embver_made_of,
    embver_row.xmin::text::bigint AS embver_row_xid
FROM {{source}} AS embver_row
{{join}};
COMMENT ON VIEW {{store}}.origin IS
'Every document with the vector that was made of it before; goes when the version is filled.';

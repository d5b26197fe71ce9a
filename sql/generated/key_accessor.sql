CREATE FUNCTION {{schema}}.key_{{ordinal}}(d {{source}}) RETURNS {{type}}
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT (d).{{column}};
END;
COMMENT ON FUNCTION {{schema}}.key_{{ordinal}}({{source}}) IS 'Key column {{ordinal}} of a row.';


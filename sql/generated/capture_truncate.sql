CREATE OR REPLACE FUNCTION {{schema}}.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    embver_tombstone boolean := current_setting('transaction_isolation') <> 'read committed';
BEGIN
    {{remove_all}}
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_truncate() IS 'Removes the vectors of a TRUNCATE.';
REVOKE EXECUTE ON FUNCTION {{schema}}.capture_truncate() FROM PUBLIC;

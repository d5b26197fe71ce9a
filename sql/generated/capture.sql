-- The capture functions of a collection: static SQL, one statement each, for every live version.
-- They never call an encoder, never notify, never wait for a worker.
CREATE OR REPLACE FUNCTION {{schema}}.capture_insert{{suffix}}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_changed bigint;
BEGIN
    IF {{live}} THEN
        WITH changed AS MATERIALIZED (SELECT {{row_keys:embver_new}} FROM {{new_rows}}){{enqueue}}
        SELECT count(*) INTO v_changed FROM changed;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_insert{{suffix}}() IS 'Enqueues inserted rows.';

CREATE OR REPLACE FUNCTION {{schema}}.capture_update{{suffix}}() RETURNS trigger
-- The plan is made at the first call and kept, and a later statement may bring many rows.
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_nestloop = off
AS $fn$
DECLARE
    v_tombstone boolean := current_setting('transaction_isolation') <> 'read committed';
    v_changed bigint;
BEGIN
    IF {{live}} THEN
        WITH before AS (
            SELECT {{row_keys:embver_old}}, {{schema}}.content(embver_old) COLLATE "C" AS content, true AS present
            FROM {{old_rows}}
        ), after AS (
            SELECT {{row_keys:embver_new}}, {{schema}}.content(embver_new) COLLATE "C" AS content, true AS present
            FROM {{new_rows}}
        ), difference AS MATERIALIZED (
            SELECT {{keys}}, after.present IS NULL AS is_gone
            FROM before FULL JOIN after USING ({{keys}})
            WHERE before.present IS NULL OR after.present IS NULL
                OR before.content IS DISTINCT FROM after.content
        ), changed AS (
            SELECT {{keys}} FROM difference WHERE NOT is_gone
        ), gone AS (
            SELECT {{keys}} FROM difference WHERE is_gone
        ){{enqueue}}{{remove}}
        SELECT count(*) INTO v_changed FROM difference;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_update{{suffix}}() IS
'Enqueues rows whose content changed; removes the vectors of keys that are gone.';

CREATE OR REPLACE FUNCTION {{schema}}.capture_delete{{suffix}}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_tombstone boolean := current_setting('transaction_isolation') <> 'read committed';
    v_changed bigint;
BEGIN
    IF {{live}} THEN
        WITH gone AS MATERIALIZED (SELECT {{row_keys:embver_old}} FROM {{old_rows}}){{remove}}
        SELECT count(*) INTO v_changed FROM gone;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_delete{{suffix}}() IS
'Removes the vectors of deleted rows at once.';

REVOKE EXECUTE ON FUNCTION {{schema}}.capture_insert{{suffix}}() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION {{schema}}.capture_update{{suffix}}() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION {{schema}}.capture_delete{{suffix}}() FROM PUBLIC;

-- The capture functions of a collection: static SQL, one statement each, for every live version.
-- They never call an encoder, never notify, never wait for a worker.
CREATE OR REPLACE FUNCTION {{schema}}.capture_insert{{suffix}}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    embver_count bigint;
BEGIN
    IF {{live}} THEN
        WITH changed AS MATERIALIZED (SELECT {{row_keys:embver_new}} FROM {{new_rows}}){{enqueue}}
        SELECT count(*) INTO embver_count FROM changed;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_insert{{suffix}}() IS 'Enqueues inserted rows.';

CREATE OR REPLACE FUNCTION {{schema}}.capture_update{{suffix}}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_column
DECLARE
    embver_key record;
    embver_is_gone boolean;
BEGIN
    IF {{live}} THEN
        -- Most statements change one row, and most of those not its content: no join for them. No
        -- statement on the way has a parameter that decides its plan; planning would cost most.
        SELECT {{keys:after}}, EXISTS (SELECT FROM {{old_rows}} OFFSET 1) AS embver_many,
            {{match:before,after}} AS embver_same,
            before.content IS DISTINCT FROM after.content AS embver_changed
        INTO embver_key
        FROM (
            SELECT {{row_keys:embver_old}}, {{schema}}.content(embver_old) COLLATE "C" AS content
            FROM {{old_rows}}) AS before
        LEFT JOIN (
            SELECT {{row_keys:embver_new}}, {{schema}}.content(embver_new) COLLATE "C" AS content
            FROM {{new_rows}}) AS after ON true
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        ELSIF embver_key.embver_same AND NOT embver_key.embver_many THEN
            IF embver_key.embver_changed THEN{{enqueue_one}}
            END IF;
            RETURN NULL;
        END IF;

        WITH before AS (
            SELECT {{row_keys:embver_old}}, {{schema}}.content(embver_old) COLLATE "C" AS content, true AS embver_present
            FROM {{old_rows}}
        ), after AS (
            SELECT {{row_keys:embver_new}}, {{schema}}.content(embver_new) COLLATE "C" AS content, true AS embver_present
            FROM {{new_rows}}
        ), difference AS MATERIALIZED (
            SELECT {{keys}}, after.embver_present IS NULL AS embver_gone
            FROM before FULL JOIN after USING ({{keys}})
            WHERE before.embver_present IS NULL OR after.embver_present IS NULL
                OR before.content IS DISTINCT FROM after.content
        ), changed AS (
            SELECT {{keys}} FROM difference WHERE NOT embver_gone
        ){{enqueue}}
        SELECT coalesce(bool_or(embver_gone), false) INTO embver_is_gone FROM difference;

        IF embver_is_gone THEN
            -- Keys change rarely; one by one each vector is found by its index. A full join, here as
            -- above, never becomes a nested loop, whatever the first call brought.
            FOR embver_key IN
                SELECT {{keys:before}}
                FROM (SELECT {{row_keys:embver_old}} FROM {{old_rows}}) AS before
                FULL JOIN (
                    SELECT {{row_keys:embver_new}}, true AS embver_present
                    FROM {{new_rows}}) AS after USING ({{keys}})
                WHERE after.embver_present IS NULL
            LOOP
                IF current_setting('transaction_isolation') = 'read committed' THEN{{remove_one}}
                ELSE{{enqueue_one}}
                END IF;
            END LOOP;
        END IF;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_update{{suffix}}() IS
'Enqueues rows whose content changed; removes the vectors of keys that are gone.';

CREATE OR REPLACE FUNCTION {{schema}}.capture_delete{{suffix}}() RETURNS trigger
-- The plan is made at the first call and kept, whatever number of rows a later statement brings:
-- always look the vectors up by their index.
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
AS $fn$
#variable_conflict use_column
DECLARE
    embver_tombstone boolean := current_setting('transaction_isolation') <> 'read committed';
    embver_count bigint;
BEGIN
    IF {{live}} THEN
        IF embver_tombstone THEN
            -- Under an older snapshot a DELETE may not see the vector, and fails (40001) on one that
            -- a worker has rewritten since: leave the worker a note.
            WITH changed AS MATERIALIZED (SELECT {{row_keys:embver_old}} FROM {{old_rows}}){{enqueue}}
            SELECT count(*) INTO embver_count FROM changed;
        ELSE
            WITH gone AS MATERIALIZED (SELECT {{row_keys:embver_old}} FROM {{old_rows}}){{remove}}
            SELECT count(*) INTO embver_count FROM gone;
        END IF;
    END IF;
    RETURN NULL;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.capture_delete{{suffix}}() IS
'Removes the vectors of deleted rows at once.';

REVOKE EXECUTE ON FUNCTION {{schema}}.capture_insert{{suffix}}() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION {{schema}}.capture_update{{suffix}}() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION {{schema}}.capture_delete{{suffix}}() FROM PUBLIC;

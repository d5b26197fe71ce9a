-- Politeness: conditions under which workers hold back. They stop filling, never the changes of
-- versions that are searched.

CREATE OR REPLACE FUNCTION embver.set_throttle(policy jsonb, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_option record;
    v_valid boolean;
    v_before jsonb;
BEGIN
    IF jsonb_typeof(policy) IS DISTINCT FROM 'object' THEN
        PERFORM embver_internal.fail('VM006', 'a throttle policy is a JSON object',
            jsonb_build_object('policy', policy), 'set_throttle(''{"active_backends": 20}'')');
    END IF;
    FOR v_option IN SELECT o.key, o.value FROM jsonb_each(policy) AS o LOOP
        BEGIN
            v_valid := CASE v_option.key
                WHEN 'stop' THEN jsonb_typeof(v_option.value) IN ('boolean', 'string')
                WHEN 'replica_lag' THEN (v_option.value #>> '{}')::interval > '0'
                WHEN 'wal_rate' THEN pg_size_bytes(v_option.value #>> '{}') > 0
                WHEN 'active_backends' THEN jsonb_typeof(v_option.value) = 'number'
                    AND (v_option.value)::numeric % 1 = 0 AND (v_option.value)::numeric >= 1
                WHEN 'query' THEN jsonb_typeof(v_option.value) = 'string'
                    AND btrim(v_option.value #>> '{}') <> ''
                ELSE false END;
        EXCEPTION WHEN data_exception THEN
            v_valid := false;
        END;
        IF NOT coalesce(v_valid, false) THEN
            PERFORM embver_internal.fail('VM006',
                format('throttle %L: %s is unknown or out of range', v_option.key, v_option.value),
                jsonb_build_object('option', v_option.key, 'value', v_option.value),
                'stop (true, or why), replica_lag (''5 s''), wal_rate (''16 MB'', a second),'
                ' active_backends (number), query (SQL: true or a reason holds back)');
        END IF;
    END LOOP;
    SELECT t.policy INTO v_before FROM embver_internal.throttle AS t FOR UPDATE;
    UPDATE embver_internal.throttle AS t
    SET policy = set_throttle.policy, changed_at = now(), changed_by = session_user;
    PERFORM embver_internal.record_event(NULL, NULL, 'set_throttle', reason,
        jsonb_build_object('policy', v_before), jsonb_build_object('policy', policy));
END
$fn$;
COMMENT ON FUNCTION embver.set_throttle(jsonb, text) IS
'When workers hold back the filling: stop, replica_lag, wal_rate (a second), active_backends,'
' query. An empty policy lifts it. Changes of versions that are searched go on.';

CREATE OR REPLACE FUNCTION embver_internal.check_throttle(
    p_lsn pg_lsn DEFAULT NULL, p_at timestamptz DEFAULT NULL
) RETURNS TABLE (reason text, inactive text[], lsn pg_lsn, at timestamptz)
-- STABLE: the user's query sees, and does not write.
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET lock_timeout = '1s'
AS $fn$
DECLARE
    v_policy jsonb := (SELECT t.policy FROM embver_internal.throttle AS t);
    v_sees_all boolean;
    v_lag interval;
    v_rate numeric;
    v_active bigint;
    v_answer text;
BEGIN
    inactive := '{}';
    IF v_policy = '{}' THEN
        RETURN NEXT;
        RETURN;
    END IF;
    -- Other sessions' states and standbys are hidden from an ordinary role: then say so.
    v_sees_all := pg_has_role('pg_read_all_stats', 'USAGE');
    IF v_policy ->> 'stop' <> 'false' THEN
        reason := coalesce(nullif(v_policy ->> 'stop', 'true'), 'it was told to stop');
    END IF;
    IF v_policy ? 'replica_lag' THEN
        IF v_sees_all THEN
            SELECT max(r.replay_lag) INTO v_lag FROM pg_stat_replication AS r;
            IF v_lag > (v_policy ->> 'replica_lag')::interval THEN
                reason := coalesce(reason, format('a standby is %s behind (replica_lag %s)',
                    date_trunc('milliseconds', v_lag), v_policy ->> 'replica_lag'));
            END IF;
        ELSE
            inactive := inactive || 'replica_lag'::text;
        END IF;
    END IF;
    IF v_policy ? 'active_backends' THEN
        IF v_sees_all THEN
            SELECT count(*) INTO v_active FROM pg_stat_activity AS a
            WHERE a.state = 'active' AND a.backend_type = 'client backend'
                AND a.pid <> pg_backend_pid();
            IF v_active > (v_policy ->> 'active_backends')::bigint THEN
                reason := coalesce(reason, format('%s backends are active (active_backends %s)',
                    v_active, v_policy ->> 'active_backends'));
            END IF;
        ELSE
            inactive := inactive || 'active_backends'::text;
        END IF;
    END IF;
    IF v_policy ? 'wal_rate' THEN
        lsn := pg_current_wal_insert_lsn();
        at := clock_timestamp();
        v_rate := (lsn - p_lsn) / nullif(extract(epoch FROM at - p_at), 0);
        IF v_rate > pg_size_bytes(v_policy ->> 'wal_rate') THEN
            reason := coalesce(reason, format('%s of WAL a second are written (wal_rate %s)',
                pg_size_pretty(round(v_rate)), v_policy ->> 'wal_rate'));
        END IF;
    END IF;
    IF v_policy ? 'query' AND reason IS NULL THEN
        BEGIN
            EXECUTE format('SELECT (%s)::text', v_policy ->> 'query') INTO v_answer;
            IF v_answer NOT IN ('false', '') THEN
                reason := CASE v_answer WHEN 'true' THEN 'the throttle''s query says so'
                    ELSE v_answer END;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            -- Better slow than unwatched.
            reason := format('the throttle''s query failed: %s', SQLERRM);
        END;
    END IF;
    RETURN NEXT;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_throttle(pg_lsn, timestamptz) IS
'Why to hold back now, or NULL; what cannot be watched by this role (it needs pg_monitor); and a'
' sample of the WAL position, which the next call compares with.';

CREATE OR REPLACE FUNCTION embver_internal.worker_throttled(p_worker uuid, p_reason text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
UPDATE embver_internal.worker AS w SET throttled = p_reason, seen_at = now()
WHERE w.worker_id = p_worker AND w.throttled IS DISTINCT FROM p_reason;
$fn$;
COMMENT ON FUNCTION embver_internal.worker_throttled(uuid, text) IS
'A worker says why it holds back; NULL when it goes on.';

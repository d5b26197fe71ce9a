-- Rate: what all workers of one encoder share, on any host. Token buckets by the server's clock:
-- a bucket holds a twentieth of the limit and is refilled by nine tenths of it a minute, so that
-- no minute sees more than the limit, wherever it begins.

CREATE OR REPLACE FUNCTION embver_internal.worker_targets()
RETURNS TABLE (
    collection text, version int, state text, store text, encoder jsonb, fingerprint text,
    dimensions int, metric text, element_type text, index_spec jsonb,
    rollout_id bigint, is_metered boolean, limit_id int, chunker jsonb
)
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT w.collection, w.version, w.state, w.store, w.encoder, w.fingerprint, w.dimensions, w.metric,
    w.element_type, w.index_spec, r.rollout_id,
    r.rollout_id IS NOT NULL AND (coalesce(r.options -> 'budget', '{}') <> '{}'
        OR embver_internal.encoder_price(w.encoder) IS NOT NULL),
    l.limit_id, v.chunker
FROM embver_internal.writable_versions() AS w
INNER JOIN embver_internal.collection AS c ON c.name = w.collection
INNER JOIN embver_internal.version AS v ON v.collection_id = c.collection_id
    AND v.version = w.version
LEFT JOIN embver_internal.rollout AS r ON r.collection_id = c.collection_id
    AND r.to_version = w.version AND r.state IN ('running', 'paused')
LEFT JOIN embver_internal.encoder_limit AS l ON l.provider = w.encoder ->> 'provider'
    AND l.model = w.encoder ->> 'model'
    AND l.base_url = coalesce(w.encoder #>> '{options,base_url}', '')
ORDER BY w.collection, w.version;
$fn$;
COMMENT ON FUNCTION embver_internal.worker_targets() IS
'What workers write, with the rollout that pays for it, whether each batch must be reserved'
' (is_metered: a budget or a price is known), and the limits of its encoder.';

CREATE OR REPLACE FUNCTION embver_internal.bucket_wait(
    p_full_at timestamptz, p_now timestamptz, p_limit float8, p_minute interval, p_amount float8
) RETURNS float8
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN greatest(0, CASE WHEN p_full_at > p_now THEN extract(EPOCH FROM p_full_at - p_now) ELSE 0 END
    - (greatest(1, 0.05 * p_limit) - least(p_amount, greatest(1, 0.05 * p_limit)))
    / (0.9 * p_limit) * extract(EPOCH FROM p_minute));
COMMENT ON FUNCTION embver_internal.bucket_wait(
    timestamptz, timestamptz, float8, interval, float8
) IS
'Seconds until a bucket holds an amount, or is full where the amount is larger than the bucket.';

CREATE OR REPLACE FUNCTION embver_internal.bucket_after(
    p_full_at timestamptz, p_now timestamptz, p_limit float8, p_minute interval, p_amount float8
) RETURNS timestamptz
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN greatest(p_full_at, p_now) + p_amount / (0.9 * p_limit) * p_minute;
COMMENT ON FUNCTION embver_internal.bucket_after(
    timestamptz, timestamptz, float8, interval, float8
) IS 'When a bucket will be full after an amount was taken out (negative: put back).';

CREATE OR REPLACE FUNCTION embver_internal.acquire_encoder(
    p_limit int, p_worker uuid, p_tokens bigint, p_lease interval DEFAULT '5 min'
) RETURNS TABLE (wait float8, slot bigint, counts_tokens boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_limit embver_internal.encoder_limit;
    v_now timestamptz;
BEGIN
    SELECT l.* INTO v_limit FROM embver_internal.encoder_limit AS l
    WHERE l.limit_id = p_limit FOR NO KEY UPDATE;
    wait := 0;
    IF NOT FOUND THEN
        RETURN NEXT;  -- the limits were removed meanwhile
        RETURN;
    END IF;
    v_now := clock_timestamp();
    counts_tokens := v_limit.tokens_per_minute IS NOT NULL;
    wait := greatest(
        coalesce(embver_internal.bucket_wait(v_limit.requests_full_at, v_now,
            v_limit.requests_per_minute, v_limit.minute_length, 1), 0),
        coalesce(embver_internal.bucket_wait(v_limit.tokens_full_at, v_now,
            v_limit.tokens_per_minute, v_limit.minute_length, p_tokens), 0));
    IF v_limit.concurrency IS NOT NULL THEN
        DELETE FROM embver_internal.encoder_slot AS s
        WHERE s.limit_id = p_limit AND s.expires_at < v_now;
        IF (SELECT count(*) FROM embver_internal.encoder_slot AS s WHERE s.limit_id = p_limit)
            >= v_limit.concurrency THEN
            wait := greatest(wait, 0.1);
        END IF;
    END IF;
    IF wait = 0 THEN
        UPDATE embver_internal.encoder_limit AS l SET
            requests_full_at = coalesce(embver_internal.bucket_after(l.requests_full_at, v_now,
                l.requests_per_minute, l.minute_length, 1), l.requests_full_at),
            tokens_full_at = coalesce(embver_internal.bucket_after(l.tokens_full_at, v_now,
                l.tokens_per_minute, l.minute_length, p_tokens), l.tokens_full_at)
        WHERE l.limit_id = p_limit
            AND (l.requests_per_minute IS NOT NULL OR l.tokens_per_minute IS NOT NULL);
        IF v_limit.concurrency IS NOT NULL THEN
            INSERT INTO embver_internal.encoder_slot AS s (limit_id, held_by, expires_at)
            VALUES (p_limit, p_worker, v_now + p_lease)
            RETURNING s.slot_id INTO slot;
        END IF;
    END IF;
    RETURN NEXT;
END
$fn$;
COMMENT ON FUNCTION embver_internal.acquire_encoder(int, uuid, bigint, interval) IS
'Leave for one request, or the seconds after which to ask again; nothing is taken then. A slot of'
' the concurrency, and tokens counted too many, are given back by release_encoder.';

CREATE OR REPLACE FUNCTION embver_internal.release_encoder(
    p_limit int, p_slot bigint, p_unused_tokens bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
BEGIN
    UPDATE embver_internal.encoder_limit AS l
    SET tokens_full_at = l.tokens_full_at
        - p_unused_tokens / (0.9 * l.tokens_per_minute) * l.minute_length
    WHERE l.limit_id = p_limit AND p_unused_tokens <> 0 AND l.tokens_per_minute IS NOT NULL;
    DELETE FROM embver_internal.encoder_slot AS s WHERE s.slot_id = p_slot;
END
$fn$;
COMMENT ON FUNCTION embver_internal.release_encoder(int, bigint, bigint) IS
'The end of a request: its slot and the tokens that were counted too many go back.';

CREATE OR REPLACE FUNCTION embver.set_encoder_limits(
    encoder text, limits jsonb, base_url text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_provider text := split_part(encoder, ':', 1);
    v_model text := substr(encoder, length(split_part(encoder, ':', 1)) + 2);
    v_item record;
    v_urls text[];
    v_before jsonb;
BEGIN
    IF jsonb_typeof(limits) IS DISTINCT FROM 'object' THEN
        PERFORM embver_internal.fail('VM006', 'limits must be a JSON object',
            jsonb_build_object('limits', limits),
            '{"requests_per_minute": 3000, "tokens_per_minute": 1000000, "concurrency": 8}');
    END IF;
    FOR v_item IN SELECT o.key, o.value FROM jsonb_each(limits) AS o LOOP
        IF v_item.key NOT IN ('requests_per_minute', 'tokens_per_minute', 'concurrency')
            OR jsonb_typeof(v_item.value) <> 'number' OR (v_item.value)::numeric < 1
            OR (v_item.value)::numeric > 1000000000
            OR (v_item.key = 'concurrency' AND (v_item.value)::numeric % 1 <> 0) THEN
            PERFORM embver_internal.fail('VM006',
                format('limit %L: %s is unknown or out of range', v_item.key, v_item.value),
                jsonb_build_object('limits', limits, 'name', v_item.key),
                'limits are requests_per_minute, tokens_per_minute and concurrency, from 1');
        END IF;
    END LOOP;
    -- A name that nobody uses would limit nothing, in silence.
    SELECT array_agg(DISTINCT coalesce(v.encoder #>> '{options,base_url}', '')) INTO v_urls
    FROM embver_internal.version AS v
    WHERE v.encoder ->> 'provider' = v_provider AND v.encoder ->> 'model' = v_model
        AND v.state <> 'dropped'
        AND (set_encoder_limits.base_url IS NULL
            OR coalesce(v.encoder #>> '{options,base_url}', '') = set_encoder_limits.base_url);
    IF coalesce(cardinality(v_urls), 0) <> 1 THEN
        PERFORM embver_internal.fail('VM006', CASE WHEN v_urls IS NULL
                THEN format('no version uses the encoder %L%s', encoder,
                    coalesce(' at ' || base_url, ''))
                ELSE format('versions use the encoder %L at several addresses', encoder) END,
            jsonb_build_object('encoder', encoder, 'base_url', base_url, 'base_urls', v_urls,
                'encoders', (SELECT coalesce(jsonb_agg(DISTINCT
                        concat(v.encoder ->> 'provider', ':', v.encoder ->> 'model')), '[]')
                    FROM embver_internal.version AS v WHERE v.state <> 'dropped')),
            CASE WHEN v_urls IS NULL THEN 'name it as embver version list shows it'
                ELSE 'say which: base_url => ''…''' END);
    END IF;
    SELECT jsonb_strip_nulls(jsonb_build_object('requests_per_minute', l.requests_per_minute,
        'tokens_per_minute', l.tokens_per_minute, 'concurrency', l.concurrency)) INTO v_before
    FROM embver_internal.encoder_limit AS l
    WHERE l.provider = v_provider AND l.model = v_model AND l.base_url = v_urls[1];
    IF limits = '{}' THEN
        DELETE FROM embver_internal.encoder_limit AS l
        WHERE l.provider = v_provider AND l.model = v_model AND l.base_url = v_urls[1];
    ELSE
        INSERT INTO embver_internal.encoder_limit AS l
            (provider, model, base_url, requests_per_minute, tokens_per_minute, concurrency)
        VALUES (v_provider, v_model, v_urls[1], (limits ->> 'requests_per_minute')::float8,
            (limits ->> 'tokens_per_minute')::float8, (limits ->> 'concurrency')::int)
        ON CONFLICT ON CONSTRAINT encoder_limit_encoder_key DO UPDATE SET
            requests_per_minute = excluded.requests_per_minute,
            tokens_per_minute = excluded.tokens_per_minute, concurrency = excluded.concurrency;
    END IF;
    PERFORM embver_internal.record_event(NULL, NULL, 'set_encoder_limits', NULL,
        jsonb_build_object('limits', coalesce(v_before, '{}')),
        jsonb_build_object('encoder', encoder, 'base_url', v_urls[1], 'limits', limits));
END
$fn$;
COMMENT ON FUNCTION embver.set_encoder_limits(text, jsonb, text) IS
'What all workers of one encoder (provider:model and base_url) share: requests_per_minute,'
' tokens_per_minute, concurrency. Replaces what was set; {} removes it.';

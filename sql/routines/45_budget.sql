-- Money: what a rollout may spend. A worker reserves before it encodes, in one short transaction
-- that grants or refuses, and settles with what was used.

CREATE OR REPLACE FUNCTION embver_internal.check_budget(p_budget jsonb, p_price numeric)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_item record;
    v_hint text := '{"tokens": 1000000, "requests": 5000, "cost": 20, "price_per_million": 0.02}:'
        ' any of them, numbers of at least 0';
BEGIN
    IF jsonb_typeof(p_budget) IS DISTINCT FROM 'object' THEN
        PERFORM embver_internal.fail('VM006', 'a budget must be a JSON object',
            jsonb_build_object('budget', p_budget), v_hint);
    END IF;
    FOR v_item IN SELECT b.key, b.value FROM jsonb_each(p_budget) AS b LOOP
        IF v_item.key NOT IN ('tokens', 'cost', 'requests', 'price_per_million')
            OR jsonb_typeof(v_item.value) <> 'number' OR (v_item.value)::numeric < 0
            OR (v_item.key IN ('tokens', 'requests') AND (v_item.value)::numeric % 1 <> 0) THEN
            PERFORM embver_internal.fail('VM006',
                format('budget %L: %s is unknown or out of range', v_item.key, v_item.value),
                jsonb_build_object('budget', p_budget, 'name', v_item.key), v_hint);
        END IF;
    END LOOP;
    IF p_budget ? 'cost' AND NOT p_budget ? 'price_per_million' AND p_price IS NULL THEN
        PERFORM embver_internal.fail('VM006', 'a budget of a cost needs a price',
            jsonb_build_object('budget', p_budget),
            'add "price_per_million", the price of a million tokens');
    END IF;
    RETURN p_budget;
END
$fn$;
COMMENT ON FUNCTION embver_internal.check_budget(jsonb, numeric) IS
'The budget, or VM006; p_price is what a million tokens cost by the encoder''s options.';

CREATE OR REPLACE FUNCTION embver_internal.encoder_price(p_encoder jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN CASE WHEN jsonb_typeof(p_encoder #> '{options,price_per_million}') = 'number'
    THEN (p_encoder #>> '{options,price_per_million}')::numeric END;
COMMENT ON FUNCTION embver_internal.encoder_price(jsonb) IS
'The price of a million tokens that the encoder''s option price_per_million names.';

CREATE OR REPLACE FUNCTION embver_internal.exceeded(
    p_budget jsonb, p_tokens numeric, p_requests numeric, p_cost numeric
) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
RETURN CASE
    WHEN p_tokens > (p_budget ->> 'tokens')::numeric THEN 'tokens'
    WHEN p_requests > (p_budget ->> 'requests')::numeric THEN 'requests'
    WHEN p_cost > (p_budget ->> 'cost')::numeric THEN 'cost'
END;
COMMENT ON FUNCTION embver_internal.exceeded(jsonb, numeric, numeric, numeric) IS
'Which part of a budget a spend would exceed; NULL where it fits.';

CREATE OR REPLACE FUNCTION embver_internal.reserve_spend(
    p_collection text, p_version int, p_worker uuid, p_documents bigint, p_tokens bigint,
    p_requests bigint, p_patient boolean DEFAULT true
) RETURNS TABLE (reservation bigint, wait float8, refusal jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_id bigint;
    v_rollout embver_internal.rollout;
    v_spend embver_internal.rollout_spend;
    v_budget jsonb;
    v_price numeric;
    v_cost numeric;
    v_over text;
    v_open record;
    v_reason text;
BEGIN
    SELECT r.rollout_id INTO v_id
    FROM embver_internal.rollout AS r
    INNER JOIN embver_internal.collection AS c ON c.collection_id = r.collection_id
    WHERE c.name = p_collection AND r.to_version = p_version AND r.state IN ('running', 'paused');
    -- One at a time: each looks at a spend that holds every grant before it.
    SELECT s.* INTO v_spend FROM embver_internal.rollout_spend AS s
    WHERE s.rollout_id = v_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;  -- no rollout, nobody to charge
    END IF;
    SELECT r.* INTO v_rollout FROM embver_internal.rollout AS r WHERE r.rollout_id = v_id;
    v_budget := coalesce(v_rollout.options -> 'budget', '{}');
    SELECT coalesce((v_budget ->> 'price_per_million')::numeric,
        embver_internal.encoder_price(v.encoder)) INTO v_price
    FROM embver_internal.version AS v
    WHERE v.collection_id = v_rollout.collection_id AND v.version = p_version;
    v_cost := coalesce(p_tokens * v_price / 1000000, 0);
    v_over := embver_internal.exceeded(v_budget, v_spend.tokens + p_tokens,
        v_spend.requests + p_requests, v_spend.cost + v_cost);
    IF v_over IS NULL AND v_rollout.paused_for IS NULL THEN
        UPDATE embver_internal.rollout_spend AS s
        SET documents = s.documents + p_documents, tokens = s.tokens + p_tokens,
            requests = s.requests + p_requests, cost = s.cost + v_cost
        WHERE s.rollout_id = v_id;
        INSERT INTO embver_internal.reservation AS x
            (rollout_id, reserved_by, documents, tokens, requests, price_per_million)
        VALUES (v_id, p_worker, p_documents, p_tokens, p_requests, v_price)
        RETURNING x.reservation_id INTO reservation;
        wait := 0;
        RETURN NEXT;
        RETURN;
    END IF;

    IF v_rollout.paused_for IS NULL AND p_patient THEN
        -- Others reserved more than they will use, perhaps: what they settle may make room.
        SELECT coalesce(sum(x.tokens), 0) AS tokens, coalesce(sum(x.requests), 0) AS requests,
            coalesce(sum(x.tokens * x.price_per_million / 1000000), 0) AS cost INTO v_open
        FROM embver_internal.reservation AS x
        WHERE x.rollout_id = v_id AND x.reserved_by <> p_worker
            AND x.reserved_at > clock_timestamp() - interval '10 min';
        IF embver_internal.exceeded(v_budget, v_spend.tokens - v_open.tokens + p_tokens,
                v_spend.requests - v_open.requests + p_requests,
                v_spend.cost - v_open.cost + v_cost) IS NULL THEN
            wait := 0.2;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    v_reason := CASE WHEN v_rollout.paused_for IS NOT NULL THEN v_rollout.pause_reason
        ELSE format('budget reached: %s of %s %s are spent and the next batch needs up to %s',
            CASE v_over WHEN 'tokens' THEN v_spend.tokens::text
                WHEN 'requests' THEN v_spend.requests::text
                ELSE round(v_spend.cost, 6)::text END,
            v_budget ->> v_over, CASE v_over WHEN 'cost' THEN 'of cost' ELSE v_over END,
            CASE v_over WHEN 'tokens' THEN p_tokens::text
                WHEN 'requests' THEN p_requests::text
                ELSE round(v_cost, 6)::text END) END;
    UPDATE embver_internal.rollout AS r
    SET state = 'paused', paused_at = now(), pause_reason = v_reason,
        paused_for = jsonb_build_object('tokens', p_tokens, 'requests', p_requests, 'cost', v_cost)
    WHERE r.rollout_id = v_id AND r.state = 'running'
        AND coalesce(r.options -> 'budget', '{}') = v_budget;
    IF FOUND THEN
        PERFORM embver_internal.record_event(p_collection, p_version, 'pause_rollout', v_reason,
            jsonb_build_object('rollout', 'running'),
            jsonb_build_object('rollout', 'paused', 'budget', v_budget,
                'spent', to_jsonb(v_spend) - 'rollout_id'), v_id);
    END IF;
    wait := 0;
    refusal := jsonb_build_object('message', v_reason, 'hint', format(
            'embver rollout budget %s --%s N, then: embver rollout resume %s', p_collection,
            coalesce(v_over, 'tokens'), p_collection),
        'detail', jsonb_build_object('collection', p_collection, 'version', p_version,
            'rollout', v_id, 'budget', v_budget, 'exceeded', v_over,
            'spent', to_jsonb(v_spend) - 'rollout_id', 'needed', jsonb_build_object(
                'tokens', p_tokens, 'requests', p_requests, 'cost', v_cost)));
    RETURN NEXT;
END
$fn$;
COMMENT ON FUNCTION embver_internal.reserve_spend(
    text, int, uuid, bigint, bigint, bigint, boolean
) IS
'Charges a batch to the open rollout of a version before it is encoded, or pauses the rollout and'
' says why (refusal), or asks to come again (wait, seconds). No row: there is no rollout.';

CREATE OR REPLACE FUNCTION embver_internal.settle_spend(
    p_reservation bigint, p_documents bigint, p_tokens bigint, p_requests bigint,
    p_is_estimate boolean DEFAULT false
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_reservation embver_internal.reservation;
BEGIN
    DELETE FROM embver_internal.reservation AS x WHERE x.reservation_id = p_reservation
    RETURNING x.* INTO v_reservation;
    IF NOT FOUND THEN
        RETURN;  -- settled before: the answer was lost with the connection
    END IF;
    UPDATE embver_internal.rollout_spend AS s
    SET documents = s.documents - v_reservation.documents + p_documents,
        tokens = s.tokens - v_reservation.tokens + p_tokens,
        requests = s.requests - v_reservation.requests + p_requests,
        cost = s.cost + coalesce(
            (p_tokens - v_reservation.tokens) * v_reservation.price_per_million / 1000000, 0),
        is_estimate = s.is_estimate OR (p_is_estimate AND p_tokens > 0)
    WHERE s.rollout_id = v_reservation.rollout_id;
END
$fn$;
COMMENT ON FUNCTION embver_internal.settle_spend(bigint, bigint, bigint, bigint, boolean) IS
'Replaces what was reserved for a batch by what it used. Once; a second call does nothing.';

CREATE OR REPLACE FUNCTION embver_internal.record_spend(
    p_collection text, p_version int, p_documents bigint, p_tokens bigint, p_requests bigint,
    p_is_estimate boolean
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
UPDATE embver_internal.rollout_spend AS s
SET documents = s.documents + p_documents, tokens = s.tokens + p_tokens,
    requests = s.requests + p_requests,
    is_estimate = s.is_estimate OR (p_is_estimate AND p_tokens > 0)
FROM embver_internal.rollout AS r
INNER JOIN embver_internal.collection AS c ON c.collection_id = r.collection_id
WHERE r.rollout_id = s.rollout_id AND c.name = p_collection AND r.to_version = p_version
    AND r.state IN ('running', 'paused');
$fn$;
COMMENT ON FUNCTION embver_internal.record_spend(text, int, bigint, bigint, bigint, boolean) IS
'Adds to the spend of a rollout without budget and price, for which nothing is reserved.';

CREATE OR REPLACE FUNCTION embver.set_budget(collection text, budget jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_rollout embver_internal.rollout := embver_internal.open_rollout(v_collection);
    v_version embver_internal.version;
    v_before jsonb := coalesce(v_rollout.options -> 'budget', '{}');
    v_after jsonb;
BEGIN
    IF jsonb_typeof(budget) IS DISTINCT FROM 'object' THEN
        PERFORM embver_internal.check_budget(budget, NULL);
    END IF;
    v_version := embver_internal.find_version(
        v_collection.collection_id, v_rollout.to_version);
    v_after := embver_internal.check_budget(jsonb_strip_nulls(v_before || budget),
        embver_internal.encoder_price(v_version.encoder));
    UPDATE embver_internal.rollout AS r
    SET options = r.options || jsonb_build_object('budget', v_after)
    WHERE r.rollout_id = v_rollout.rollout_id;
    PERFORM embver_internal.record_event(v_collection.name, v_rollout.to_version, 'set_budget',
        NULL, jsonb_build_object('budget', v_before), jsonb_build_object('budget', v_after),
        v_rollout.rollout_id);
END
$fn$;
COMMENT ON FUNCTION embver.set_budget(text, jsonb) IS
'Changes the budget of the open rollout: what is named is replaced, null removes it. A rollout'
' that the budget paused goes on with resume_rollout.';

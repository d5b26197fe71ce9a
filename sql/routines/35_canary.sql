-- The canary of a version: stored once, with it or by its first worker; never overwritten.

CREATE OR REPLACE FUNCTION embver_internal.store_canary(
    p_collection text, p_version int, p_texts text[], p_vectors text[], p_reason text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(p_collection);
    v_version embver_internal.version;
BEGIN
    -- Workers that begin at once: the second waits here and finds the canary of the first.
    PERFORM FROM embver_internal.version AS v
    WHERE v.collection_id = v_collection.collection_id AND v.version = p_version
    FOR NO KEY UPDATE;
    v_version := embver_internal.find_version(v_collection.collection_id, p_version);
    IF EXISTS (SELECT FROM embver_internal.canary AS c
        WHERE c.collection_id = v_version.collection_id AND c.version = p_version) THEN
        RETURN false;
    ELSIF coalesce(cardinality(p_texts), 0) = 0
        OR cardinality(p_texts) IS DISTINCT FROM cardinality(p_vectors) THEN
        PERFORM embver_internal.fail('VM006', 'a canary needs a vector for each of its texts',
            jsonb_build_object('texts', cardinality(p_texts), 'vectors', cardinality(p_vectors)),
            'the library encodes it: embver worker');
    END IF;
    INSERT INTO embver_internal.canary (collection_id, version, probe, probe_text, vector)
    SELECT v_version.collection_id, p_version, u.probe, u.probe_text, u.vector::real[]
    FROM unnest(p_texts, p_vectors) WITH ORDINALITY AS u (probe_text, vector, probe);
    IF EXISTS (SELECT FROM embver_internal.canary AS c
        WHERE c.collection_id = v_version.collection_id AND c.version = p_version
            AND cardinality(c.vector) <> v_version.dimensions) THEN
        PERFORM embver_internal.fail('VM013', format('the vectors of version %s of %L have %s'
                ' dimensions', p_version, p_collection, v_version.dimensions),
            jsonb_build_object('expected', v_version.dimensions),
            format('embver version show %s %s', p_collection, p_version));
    END IF;
    PERFORM embver_internal.record_event(p_collection, p_version, 'store_canary', p_reason, NULL,
        jsonb_build_object('probes', cardinality(p_texts)));
    RETURN true;
END
$fn$;
COMMENT ON FUNCTION embver_internal.store_canary(text, int, text[], text[], text) IS
'Stores what the probe texts of a version are encoded to; false where it has a canary already.';

CREATE OR REPLACE FUNCTION embver.forget_canary(collection text, version int, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
#variable_conflict use_variable
DECLARE
    v_collection embver_internal.collection := embver_internal.find_collection(collection);
    v_count bigint;
BEGIN
    PERFORM embver_internal.find_version(v_collection.collection_id, version);
    IF coalesce(btrim(reason), '') = '' THEN
        PERFORM embver_internal.fail('VM006', 'forgetting a canary needs a reason',
            jsonb_build_object('reason', reason),
            'forget_canary(…, reason => ''why the vectors are still of one space'')');
    END IF;
    DELETE FROM embver_internal.canary AS c
    WHERE c.collection_id = v_collection.collection_id AND c.version = forget_canary.version;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    PERFORM embver_internal.record_event(collection, version, 'forget_canary', reason,
        jsonb_build_object('probes', v_count));
END
$fn$;
COMMENT ON FUNCTION embver.forget_canary(text, int, text) IS
'Gives up a version''s canary, with a reason: the next worker stores what its encoder says then.';

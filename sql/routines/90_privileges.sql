-- Who may do what. Group roles that do not exist are left out: make them, then embver upgrade.

CREATE OR REPLACE FUNCTION embver_internal.store_grants(p_store text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $fn$
SELECT coalesce(string_agg(format(g.statement, p_store, g.role), E';\n'), '') || ';'
FROM (VALUES
    ('GRANT USAGE ON SCHEMA %1$s TO %2$I', 'embver_reader'),
    ('GRANT SELECT ON %1$s.embedding, %1$s.bridge, %1$s.bridge_row, %1$s.bridge_norm TO %2$I',
        'embver_reader'),
    ('GRANT USAGE ON SCHEMA %1$s TO %2$I', 'embver_worker'),
    ('GRANT EXECUTE ON FUNCTION %1$s.claim, %1$s.complete, %1$s.give_back, %1$s.extend_leases,'
        ' %1$s.begin_lease, %1$s.queue_status, %1$s.is_owed, %1$s.record_bridge, %1$s.claim_norms,'
        ' %1$s.record_norms, %1$s.drop_bridge, %1$s.bridge_pairs, %1$s.claim_norm_page,'
        ' %1$s.measure_coverage,'
        ' %1$s.walk_step, %1$s.walk_status, %1$s.claim_index_build'
        ' TO %2$I', 'embver_worker'),
    ('GRANT USAGE ON SCHEMA %1$s TO %2$I', 'embver_admin'),
    ('GRANT SELECT ON ALL TABLES IN SCHEMA %1$s TO %2$I', 'embver_admin'),
    ('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %1$s TO %2$I', 'embver_admin')
) AS g (statement, role)
INNER JOIN pg_roles AS r ON r.rolname = g.role;
$fn$;
COMMENT ON FUNCTION embver_internal.store_grants(text) IS
'The grants on a store: readers the vectors, workers the queue''s functions, admins everything.';

CREATE OR REPLACE FUNCTION embver_internal.grant_collection(p_collection_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
AS $fn$
DECLARE
    v_collection embver_internal.collection;
    v_schema text;
    v_role text;
BEGIN
    SELECT c.* INTO v_collection FROM embver_internal.collection AS c
    WHERE c.collection_id = p_collection_id;
    v_schema := quote_ident('embver_' || v_collection.name);
    FOR v_role IN
        SELECT r.rolname FROM pg_roles AS r
        WHERE r.rolname IN ('embver_reader', 'embver_admin')
    LOOP
        PERFORM embver_internal.execute_as(
            embver_internal.source_owner(v_collection.source), format(
                'GRANT USAGE ON SCHEMA %1$s TO %2$I;'
                'GRANT SELECT ON %1$s.current, %1$s.versions, %1$s.chunks, %1$s.visible TO %2$I;'
                'GRANT EXECUTE ON FUNCTION %1$s.search TO %2$I;', v_schema, v_role));
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'embver_admin') THEN
        PERFORM embver_internal.execute_as(
            embver_internal.source_owner(v_collection.source), format(
                'GRANT EXECUTE ON FUNCTION %1$s.document_names, %1$s.count_documents,'
                ' %1$s.sample_documents TO embver_admin;', v_schema));
    END IF;
END
$fn$;
COMMENT ON FUNCTION embver_internal.grant_collection(int) IS
'The grants on a collection''s generated objects.';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA embver, embver_internal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION embver.hash(text) TO PUBLIC;

DO $$
BEGIN
    PERFORM embver_internal.grant_to_role('embver_admin',
        'USAGE ON SCHEMA embver, embver_internal');
    PERFORM embver_internal.grant_to_role('embver_admin',
        'EXECUTE ON ALL FUNCTIONS IN SCHEMA embver, embver_internal');
    PERFORM embver_internal.grant_to_role('embver_admin',
        'SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA embver_internal');
    PERFORM embver_internal.grant_to_role('embver_admin', 'SELECT ON ALL TABLES IN SCHEMA embver');

    PERFORM embver_internal.grant_to_role('embver_worker',
        'USAGE ON SCHEMA embver, embver_internal');
    PERFORM embver_internal.grant_to_role('embver_worker',
        'SELECT ON embver_internal.collection, embver_internal.version, embver_internal.rollout,'
        ' embver_internal.route, embver_internal.canary, embver_internal.throttle,'
        ' embver_internal.encoder_limit, embver_internal.alembic_version');
    PERFORM embver_internal.grant_to_role('embver_worker',
        'EXECUTE ON FUNCTION embver_internal.writable_versions, embver_internal.store_name,'
        ' embver_internal.store_canary, embver_internal.check_throttle,'
        ' embver_internal.worker_throttled,'
        ' embver_internal.worker_targets, embver_internal.encoder_price,'
        ' embver_internal.reserve_spend, embver_internal.settle_spend,'
        ' embver_internal.record_spend, embver_internal.acquire_encoder,'
        ' embver_internal.release_encoder,'
        ' embver_internal.register_worker, embver_internal.worker_seen,'
        ' embver_internal.forget_worker');

    PERFORM embver_internal.grant_to_role('embver_reader',
        'USAGE ON SCHEMA embver, embver_internal');
    PERFORM embver_internal.grant_to_role('embver_reader',
        'SELECT ON embver_internal.collection, embver_internal.version, embver_internal.route,'
        ' embver_internal.canary, embver_internal.alembic_version, embver.collections,'
        ' embver.versions');
    PERFORM embver_internal.grant_to_role('embver_reader',
        'EXECUTE ON FUNCTION embver.route, embver.query, embver_internal.route_versions,'
        ' embver_internal.fail,'
        ' embver_internal.find_collection, embver_internal.find_version,'
        ' embver_internal.check_mode, embver_internal.check_dimensions,'
        ' embver_internal.check_search_arguments, embver_internal.plan_search,'
        ' embver_internal.effective_mode, embver_internal.split_version,'
        ' embver_internal.newer_coverage, embver_internal.search_modes,'
        ' embver_internal.versions_read, embver_internal.refuse_pair,'
        ' embver_internal.refuse_query, embver_internal.refuse_foreign_query,'
        ' embver_internal.filter_condition,'
        ' embver_internal.refuse_filter, embver_internal.store_name');
    -- The owner of a source runs the generated functions; see grant_to_owner.
END
$$;

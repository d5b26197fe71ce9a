    LOOP
        IF filter IS NOT NULL AND NOT v_iterative THEN
            v_iterative := true;
            v_setting := set_config('hnsw.iterative_scan', 'strict_order', true);
        END IF;
        IF v_source IS NULL AND (v_exact OR filter IS NOT NULL) THEN
            -- By its name of today, which may have changed since this function was made.
            SELECT c.source::text INTO v_source
            FROM embver_internal.collection AS c WHERE c.name = {{collection}};
            IF filter IS NOT NULL THEN
                v_condition := '(' || embver_internal.filter_condition(
                    {{collection}}, v_source::regclass, filter) || ')';
            END IF;
        END IF;
{{scans}}        -- The index stops early under a selective filter or row-level security: look further, then
        -- everywhere.
        EXIT WHEN v_exact OR cardinality(v_hits) >= {{depth}}
            OR (v_iterative AND cardinality(v_hits) >= k);
        IF v_iterative THEN
            v_exact := true;
        ELSE
            v_iterative := true;
            v_setting := set_config('hnsw.iterative_scan', 'strict_order', true);
        END IF;
    END LOOP;

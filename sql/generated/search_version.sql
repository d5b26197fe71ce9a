            WHEN {{version}} THEN
                IF filter IS NULL THEN
                    v_hits := ARRAY(
                        SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance,
                            (row_number() OVER (ORDER BY h.distance, {{keys:h}}))::int,
                            {{version}})::{{schema}}.hit
                        FROM (
                            SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                v_query.embedding::{{element_type}}({{dimensions}}) AS distance
                            FROM {{store}}.embedding AS e
                            WHERE (SELECT true FROM {{source}} AS embver_row
                                WHERE {{source_match:e}} LIMIT 1)
                            ORDER BY e.embedding {{operator}}
                                v_query.embedding::{{element_type}}({{dimensions}})
                            LIMIT k) AS h
                        ORDER BY h.distance, {{keys:h}});
                ELSE
                    EXECUTE format($sql$
                        SELECT ARRAY(
                            SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance,
                                (row_number() OVER (ORDER BY h.distance, {{keys:h}}))::int,
                                {{version}})::{{schema}}.hit
                            FROM (
                                SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}}) AS distance
                                FROM {{store}}.embedding AS e
                                WHERE (SELECT true FROM {{source}} AS embver_row
                                    WHERE {{source_match:e}} AND (%s) LIMIT 1)
                                ORDER BY e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}})
                                LIMIT $2) AS h
                            ORDER BY h.distance, {{keys:h}})
                        $sql$, embver_internal.filter_condition(
                            {{collection}}, {{source_literal}}::regclass, filter))
                    INTO v_hits USING v_query.embedding, k;
                END IF;

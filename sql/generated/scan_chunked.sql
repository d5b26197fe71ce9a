                -- Rows are chunks: more are looked at than documents wanted, and each document
                -- stands where its best one does. The nearest rows hold the nearest documents, so
                -- k of them are enough; the loop goes on until there are.
                IF NOT v_exact AND {{depth}} > 10 AND options ->> 'ef_search' IS NULL THEN
                    v_setting := set_config('hnsw.ef_search', least(4 * {{depth}}, 1000)::text, true);
                END IF;
                v_rows := CASE WHEN NOT v_exact
                    THEN {{depth}}::bigint * CASE WHEN v_iterative THEN 20 ELSE 4 END END;
                IF v_condition IS NULL AND NOT v_exact THEN
                    v_hits := ARRAY(
                        SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance, NULL, {{version}})::{{schema}}.hit
                        FROM (
                            SELECT DISTINCT ON ({{keys:c}}) {{keys:c}}, c.chunk, c.distance
                            FROM (
                                SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                    {{query}}::{{element_type}}({{dimensions}}) AS distance
                                FROM {{store}}.embedding AS e
                                WHERE (SELECT true FROM {{schema}}.visible AS d
                                    WHERE {{match:d,e}} LIMIT 1)
                                ORDER BY e.embedding {{operator}}
                                    {{query}}::{{element_type}}({{dimensions}})
                                LIMIT v_rows) AS c
                            ORDER BY {{keys:c}}, c.distance, c.chunk) AS h
                        ORDER BY h.distance, {{keys:h}} LIMIT {{depth}});
                ELSE
                    EXECUTE $sql$
                        SELECT ARRAY(
                            SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance, NULL, {{version}})::{{schema}}.hit
                            FROM (
                                SELECT DISTINCT ON ({{keys:c}}) {{keys:c}}, c.chunk, c.distance
                                FROM (
                                    SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                        $1::{{element_type}}({{dimensions}}) AS distance
                                    FROM {{store}}.embedding AS e
                        $sql$ || CASE WHEN v_exact THEN
                            'INNER JOIN ' || v_source || $sql$ AS embver_row ON {{source_match:e}}
                                WHERE $sql$ || coalesce(v_condition, 'true')
                        ELSE
                            'WHERE (SELECT true FROM ' || v_source || $sql$ AS embver_row
                                    WHERE {{source_match:e}} AND $sql$ || v_condition || $sql$
                                    LIMIT 1)
                                ORDER BY e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}})
                            $sql$
                        END || $sql$
                                    LIMIT $2) AS c
                                ORDER BY {{keys:c}}, c.distance, c.chunk) AS h
                            ORDER BY h.distance, {{keys:h}} LIMIT $3)
                        $sql$
                    INTO v_hits USING {{query}}, v_rows, {{depth}};
                END IF;

                IF v_condition IS NULL AND NOT v_exact THEN
                    v_hits := ARRAY(
                        SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance, NULL, {{version}})::{{schema}}.hit
                        FROM (
                            SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                {{query}}::{{element_type}}({{dimensions}}) AS distance
                            FROM {{store}}.embedding AS e
                            WHERE (SELECT true FROM {{schema}}.visible AS d
                                WHERE {{match:d,e}} LIMIT 1)
                            ORDER BY e.embedding {{operator}}
                                {{query}}::{{element_type}}({{dimensions}})
                            LIMIT {{depth}}) AS h
                        ORDER BY h.distance, {{keys:h}});
                ELSE
                    EXECUTE $sql$
                        SELECT ARRAY(
                            SELECT ROW({{keys:h}}, h.chunk, {{score}}, h.distance, NULL, {{version}})::{{schema}}.hit
                            FROM (
                                SELECT {{keys:e}}, e.chunk, e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}}) AS distance
                                FROM {{store}}.embedding AS e
                        $sql$ || CASE WHEN v_exact THEN
                            -- By way of the source, whose own indexes serve a rare value; the
                            -- sum keeps the vector index out.
                            'INNER JOIN ' || v_source || $sql$ AS embver_row ON {{source_match:e}}
                                WHERE $sql$ || coalesce(v_condition, 'true') || $sql$
                                ORDER BY (e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}})) + 0
                            $sql$
                        ELSE
                            'WHERE (SELECT true FROM ' || v_source || $sql$ AS embver_row
                                    WHERE {{source_match:e}} AND $sql$ || v_condition || $sql$
                                    LIMIT 1)
                                ORDER BY e.embedding {{operator}}
                                    $1::{{element_type}}({{dimensions}})
                            $sql$
                        END || $sql$
                                LIMIT $2) AS h
                            ORDER BY h.distance, {{keys:h}})
                        $sql$
                    INTO v_hits USING {{query}}, {{depth}};
                END IF;

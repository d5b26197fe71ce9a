    SELECT {{row_keys:embver_row}}, NULL::{{element_type}} AS embedding, NULL::int AS version
    FROM {{source}} AS embver_row WHERE false

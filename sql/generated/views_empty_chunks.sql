    SELECT {{row_keys:embver_row}}, NULL::int AS version, NULL::int AS chunk,
        NULL::int AS chunk_from, NULL::int AS chunk_to, NULL::bytea AS content_hash
    FROM {{source}} AS embver_row WHERE false

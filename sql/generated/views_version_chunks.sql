    SELECT {{keys}}, {{version}} AS version, chunk, chunk_from, chunk_to, content_hash
    FROM {{store}}.embedding

    -- A hash that fits nothing where chunks are missing, too many, or of different contents.
    SELECT {{keys}}, 0 AS chunk,
        CASE WHEN count(*) = max(chunk_count) AND max(chunk) = max(chunk_count) - 1
            AND min(chunk_count) = max(chunk_count)
            AND min(encode(content_hash, 'hex')) = max(encode(content_hash, 'hex'))
            THEN decode(max(encode(content_hash, 'hex')), 'hex') ELSE '\x' END AS content_hash
    FROM {{store}}.embedding GROUP BY {{keys}}

    SELECT {{keys}}, chunk, content_hash FROM {{store}}.embedding

    SELECT {{keys}}, embedding::{{element_type}} AS embedding, {{version}} AS version
    FROM {{store}}.embedding

, enqueue_{{version}} AS (
            INSERT INTO {{store}}.job ({{keys}}) SELECT {{keys}} FROM changed
        )

, remove_{{version}} AS (
            DELETE FROM {{store}}.embedding AS e USING gone WHERE {{match:e,gone}}
        )

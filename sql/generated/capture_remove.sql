, remove_{{version}} AS (
            DELETE FROM {{store}}.embedding AS e USING gone WHERE {{match:e,gone}}
        ), tombstone_{{version}} AS (
            -- Under an older snapshot the DELETE may not see the vector: leave the worker a note.
            INSERT INTO {{store}}.job ({{keys}}) SELECT {{keys}} FROM gone WHERE v_tombstone
        )

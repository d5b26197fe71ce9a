
    -- DELETE: a TRUNCATE of the store could deadlock with readers. One partition may be truncated
    -- alone, so only what has no source row goes.
    DELETE FROM {{store}}.embedding AS e
    WHERE NOT EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,e}});
    INSERT INTO {{store}}.rewalk SELECT WHERE v_tombstone;

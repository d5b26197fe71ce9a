
    -- DELETE: a TRUNCATE of the store could deadlock with readers. One partition may be truncated
    -- alone, so only what has no source row goes. Under an older snapshot: by a walk.
    DELETE FROM {{store}}.embedding AS e
    WHERE NOT embver_tombstone
        AND NOT EXISTS (SELECT FROM {{schema}}.document AS d WHERE {{match:d,e}});
    INSERT INTO {{store}}.rewalk SELECT WHERE embver_tombstone;


                DELETE FROM {{store}}.embedding AS e WHERE {{match:e,embver_key}};
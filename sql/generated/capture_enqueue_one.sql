
                INSERT INTO {{store}}.job ({{keys}}) VALUES ({{keys:embver_key}});
-- How far vectors were copied from the version's origin, and which rows are not believed.

CREATE TABLE {{store}}.origin_copy (
    copy_only boolean PRIMARY KEY DEFAULT true,
    copied bigint NOT NULL DEFAULT 0,
    touched_from bigint,
    touched_until bigint,
    CONSTRAINT origin_copy_only_check CHECK (copy_only)
);
INSERT INTO {{store}}.origin_copy DEFAULT VALUES;
COMMENT ON TABLE {{store}}.origin_copy IS
'One row: vectors copied from the origin, and the transactions whose rows are encoded anew.';
COMMENT ON COLUMN {{store}}.origin_copy.touched_from IS
'Oldest transaction under way when the capture began: it, and later ones, may not have run it.';
COMMENT ON COLUMN {{store}}.origin_copy.touched_until IS
'First transaction of which all that it wrote was captured: the barrier had been passed.';

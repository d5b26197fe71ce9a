-- A request to encode everything again, and from which lease on vectors count.

ALTER TABLE {{store}}.rewalk ADD COLUMN is_renewal boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN {{store}}.rewalk.is_renewal IS 'Whether every document is to be encoded again.';

ALTER TABLE {{store}}.walk
ADD COLUMN walk_renewal boolean NOT NULL DEFAULT false,
ADD COLUMN walk_renew_lease bigint;
COMMENT ON COLUMN {{store}}.walk.walk_renewal IS
'Whether this walk, once its barrier is passed, begins to encode everything again.';
COMMENT ON COLUMN {{store}}.walk.walk_renew_lease IS
'Vectors of older leases are encoded again though their content is the same.';

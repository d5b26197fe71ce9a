-- The bridge: an affine map from an older version's vectors into this version's space,
-- g(x) = (x − x̄)W + ȳ, by which this version's queries search the older version's index.

CREATE TABLE {{store}}.bridge (
    bridge_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bridge_from int NOT NULL,
    state text NOT NULL DEFAULT 'filling',
    x_mean vector NOT NULL,
    y_mean vector NOT NULL,
    pairs int NOT NULL,
    lambda float8 NOT NULL,
    cosine float8,
    coverage float8,
    provenance jsonb NOT NULL DEFAULT '{}',
    fitted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    usable_at timestamptz,
    CONSTRAINT bridge_state_check CHECK (state IN ('filling', 'usable', 'replaced'))
);
CREATE UNIQUE INDEX bridge_usable_key ON {{store}}.bridge (bridge_from)
WHERE state = 'usable';
COMMENT ON TABLE {{store}}.bridge IS
'One row a fit of the map from an older version. It is used once its norms are there.';
COMMENT ON COLUMN {{store}}.bridge.bridge_from IS 'The older version.';
COMMENT ON COLUMN {{store}}.bridge.x_mean IS 'Mean of the older vectors it was fitted on.';
COMMENT ON COLUMN {{store}}.bridge.y_mean IS 'Mean of their vectors in this version.';
COMMENT ON COLUMN {{store}}.bridge.pairs IS 'Documents it was fitted on.';
COMMENT ON COLUMN {{store}}.bridge.lambda IS 'Weight of the ridge penalty.';
COMMENT ON COLUMN {{store}}.bridge.cosine IS
'Mean cosine of image and vector over documents held out of the fit.';
COMMENT ON COLUMN {{store}}.bridge.coverage IS 'Share of documents in this version at the fit.';

CREATE TABLE {{store}}.bridge_row (
    bridge_id bigint NOT NULL REFERENCES {{store}}.bridge ON DELETE CASCADE,
    row_number int NOT NULL,
    row_vector vector NOT NULL,
    PRIMARY KEY (bridge_id, row_number)
);
COMMENT ON TABLE {{store}}.bridge_row IS
'The rows of W, one a dimension of the older version, as long as a vector of this one.';

-- Uncompressed in its row, where it fits: every search reads all of them.
DO $do$
BEGIN
    IF {{dimensions}} <= 2000 THEN
        ALTER TABLE {{store}}.bridge_row ALTER COLUMN row_vector SET STORAGE PLAIN;
    END IF;
END
$do$;

-- Beside a key of any name: columns of a source do not begin like these.
CREATE TABLE {{store}}.bridge_norm (
    embver_bridge bigint NOT NULL,
    {{key_definitions}},
    embver_chunk int NOT NULL,
    embver_lease bigint NOT NULL,
    embver_norm real NOT NULL,
    PRIMARY KEY (embver_bridge, {{keys}}, embver_chunk)
);
COMMENT ON TABLE {{store}}.bridge_norm IS
'The length of the image of each older vector, by which its score is divided.';
COMMENT ON COLUMN {{store}}.bridge_norm.embver_lease IS
'The encoded_lease of the vector it was computed of: one that was written since has none.';

CREATE TABLE {{store}}.bridge_walk (
    embver_bridge bigint PRIMARY KEY REFERENCES {{store}}.bridge ON DELETE CASCADE,
    {{key_nullable_definitions}},
    embver_chunk int,
    embver_seen bigint NOT NULL DEFAULT 0,
    embver_missing bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE {{store}}.bridge_walk IS
'How far the older vectors were walked in search of those without a norm.';

CREATE TABLE {{store}}.bridge_page (
    embver_page bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    embver_bridge bigint NOT NULL REFERENCES {{store}}.bridge ON DELETE CASCADE,
    embver_claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    {{key_array_definitions}},
    embver_chunks int[] NOT NULL,
    embver_leases bigint[] NOT NULL
);
COMMENT ON TABLE {{store}}.bridge_page IS
'Older vectors whose norms somebody computes; a page that nobody returns is found again.';

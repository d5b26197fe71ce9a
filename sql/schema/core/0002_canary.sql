-- The canary: what fixed texts were encoded to when a version was made. A model that changes
-- behind its name gives itself away by other vectors for them.

CREATE TABLE embver_internal.canary (
    collection_id int NOT NULL,
    version int NOT NULL,
    probe int NOT NULL,
    probe_text text NOT NULL,
    vector real[] NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, version, probe),
    FOREIGN KEY (collection_id, version) REFERENCES embver_internal.version ON DELETE CASCADE,
    CONSTRAINT canary_probe_check CHECK (probe >= 1),
    CONSTRAINT canary_vector_check CHECK (cardinality(vector) >= 1)
);
COMMENT ON TABLE embver_internal.canary IS
'Probe texts of a version and their vectors, which workers compare with what the encoder says now.';
COMMENT ON COLUMN embver_internal.canary.probe_text IS
'The text as a JSON string of ASCII characters: a database of any encoding can hold it.';

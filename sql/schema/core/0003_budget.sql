-- What a rollout may spend and what it spent; what all workers of one encoder share.

ALTER TABLE embver_internal.rollout ADD COLUMN paused_for jsonb;
COMMENT ON COLUMN embver_internal.rollout.paused_for IS
'Of a pause by the budget: what the batch needed that did not fit. NULL for any other pause.';

CREATE TABLE embver_internal.rollout_spend (
    rollout_id bigint PRIMARY KEY REFERENCES embver_internal.rollout ON DELETE CASCADE,
    documents bigint NOT NULL DEFAULT 0,
    tokens bigint NOT NULL DEFAULT 0,
    requests bigint NOT NULL DEFAULT 0,
    cost numeric NOT NULL DEFAULT 0,
    is_estimate boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE embver_internal.rollout_spend IS
'What a rollout spent, with what is reserved: a crashed worker''s request may have been billed.';
COMMENT ON COLUMN embver_internal.rollout_spend.cost IS
'In the currency of the price; 0 while no price is known.';
COMMENT ON COLUMN embver_internal.rollout_spend.is_estimate IS
'Whether some tokens were guessed from the length of the texts.';
INSERT INTO embver_internal.rollout_spend (rollout_id)
SELECT r.rollout_id FROM embver_internal.rollout AS r;

CREATE TABLE embver_internal.reservation (
    reservation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout_id bigint NOT NULL REFERENCES embver_internal.rollout_spend ON DELETE CASCADE,
    reserved_by uuid NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    documents bigint NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    price_per_million numeric
);
CREATE INDEX reservation_rollout_id_idx ON embver_internal.reservation (rollout_id);
COMMENT ON TABLE embver_internal.reservation IS
'Batches under way, counted in rollout_spend already. Settling deletes the row and corrects the'
' spend; the row of a worker that died stays, and so does its spend.';

CREATE TABLE embver_internal.encoder_limit (
    limit_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    base_url text NOT NULL DEFAULT '',
    requests_per_minute float8,
    tokens_per_minute float8,
    concurrency int,
    minute_length interval NOT NULL DEFAULT '60 s',
    requests_full_at timestamptz NOT NULL DEFAULT '-infinity',
    tokens_full_at timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT encoder_limit_encoder_key UNIQUE (provider, model, base_url),
    CONSTRAINT encoder_limit_requests_check CHECK (requests_per_minute > 0),
    CONSTRAINT encoder_limit_tokens_check CHECK (tokens_per_minute > 0),
    CONSTRAINT encoder_limit_concurrency_check CHECK (concurrency > 0),
    CONSTRAINT encoder_limit_minute_check CHECK (minute_length > '0')
);
COMMENT ON TABLE embver_internal.encoder_limit IS
'What all workers of one encoder share; NULL is no limit.';
COMMENT ON COLUMN embver_internal.encoder_limit.minute_length IS
'How long a minute is: tests make it shorter.';
COMMENT ON COLUMN embver_internal.encoder_limit.requests_full_at IS
'When the bucket of requests is full again, by the server''s clock.';
COMMENT ON COLUMN embver_internal.encoder_limit.tokens_full_at IS
'When the bucket of tokens is full again, by the server''s clock.';

CREATE TABLE embver_internal.encoder_slot (
    slot_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id int NOT NULL REFERENCES embver_internal.encoder_limit ON DELETE CASCADE,
    held_by uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX encoder_slot_limit_id_idx ON embver_internal.encoder_slot (limit_id);
COMMENT ON TABLE embver_internal.encoder_slot IS
'Requests under way to an encoder with a limit of concurrency; those of dead workers expire.';

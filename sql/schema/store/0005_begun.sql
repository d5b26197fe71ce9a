-- Which leases have gone on to an encoder: others wait behind them in the same worker.

ALTER TABLE {{store}}.lease ADD COLUMN lease_is_begun boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN {{store}}.lease.lease_is_begun IS
'Whether the worker gave its documents to the encoder, so that they may be what it dies of.';

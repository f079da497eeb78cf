-- Prices that operators say, in US dollars per million tokens. Constraints as in models/llm.

CREATE TABLE llm.prices (
  provider varchar(255) NOT NULL,
  model varchar(255) NOT NULL,
  input_per_million numeric NOT NULL,
  cached_input_per_million numeric,
  output_per_million numeric NOT NULL,
  batch_discount numeric NOT NULL DEFAULT 0.5,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pk_prices PRIMARY KEY (provider, model),
  CONSTRAINT ck_prices_names CHECK (provider ~ '\S' AND model ~ '\S'),
  CONSTRAINT ck_prices_amounts CHECK (input_per_million BETWEEN 0 AND 1000000
    AND cached_input_per_million BETWEEN 0 AND 1000000 AND output_per_million BETWEEN 0 AND 1000000),
  CONSTRAINT ck_prices_batch_discount CHECK (batch_discount BETWEEN 0 AND 1)
);
CREATE TRIGGER touch BEFORE UPDATE ON llm.prices FOR EACH ROW
  WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION runtime.touch();

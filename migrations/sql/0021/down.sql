CREATE TABLE scoring.answers (
  fingerprint bytea NOT NULL,
  job_id uuid NOT NULL,
  job_version integer NOT NULL,
  model text,
  llm_response jsonb,
  parsed_score jsonb,
  claimed_at timestamptz NOT NULL DEFAULT now(),
  answered_at timestamptz,
  CONSTRAINT pk_answers PRIMARY KEY (fingerprint)
);
CREATE INDEX ix_answers_answered_at ON scoring.answers (answered_at);
DO $$
BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON scoring.answers TO gristmill_worker;
  END IF;
END $$;
INSERT INTO scoring.answers (fingerprint, job_id, job_version, model, llm_response, parsed_score, claimed_at, answered_at)
SELECT a.fingerprint, a.job_id, a.job_version, nullif(a.model, ''), a.raw, j.parsed_score, a.created_at, a.created_at
  FROM llm.answers AS a JOIN scoring.scoring_jobs AS j ON j.id = a.job_id
 WHERE a.created_at > clock_timestamp() - interval '24 hours' AND j.parsed_score IS NOT NULL
 ORDER BY a.created_at DESC
ON CONFLICT DO NOTHING;

DROP TRIGGER follow_lifecycles ON runtime.lifecycles;
DROP FUNCTION llm.follow_lifecycles();
DROP FUNCTION llm.forget_answers() CASCADE;
DROP FUNCTION llm.let_go, llm.keep_answers, llm.find_answers, llm.is_current, llm.answer_told, llm.kept_answer;
DROP TABLE llm.flights, llm.answers;

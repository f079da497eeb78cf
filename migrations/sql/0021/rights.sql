-- Workers read what is kept, delete what has expired, and write by the functions alone. Services have nothing here.

REVOKE ALL ON llm.answers, llm.flights FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION llm.kept_answer, llm.answer_told, llm.is_current, llm.find_answers, llm.keep_answers,
  llm.let_go, llm.forget_answers, llm.follow_lifecycles FROM PUBLIC;
DO $$
BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, DELETE ON llm.answers, llm.flights TO gristmill_worker;
    GRANT EXECUTE ON FUNCTION llm.find_answers, llm.keep_answers, llm.let_go TO gristmill_worker;
  END IF;
END $$;

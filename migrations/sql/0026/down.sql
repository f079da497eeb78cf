DROP TRIGGER forget_counts ON runtime.stages;
DROP FUNCTION runtime.feed_step(bigint, integer), runtime.take_notices(bigint, integer), runtime.recount_jobs(), runtime.forget_counts(),
  runtime.count_gone(), runtime.note_error(), runtime.error_fingerprint(text, text), runtime.cause_of(text);
DROP VIEW runtime.counts;
DROP TABLE runtime.minute_counts, runtime.stage_counts, runtime.count_deltas, runtime.notice_takers,
  runtime.notice_interests, runtime.notices;
ALTER TABLE runtime.lifecycles DROP COLUMN gives_notices;

-- What 0023 made beside the job table.

DROP TRIGGER follow_up ON llm.batches;
DROP FUNCTION llm.follow_up_batch, llm.gather_batch, llm.release_ended, llm.release_lines, llm.ask_in_batch, llm.ensure_batch,
  runtime.in_lane, runtime.put_in_lane;
DROP TABLE llm.batch_allowances, llm.batch_requests, llm.lanes;

-- With its owner's rights, so that the history of deleted assessments is read as well: whose it is decides here.
-- A barrier: no function in somebody's WHERE sees a row before that is decided.
CREATE OR REPLACE VIEW assessments.assessment_state_audit WITH (security_barrier = true) AS
SELECT
    md5(t.job_id::text || '/' || t.version_to)::uuid AS id,
    a.assessment_id,
    -- Within CASE: the planner may cast before it joins, and other tables have states that are none of these.
    CASE WHEN t.stage = 'assessment.assess' THEN t.old_state::assessments.assessmentstate END AS old_state,
    CASE WHEN t.stage = 'assessment.assess' THEN t.new_state::assessments.assessmentstate END AS new_state,
    t.version_from,
    t.version_to,
    t.changed_by,
    t.change_reason,
    t.change_action,
    t.created_at,
    t.context,
    t.ip_address,
    t.user_agent,
    a.owner_id
FROM (
    SELECT id, assessment_id, owner_id FROM assessments.assessment_states
    UNION ALL
    SELECT id, assessment_id, owner_id FROM assessments.retired_assessments AS r
     WHERE NOT EXISTS (SELECT FROM assessments.assessment_states AS s WHERE s.id = r.id)
) AS a
-- The stage as well: an id tells a job of one table only.
JOIN runtime.transitions AS t ON t.job_id = a.id AND t.stage = 'assessment.assess'
WHERE a.owner_id = (SELECT runtime.actor_id()) OR (SELECT runtime.is_trusted());

-- As before, with a time of clean-up that every client can read.
CREATE OR REPLACE VIEW assessments.assessment_queue WITH (security_invoker = true) AS
SELECT
    id,
    assessment_id,
    (CASE WHEN retry_count = 0 THEN 'processing' ELSE 'retry' END)::varchar(50) AS queue_type,
    priority,
    coalesce(next_retry_at, created_at) AS scheduled_at,
    started_at AS processed_at,
    retry_count + (state = 'processing')::integer AS processing_attempts,
    error_message
FROM assessments.assessment_states
WHERE state IN ('pending', 'processing')
UNION ALL
SELECT
    id,
    assessment_id,
    'cleanup'::varchar(50),
    priority,
    least(completed_at + interval '30 days', timestamptz '9999-12-31 00:00:00+00'),
    NULL,
    0,
    error_message
FROM assessments.assessment_states
WHERE state IN ('completed', 'failed', 'cancelled');

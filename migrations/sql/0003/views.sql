-- The seed's reports, and its audit trail and queue as views of the one truth.

-- With its owner's rights: services read the history of assessments here and nobody else's.
CREATE VIEW assessments.assessment_state_audit AS
SELECT
    md5(t.job_id::text || '/' || t.version_to)::uuid AS id,
    a.assessment_id,
    t.old_state::assessments.assessmentstate AS old_state,
    t.new_state::assessments.assessmentstate AS new_state,
    t.version_from,
    t.version_to,
    t.changed_by,
    t.change_reason,
    t.change_action,
    t.created_at,
    t.context,
    t.ip_address,
    t.user_agent
FROM (
    SELECT id, assessment_id FROM assessments.assessment_states
    UNION ALL
    SELECT id, assessment_id FROM assessments.retired_assessments
) AS a
JOIN runtime.transitions AS t ON t.job_id = a.id;

CREATE VIEW assessments.active_assessments WITH (security_invoker = true) AS
SELECT
    assessment_id,
    state,
    progress,
    created_at,
    updated_at,
    priority,
    timeout_seconds,
    EXTRACT(EPOCH FROM (NOW() - created_at)) AS duration_seconds
FROM assessments.assessment_states
WHERE state IN ('pending', 'processing')
ORDER BY priority ASC, created_at ASC;

CREATE VIEW assessments.completed_assessments_summary WITH (security_invoker = true) AS
SELECT
    state,
    COUNT(*) AS count,
    AVG(progress) AS avg_progress,
    MIN(completed_at) AS earliest_completed,
    MAX(completed_at) AS latest_completed,
    EXTRACT(EPOCH FROM AVG(completed_at - created_at)) AS avg_duration_seconds
FROM assessments.assessment_states
WHERE state IN ('completed', 'failed', 'cancelled')
GROUP BY state;

CREATE VIEW assessments.assessment_stats_by_hour WITH (security_invoker = true) AS
SELECT
    DATE_TRUNC('hour', created_at) AS hour,
    state,
    COUNT(*) AS count
FROM assessments.assessment_states
GROUP BY DATE_TRUNC('hour', created_at), state
ORDER BY hour DESC, state;

-- Each assessment stands in one queue: to be processed, to be tried again, or to be cleaned up after its retention.
-- Two branches, so that nobody deletes an assessment by deleting its place in a queue.
CREATE VIEW assessments.assessment_queue WITH (security_invoker = true) AS
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
    completed_at + interval '30 days',
    NULL,
    0,
    error_message
FROM assessments.assessment_states
WHERE state IN ('completed', 'failed', 'cancelled');

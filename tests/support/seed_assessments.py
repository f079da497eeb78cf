"""The seed of the assessment store: its tables and functions, and its SQL word for word, to compare with ours."""

# Column: type, nullable, default. As in the seed, except ids, the state's default and nulls.
STATE_COLUMNS = {
    "id": ("uuid", False, "uuidv7()"),
    "assessment_id": ("character varying(255)", False, None),
    "state": ("assessmentstate", False, "'pending'::assessmentstate"),
    "version": ("integer", False, "1"),
    "request_data": ("jsonb", False, None),
    "result_data": ("jsonb", True, None),
    "error_message": ("text", True, None),
    "created_at": ("timestamp with time zone", False, "now()"),
    "updated_at": ("timestamp with time zone", False, "now()"),
    "completed_at": ("timestamp with time zone", True, None),
    "progress": ("integer", False, "0"),
    "priority": ("integer", False, "5"),
    "retry_count": ("integer", False, "0"),
    "next_retry_at": ("timestamp with time zone", True, None),
    "timeout_seconds": ("integer", True, "300"),
    "max_retries": ("integer", False, "3"),
}
AUDIT_COLUMNS = {
    "id": "uuid",
    "assessment_id": "character varying(255)",
    "old_state": "assessmentstate",
    "new_state": "assessmentstate",
    "version_from": "integer",
    "version_to": "integer",
    "changed_by": "character varying(255)",
    "change_reason": "text",
    "change_action": "character varying(100)",
    "created_at": "timestamp with time zone",
    "context": "jsonb",
    "ip_address": "inet",
    "user_agent": "text",
}
CACHE_COLUMNS = {
    "assessment_id": "character varying(255)",
    "state_data": "jsonb",
    "expires_at": "timestamp with time zone",
    "last_accessed": "timestamp with time zone",
    "access_count": "integer",
}
METRIC_COLUMNS = {
    "id": "uuid",
    "assessment_id": "character varying(255)",
    "metric_type": "character varying(50)",
    "metric_value": "integer",
    "timestamp": "timestamp with time zone",
}
QUEUE_COLUMNS = {
    "id": "uuid",
    "assessment_id": "character varying(255)",
    "queue_type": "character varying(50)",
    "priority": "integer",
    "scheduled_at": "timestamp with time zone",
    "processed_at": "timestamp with time zone",
    "processing_attempts": "integer",
    "error_message": "text",
}
INDEXES = {
    "idx_assessment_states_assessment_id": "(assessment_id)",
    "idx_assessment_states_state_created": "(state, created_at)",
    "idx_assessment_states_priority_created": "(priority, created_at)",
    "idx_assessment_states_next_retry": "(next_retry_at) WHERE (next_retry_at IS NOT NULL)",
    "idx_assessment_states_created_completed": (
        "(created_at, completed_at) "
        "WHERE (state = ANY (ARRAY['completed'::assessmentstate, 'failed'::assessmentstate]))"
    ),
    "idx_assessment_state_cache_expires": "(expires_at)",
    "idx_assessment_metrics_assessment_id": "(assessment_id)",
    "idx_assessment_metrics_type_timestamp": '(metric_type, "timestamp")',
}

# Name: arguments and result, as Postgres shows them.
SIGNATURES = {
    "create_assessment": (
        (
            "p_assessment_id character varying, p_request_data jsonb, p_priority integer DEFAULT 5, "
            "p_timeout_seconds integer DEFAULT 300"
        ),
        "uuid",
    ),
    "update_assessment_state": (
        (
            "p_assessment_id character varying, p_new_state assessmentstate, p_version integer, "
            "p_result_data jsonb DEFAULT NULL::jsonb, p_error_message text DEFAULT NULL::text, "
            "p_progress integer DEFAULT NULL::integer, p_changed_by character varying DEFAULT NULL::character varying, "
            "p_change_reason text DEFAULT NULL::text"
        ),
        "boolean",
    ),
    "cleanup_old_assessments": ("p_retention_days integer DEFAULT 30, p_batch_size integer DEFAULT 1000", "integer"),
}


def columns(connection, table: str) -> dict[str, tuple[str, bool, str | None]]:
    """Return each column's type (of a domain its base type), whether it may be null, and its default."""
    rows = connection.execute(
        "SELECT attname AS name, NOT attnotnull AS nullable, pg_get_expr(adbin, adrelid) AS fallback, "
        "CASE WHEN typbasetype = 0 THEN format_type(atttypid, atttypmod) "
        "ELSE format_type(typbasetype, typtypmod) END AS type FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    return {row["name"]: (row["type"], row["nullable"], row["fallback"]) for row in rows}


STATES = """
CREATE TYPE AssessmentState AS ENUM ('pending', 'processing', 'completed', 'failed', 'cancelled');

CREATE TABLE assessment_states (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    assessment_id VARCHAR(255) UNIQUE NOT NULL,
    state AssessmentState NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    request_data JSONB NOT NULL,
    result_data JSONB,
    error_message TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    completed_at TIMESTAMP WITH TIME ZONE,
    progress INTEGER DEFAULT 0 CHECK (progress >= 0 AND progress <= 100),
    priority INTEGER DEFAULT 5 CHECK (priority >= 1 AND priority <= 10),
    retry_count INTEGER DEFAULT 0,
    next_retry_at TIMESTAMP WITH TIME ZONE,
    timeout_seconds INTEGER DEFAULT 300,
    max_retries INTEGER DEFAULT 3,
    CONSTRAINT valid_state_transition CHECK (
        (state IN ('completed', 'failed', 'cancelled') AND completed_at IS NOT NULL) OR
        (state NOT IN ('completed', 'failed', 'cancelled') AND completed_at IS NULL)
    ),
    CONSTRAINT valid_progress CHECK (
        (state = 'processing' AND progress > 0) OR
        (state IN ('completed', 'failed', 'cancelled') AND progress = 100) OR
        (state = 'pending' AND progress = 0)
    )
);
"""

AUDIT = """
CREATE TABLE assessment_state_audit (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    assessment_id VARCHAR(255) NOT NULL,
    old_state AssessmentState,
    new_state AssessmentState NOT NULL,
    version_from INTEGER,
    version_to INTEGER,
    changed_by VARCHAR(255),
    change_reason TEXT,
    change_action VARCHAR(100),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    context JSONB,
    ip_address INET,
    user_agent TEXT
);

CREATE OR REPLACE FUNCTION log_assessment_state_audit()
RETURNS TRIGGER AS $$
BEGIN
    INSERT INTO assessment_state_audit (
        assessment_id, old_state, new_state, version_from, version_to, changed_by, change_reason, change_action,
        context, ip_address, user_agent
    ) VALUES (
        NEW.assessment_id,
        OLD.state,
        NEW.state,
        OLD.version,
        NEW.version,
        NEW.request_data->>'changed_by',
        NEW.request_data->>'change_reason',
        NEW.request_data->>'change_action',
        NEW.request_data->>'context',
        (NEW.request_data->>'ip_address')::INET,
        NEW.request_data->>'user_agent'
    );
    RETURN NEW;
END;
$$ language 'plpgsql';

CREATE TRIGGER trigger_assessment_state_audit
    AFTER UPDATE ON assessment_states
    FOR EACH ROW EXECUTE FUNCTION log_assessment_state_audit();
"""

METRICS = """
CREATE TABLE assessment_metrics (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    assessment_id VARCHAR(255) NOT NULL,
    metric_type VARCHAR(50) NOT NULL,  -- 'processing_time', 'error_count', 'retry_count'
    metric_value INTEGER NOT NULL,
    timestamp TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    INDEX idx_assessment_metrics_assessment_id (assessment_id),
    INDEX idx_assessment_metrics_type_timestamp (metric_type, timestamp)
);
"""

QUEUE = """
CREATE TABLE assessment_queue (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    assessment_id VARCHAR(255) NOT NULL,
    queue_type VARCHAR(50) NOT NULL,  -- 'processing', 'retry', 'cleanup'
    priority INTEGER DEFAULT 5,
    scheduled_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    processed_at TIMESTAMP WITH TIME ZONE,
    processing_attempts INTEGER DEFAULT 0,
    error_message TEXT,
    UNIQUE UNIQUE_assessment_queue_assessment_id (assessment_id, queue_type)
);
"""

SUMMARY = """
CREATE VIEW completed_assessments_summary AS
SELECT
    state,
    COUNT(*) AS count,
    AVG(progress) AS avg_progress,
    MIN(created_at) AS earliest_completed,
    MAX(created_at) AS latest_completed,
    EXTRACT(EPOCH FROM AVG(completed_at - created_at)) AS avg_duration_seconds
FROM assessment_states
WHERE state IN ('completed', 'failed', 'cancelled')
GROUP BY state;
"""

CREATE = """
CREATE OR REPLACE FUNCTION create_assessment(
    p_assessment_id VARCHAR(255),
    p_request_data JSONB,
    p_priority INTEGER DEFAULT 5,
    p_timeout_seconds INTEGER DEFAULT 300
) RETURNS UUID AS $$
DECLARE
    v_new_id UUID;
BEGIN
    INSERT INTO assessment_states (assessment_id, state, request_data, priority, timeout_seconds)
    VALUES (p_assessment_id, 'pending', p_request_data, p_priority, p_timeout_seconds) RETURNING id INTO v_new_id;
    RETURN v_new_id;
END;
$$ LANGUAGE plpgsql;
"""

UPDATE = """
CREATE OR REPLACE FUNCTION update_assessment_state(
    p_assessment_id VARCHAR(255),
    p_new_state AssessmentState,
    p_version INTEGER,
    p_result_data JSONB DEFAULT NULL,
    p_error_message TEXT DEFAULT NULL,
    p_progress INTEGER DEFAULT NULL,
    p_changed_by VARCHAR(255) DEFAULT NULL,
    p_change_reason TEXT DEFAULT NULL
) RETURNS BOOLEAN AS $$
DECLARE
    v_old_version INTEGER;
    v_old_state AssessmentState;
BEGIN
    SELECT version, state INTO v_old_version, v_old_state
    FROM assessment_states
    WHERE assessment_id = p_assessment_id
    FOR UPDATE;

    IF v_old_version != p_version THEN
        RAISE EXCEPTION 'Optimistic lock failed. Expected version %, got %', p_version, v_old_version;
    END IF;

    UPDATE assessment_states
    SET
        state = p_new_state,
        version = version + 1,
        result_data = p_result_data,
        error_message = p_error_message,
        progress = COALESCE(p_progress, progress),
        completed_at = CASE
            WHEN p_new_state IN ('completed', 'failed', 'cancelled') THEN NOW()
            ELSE completed_at
        END,
        request_data = jsonb_set(
            request_data,
            '{changed_by}',
            to_jsonb(p_changed_by),
            true
        )
    WHERE assessment_id = p_assessment_id;

    RETURN FOUND;
END;
$$ LANGUAGE plpgsql;
"""

CLEANUP = """
CREATE OR REPLACE FUNCTION cleanup_old_assessments(
    p_retention_days INTEGER DEFAULT 30,
    p_batch_size INTEGER DEFAULT 1000
) RETURNS INTEGER AS $$
DECLARE
    v_deleted_count INTEGER := 0;
    v_cutoff_date TIMESTAMP WITH TIME ZONE;
BEGIN
    v_cutoff_date := NOW() - (p_retention_days || ' days')::INTERVAL;
    DELETE FROM assessment_states
    WHERE state IN ('completed', 'failed', 'cancelled')
    AND completed_at < v_cutoff_date
    LIMIT p_batch_size;
    GET DIAGNOSTICS v_deleted_count = ROW_COUNT;
    RETURN v_deleted_count;
END;
$$ LANGUAGE plpgsql;
"""

EXISTING = """
CREATE TABLE existing_assessments (
    assessment_id text, server_name text, assessment_type text, options jsonb, timestamp timestamptz, source text,
    status text, created_at timestamptz, updated_at timestamptz);
INSERT INTO existing_assessments VALUES ('old', 'srv', 'llm_rubric', '{}', now(), 'event', 'completed',
    now() - interval '2 hours', now() - interval '1 hour');
"""

IMPORT = """
INSERT INTO assessment_states (assessment_id, state, request_data, created_at, updated_at)
SELECT
    assessment_id,
    'completed'::AssessmentState as state,
    jsonb_build_object(
        'serverName', server_name,
        'assessmentType', assessment_type,
        'options', options,
        'timestamp', timestamp,
        'source', source
    ) as request_data,
    created_at,
    updated_at
FROM existing_assessments
WHERE status = 'completed';
"""

"""Operations: projects, their records, the jobs that ingest and analyse them, ratings, windows. Schema ``operations``.

Columns have the names of the seed, in mixed case with quotes. Columns that the kernel adds have the kernel's names.
"""

from models.operations.analytics import ANALYTICS, AnalyticsFailure, AnalyticsJob, AnalyticsTurn
from models.operations.columns import RECORD_CATEGORIES, RECORD_TYPES, RETENTION, SCHEMA, USER_ROLES
from models.operations.ingestion import INGESTION, IngestJob, Upload, UploadPart
from models.operations.projects import GuidelinePassage, Project
from models.operations.records import DataRecord, LikertScore
from models.operations.settings import SETTINGS, SystemSetting
from models.operations.users import LLM_USER, AuthUser, UserProfile
from models.operations.windows import BonusWindow

__all__ = [
    "ANALYTICS",
    "INGESTION",
    "LLM_USER",
    "RECORD_CATEGORIES",
    "RECORD_TYPES",
    "RETENTION",
    "SCHEMA",
    "SETTINGS",
    "USER_ROLES",
    "AnalyticsFailure",
    "AnalyticsJob",
    "AnalyticsTurn",
    "AuthUser",
    "BonusWindow",
    "DataRecord",
    "GuidelinePassage",
    "IngestJob",
    "LikertScore",
    "Project",
    "SystemSetting",
    "Upload",
    "UploadPart",
    "UserProfile",
]

"""Views of rows as JSON shows them: under the names that the seed gave the columns. Pure."""

from typing import Any

from models.base import Base


def by_column(model: type[Base], view: object) -> dict[str, Any]:
    """Return the values of ``view`` under the column names of ``model``'s table; columns it does not have stay out."""
    names = {attribute.key.rstrip("_"): attribute.columns[0].name for attribute in model.__mapper__.column_attrs}
    return {name: getattr(view, key) for key, name in names.items() if hasattr(view, key)}

"""Convert views of rows for JSON, with the column names of the seed. Pure."""

from typing import Any

from models.base import Base


def by_column(model: type[Base], view: object) -> dict[str, Any]:
    """Return the values of ``view`` by the column names of ``model``'s table; skip columns that ``view`` lacks."""
    names = {attribute.key.rstrip("_"): attribute.columns[0].name for attribute in model.__mapper__.column_attrs}
    return {name: getattr(view, key) for key, name in names.items() if hasattr(view, key)}

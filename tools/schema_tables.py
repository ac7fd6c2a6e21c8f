"""MkDocs hook: writes the tables of a JSON Schema where a page has `<!-- schema: NAME -->`.

NAME is the stem of docs/NAME.schema.json. Each object of the schema becomes a table, in the order
in which keys lead to it, under the path of those keys (`notices`, `scores.*`, `tokens[]`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARK = re.compile(r"<!-- schema: (\w+) -->")
LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}
Schema = Mapping[str, Any]


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Replace every mark of a page by its tables."""

    def tables(match: re.Match[str]) -> str:
        path = Path(config.docs_dir) / f"{match[1]}.schema.json"
        return "\n".join(lines(json.loads(path.read_text(encoding="utf-8"))))

    return MARK.sub(tables, markdown)


def lines(schema: Schema) -> Iterator[str]:
    """Yield the Markdown of a schema: a heading, a description and a table for each object."""
    waiting: list[tuple[str, Schema]] = [("", schema)]
    while waiting:
        path, subschema = waiting.pop(0)
        if path:
            yield f"\n### `{path}`\n"
            yield subschema.get("description", "")
        yield "\n| key | type | default | meaning |\n|---|---|---|---|"
        for key, value in subschema["properties"].items():
            below = f"{path}.{key}" if path else key
            inner = list(objects(schema, value, below))
            waiting += inner
            # The key is named once where it leads to a table that describes it.
            meaning = value.get("description") or (inner and inner[0][1].get("description")) or ""
            yield (
                f"| `{key}` | {_cell(kind(schema, value, below))} | {_cell(default(value))} "
                f"| {_cell(meaning)} |"
            )


def objects(schema: Schema, value: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Yield the objects that a value holds, each with its path."""
    if "$ref" in value:
        yield path, _resolved(schema, value)
    for each in value.get("anyOf", ()):
        yield from objects(schema, each, path)
    if isinstance(items := value.get("items"), dict):
        yield from objects(schema, items, f"{path}[]")
    if isinstance(items := value.get("additionalProperties"), dict):
        yield from objects(schema, items, f"{path}.*")


def kind(schema: Schema, value: Schema, path: str) -> str:
    """Return the type of a value in words, with its limits."""
    if "$ref" in value:
        return f"[object](#{_slug(path)})"
    if "anyOf" in value:
        return " or ".join(kind(schema, each, path) for each in value["anyOf"])
    if words := value.get("enum", [value["const"]] if "const" in value else None):
        return ", ".join(f"`{each}`" for each in words)
    if isinstance(items := value.get("items"), dict):
        return f"list of {kind(schema, items, f'{path}[]')}"
    if isinstance(items := value.get("additionalProperties"), dict):
        return f"mapping to {kind(schema, items, f'{path}.*')}"
    limits = [text.format(f"{value[name]:g}") for name, text in LIMITS.items() if name in value]
    return " ".join([str(value.get("type", "any")), *limits])


def default(value: Schema) -> str:
    """Return a default as YAML writes it, empty where there is none."""
    if "default" not in value or isinstance(value["default"], dict):
        return ""
    return f"`{json.dumps(value['default'])}`"


def _resolved(schema: Schema, value: Schema) -> Schema:
    resolved: Schema = schema["$defs"][value["$ref"].rpartition("/")[2]]
    return resolved


def _slug(path: str) -> str:
    return re.sub(r"[^\w]+", "", path)


def _cell(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|")

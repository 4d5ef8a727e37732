"""Lists of the reference pages, made from the code that they describe.

A page marks each list with `<!-- table: NAME -->` and `<!-- end -->`. `python -m tests.docs`
writes all lists; a test compares.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from api.app import create_app
from api.settings import ApiSettings
from serve.settings import ServeSettings
from shared.process.settings import ProcessSettings
from tests.clients.stock import CALLS
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
BLOCK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
NO_LIMIT = 1e9  # bounds beyond keep numbers finite and limit no use

Schema = dict[str, Any]


def listed(items: Iterable[tuple[str, str]]) -> str:
    """Return a Markdown list of names and texts, empty lines around it."""
    lines = [f"- {name}: {text}" if text else f"- {name}" for name, text in items]
    return "\n" + "\n".join(lines) + "\n\n"


def settings_table(settings_class: type[ProcessSettings]) -> str:
    """Return one item per field: the flag with its default, and the description."""
    rows = []
    for name, field in settings_class.model_fields.items():
        flag = "--" + name.replace("_", "-")
        default = "" if field.default in (None, False) else f" {field.default}"
        rows.append((f"`{flag}{default}`", field.description or ""))
    return listed(rows)


@cache
def openapi() -> Schema:
    """Return the document that the api serves at `/openapi.json`."""

    def no_redis(url: str, *, name: str, block_s: float = 0.0) -> Redis:
        return FakeAsyncRedis()

    return create_app(ApiSettings(), no_redis).openapi()


def routes_table() -> str:
    """Return one item per route: method and path, parameters, statuses of success unless 200."""
    rows = []
    for path, operations in openapi()["paths"].items():
        for method, operation in operations.items():
            names = [
                parameter["name"]
                for parameter in operation.get("parameters", ())
                if parameter["in"] != "path"
            ]
            codes = " ".join(sorted(code for code in operation["responses"] if code < "400"))
            parameters = f" ({', '.join(f'`{n}`' for n in names)})" if names else ""
            rows.append((f"`{method.upper()} {path}`{parameters}", "" if codes == "200" else codes))
    return listed(rows)


def request_table(schema: str) -> str:
    """Return one item per field of a request: values with the default, and description."""
    rows = []
    for name, field in openapi()["components"]["schemas"][schema]["properties"].items():
        default = field.get("default")
        shown = "" if default is None else f" (`{str(default).lower()}`)"
        rows.append(
            (f"`{name}`", f"{values(field)}{shown}. {field.get('description', '')}".strip())
        )
    return listed(rows)


def openai_table(schema: str, described: str) -> str:
    """Return one item per field that the schema `described` lacks or defines in another way."""
    schemas = openapi()["components"]["schemas"]
    known = schemas[described]["properties"]
    own = schemas[schema]["properties"]
    return listed(
        (f"`{name}`", works_or_is_refused(field))
        for name, field in own.items()
        if field != known.get(name)
    )


def works_or_is_refused(field: Schema) -> str:
    """Return the description of a field, and whether it works; a refused one has few values."""
    limited = [kind for kind in field.get("anyOf", ()) if "enum" in kind and "type" not in kind]
    description = field.get("description") or limited[0]["description"]
    if limited:
        return description
    default = field.get("default")
    shown = "" if default is None else f" (`{str(default).lower()}`)"
    return description if description.startswith("No effect") else f"Works{shown}. {description}"


def values(schema: Schema) -> str:
    """Return the type and the limits of a JSON schema in words; null is left out."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return alternatives([one for one in schema["anyOf"] if one.get("type") != "null"])
    if "enum" in schema or "const" in schema:
        options = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{str(option).lower()}`" for option in options)
    if "prefixItems" in schema:
        return f"pair ({', '.join(values(item) for item in schema['prefixItems'])})"
    if schema.get("type") == "array":
        return array_values(schema)
    if "maxLength" in schema:
        return f"{limits(schema).strip()} characters"
    return f"{schema.get('type', 'any')}{limits(schema)}".strip()


def alternatives(schemas: list[Schema]) -> str:
    """Return the values of each schema, without single values that may also be in a list."""
    items = [schema.get("items") for schema in schemas]
    return " or ".join(dict.fromkeys(values(schema) for schema in schemas if schema not in items))


def array_values(schema: Schema) -> str:
    """Return the length and the items of a list; every list of integers has token ids."""
    length = f"up to {schema['maxItems']:,}" if "maxItems" in schema else "list of"
    items = schema.get("items", {})
    if items.get("type") == "integer":
        return f"{length} token ids"
    if "maxLength" in items:
        return f"{length} strings of {values(items)}"
    text = f"{length} {'lists of ' if 'items' in items else ''}{values(items)}"
    return text.replace(" pair (", " pairs (")


def limits(schema: Schema) -> str:
    """Return the limits of a number or of a length: ` 1 to 16`, ` > 0`, ` at most 255`."""
    low = bound(schema.get("minimum", schema.get("minLength")))
    high = bound(schema.get("maximum", schema.get("maxLength")))
    if "exclusiveMinimum" in schema:
        return f" > {schema['exclusiveMinimum']}" + (f" and ≤ {high}" if high else "")
    if high:
        return f" {low} to {high}" if low else f" at most {high}"
    return f" ≥ {low}" if low else ""


def bound(limit: float | None) -> str:
    """Return a limit in digits, or nothing where it is only there to keep numbers finite."""
    return "" if limit is None or abs(limit) >= NO_LIMIT else f"{limit:,g}"


def clients_table() -> str:
    """Return one row per method of each client, with the ways in which tests call it."""
    ways: dict[tuple[str, str], list[str]] = {}
    for call in CALLS:
        ways.setdefault((call.client, call.method), []).append(call.way)
    rows = [
        f"| {client} | {method} | {'; '.join(called)} |"
        for (client, method), called in ways.items()
    ]
    return "\n".join(["", "| client | call | works |", "| --- | --- | --- |", *rows, "", ""])


TABLES: dict[str, Callable[[], str]] = {
    "clients": clients_table,
    "settings serve": lambda: settings_table(ServeSettings),
    "settings api": lambda: settings_table(ApiSettings),
    "settings worker": lambda: settings_table(WorkerSettings),
    "routes": routes_table,
    "ChatRequest": lambda: request_table("ChatRequest"),
    "GenerateKwargs": lambda: request_table("GenerateKwargs"),
    "ChatCompletionRequest": lambda: openai_table("ChatCompletionRequest", "GenerateKwargs"),
    "CompletionRequest": lambda: openai_table("CompletionRequest", "ChatCompletionRequest"),
    "ResponseRequest": lambda: openai_table("ResponseRequest", "ChatCompletionRequest"),
}


def with_tables(page: str) -> str:
    """Return the page with every marked table as the code defines it now."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], page)


def pages() -> dict[Path, str]:
    """Return the text of each page that has marked tables."""
    texts = {path: path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {path: text for path, text in texts.items() if BLOCK.search(text)}

"""Hypothesis strategies: JSON schemas of which every value is short, so that samples finish."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Schema = dict[str, Any]

PATTERNS = (
    "^[a-z]{1,6}$",
    "^(foo|bar)-[0-9]{2,4}$",
    r"^\d{3}$",
    "^[^a]{0,4}$",
    '^"[A-Z]"$',
    "^é{1,3}$",
    r"^[a-f\n]{2,5}$",
    "^.{3}$",
)
NAMES = ("a", "name", "first name", "größe", 'quo"te', "back\\slash", "", "x" * 20)
VALUES: SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(max_size=6)
    | st.sampled_from([1.5, -0.25, [], {}, [1, "a"], {"k": None}])
)


@st.composite
def integers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-1000, 1000))
    high = low + draw(st.integers(0, 10**6))
    kind: Any = draw(st.sampled_from(["integer", ["integer", "null"], ["boolean", "integer"]]))
    return {"type": kind, "minimum": low, "maximum": high}


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    shortest = draw(st.integers(0, 3))
    return {
        "type": "string",
        "minLength": shortest,
        "maxLength": shortest + draw(st.integers(0, 8)),
    }


leaves: SearchStrategy[Schema] = (
    integers()
    | strings()
    | st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern})
    | st.sampled_from(["date", "ipv4", "uuid"]).map(lambda f: {"type": "string", "format": f})
    | st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values})
    | VALUES.map(lambda value: {"const": value})
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}])
    | st.just({"type": "number", "multipleOf": 0.25, "minimum": -2, "maximum": 3})
    | st.just({"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 90}]})
)


@st.composite
def objects(draw: st.DrawFn, values: SearchStrategy[Schema]) -> Schema:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    required = [name for name in names if draw(st.booleans())]
    return {
        "type": "object",
        "properties": {name: draw(values) for name in names},
        "required": required,
        "additionalProperties": False,
    }


@st.composite
def arrays(draw: st.DrawFn, values: SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, 2))
    if draw(st.booleans()):
        items = draw(st.lists(values, min_size=1, max_size=3))
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    most = least + draw(st.integers(0, 2))
    return {"type": "array", "items": draw(values), "minItems": least, "maxItems": most}


def nested(values: SearchStrategy[Schema]) -> SearchStrategy[Schema]:
    any_of = st.lists(values, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas})
    return objects(values) | arrays(values) | any_of


@st.composite
def recursive(draw: st.DrawFn) -> Schema:
    """Lists and trees that refer to themselves, below objects or at the root."""
    node = {"$ref": "#/$defs/node"}
    links: list[Schema] = [
        {"anyOf": [{"type": "null"}, node]},
        {"type": "array", "items": node, "maxItems": 1},
    ]
    properties = {"value": draw(leaves), "next": draw(st.sampled_from(links))}
    definition = {
        "type": "object",
        "properties": properties,
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    root = draw(st.sampled_from([node, {"type": "array", "items": node, "maxItems": 2}]))
    return {"$defs": {"node": definition}} | root


schemas: SearchStrategy[Schema] = (
    st.recursive(leaves, nested, max_leaves=6) | nested(leaves) | recursive()
)

"""The store's statements in PostgreSQL's grammar: one text for both databases, and what differs is said here.

A statement is translated once, and kept. What both databases have and call differently is a function, a type or an
operator of the schema (`functions.sql`), so that the statement stays as it is. What is left is grammar:

- `?`, `?1` and `:name` are the driver's `%s` and `%(name)s`;
- what it alone has to be told is in a comment: rows of a join have no order but one that is asked for;
- INDEXED BY has no equal, and the order of joins is the statement's (`address.SETTINGS`): `CROSS JOIN x ON` is
  `JOIN x ON` there, and a join without ON a CROSS JOIN;
- a query in FROM has a name (before PostgreSQL 16), and an upsert the columns in which rows may be the same;
- the types of values are known before they come, by their first use;
- the devices of a set are rows, without a JSON array between; the end of a text is not at a negative place;
- conditions are of type boolean, which columns of flags are not;
- a list that a statement has made is stored with blanks between its items, and is searched without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from sqlmodel import SQLModel

KEPT_STATEMENTS = 4_096
"""Statements whose translation is kept: some six hundred, and those for each number of rows and each expression."""
_FLAGS = "in_sets|cleared|recalled|failed"
"""Columns of 0 and 1 that stand as conditions."""
_TEXT = re.compile(r"('(?:[^']|'')*')")
_BYTES = re.compile(r"\bx'([0-9a-f]*)'", re.IGNORECASE)
_PLACE = re.compile(r"\?(\d+)?")
_NAME = re.compile(r"(?<!:):([a-z]\w*)")
_JOIN = re.compile(r"\b(CROSS |LEFT )?JOIN\b")
_AFTER_TABLE = re.compile(r"(ON|USING|CROSS|JOIN|LEFT|WHERE|GROUP|ORDER|LIMIT|UNION|HAVING|RETURNING)\b")
_QUERY = re.compile(r"\b(?:FROM|JOIN)\s*\((?=\s*(?:SELECT|WITH|VALUES)\b)")
_HAS_NAME = re.compile(r"\s*(?:AS\s+)?(?!(?:WHERE|GROUP|ORDER|LIMIT|ON|CROSS|JOIN|LEFT|UNION|FILTER|HAVING)\b)[a-z_]")
_CALL = re.compile(r"\b(json_group_array|json_group_object|json_array|iif|ifnull)\(")
_FILTER = re.compile(r"\s*FILTER \(")
_INSERT = re.compile(r"\s*INSERT(?: OR (IGNORE|REPLACE))? INTO (\w+)")
_OF_JSON = re.compile(r"->>|\bvalue\b|\bkey\b")
_GRAMMAR: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s+(?:NOT INDEXED|INDEXED BY \w+)"), ""),
    (re.compile(r"(?<=[\s(,])\+(?=[a-z])"), "0 + "),  # keeps it from an index, and from guesses by old statistics
    # Of a list PostgreSQL knows no length: without statistics it is read anew for each delivery of the push.
    (
        re.compile(r"\bpush_no = \? AND device_no IN \(SELECT value FROM json_each\(\?\)\)"),
        "push_no = ? AND device_no = ANY(ARRAY(SELECT CAST(value AS bigint) FROM json_each(?)))",
    ),
    (re.compile(r"\bIS NOT (?=[?:])"), "IS DISTINCT FROM "),
    (re.compile(r"\bIS (?=[?:])"), "IS NOT DISTINCT FROM "),
    (re.compile(r"\(([?:]\w+) IS NULL OR ((?:[^()]|\([^()]*\))*)\)"), r"(\2 OR \1 IS NULL)"),
    (re.compile(r"\b(\w+\.key) = (?=[?:])"), r"CAST(\1 AS TEXT) = "),
    (re.compile(r"\bjson_each\(devices_json\(([\w.]+)\)\) AS (\w+)"), r"set_devices(\1) AS \2(value)"),
    (re.compile(r"\bsubstr\(((?:[^(),]|\([^()]*\))+), -(\d+)\)"), r"right(\1, \2)"),
    (re.compile(r"=="), "="),
    (re.compile(r"/\*(.*?)\*/"), r"\1"),
    (re.compile(r"\binstr\((\w+\.devices), "), r"instr(list_text(\1), "),
    # A text out of JSON has no number, and of a pair PostgreSQL says it is not NULL when neither half is.
    (re.compile(r"(->> (?:'\d+'|\d+)|\bvalue) IS NOT NULL\b"), r"\1 IS DISTINCT FROM NULL"),
    (re.compile(r"\bLIKE\b"), "ILIKE"),
    (re.compile(r"\bNOT GLOB\b"), "!@~"),
    (re.compile(r"\bGLOB\b"), "@~"),
    (re.compile(r"\bLIMIT -1\b"), "LIMIT ALL"),
    (re.compile(r"\browid\b"), "ctid"),
    (re.compile(r"\bBLOB\b"), "bytea"),
    (re.compile(r"\bAS INTEGER\b"), "AS bigint"),
    (re.compile(r"\bjson_object\("), "jsonb_build_object("),
    (re.compile(r"\bgroup_concat\((\w+)\)"), r"string_agg(\1, ',')"),
    (
        re.compile(
            rf"\b(NOT|AND|OR|WHEN|WHERE|ON|\() ?((?:\w+\.)?(?:{_FLAGS}))(?=\s+(?:AND|OR|THEN|GROUP|ORDER|LIMIT)|\)|,|$)"
        ),
        r"\1 (\2 <> 0)",
    ),
)


@lru_cache(maxsize=KEPT_STATEMENTS)
def translated(statement: str) -> tuple[str, bool]:
    """The statement for psycopg, and whether its values have names (`p1` for `?1`)."""
    texts: list[str] = []

    def keep(found: re.Match[str]) -> str:
        texts.append(found[1].replace("%", "%%"))
        return f"'{len(texts) - 1}'"

    text = _TEXT.sub(keep, _BYTES.sub(r"'\\x\1'::bytea", statement)).replace("%", "%%")
    for pattern, replacement in _GRAMMAR:
        text = pattern.sub(replacement, text)
    text = _joins(_query_names(_calls(_conflicts(text))))
    has_names = bool(re.search(r"\?\d", text) or _NAME.search(text))
    text = _PLACE.sub(lambda found: f"%(p{found[1]})s" if found[1] else "%s", _NAME.sub(r"%(\1)s", text))
    return re.sub(r"(?<!E)'(\d+)'", lambda found: texts[int(found[1])], text), has_names


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one before `start`."""
    depth = 1
    while depth:
        depth += (text[start] == "(") - (text[start] == ")")
        start += 1
    return start


def _arguments(text: str) -> Iterator[str]:
    depth = start = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def _calls(text: str) -> str:
    """Calls that have no equal as a function. Aggregates of no row are empty here, and NULL there."""
    place = 0
    while found := _CALL.search(text, place):
        end = _closing(text, found.end())
        inner = text[found.end() : end - 1]
        condition = _FILTER.match(text, end) if found[1].startswith("json_group") else None
        if condition is not None:
            begin, end = end, _closing(text, condition.end())
            rest = text[begin:end]
        else:
            rest = ""
        match found[1]:
            case "json_group_array":
                new = f"coalesce(jsonb_agg(jn({inner})){rest}, E'[]'::jsonb)"
            case "json_group_object":
                new = f"coalesce(jsonb_object_agg({inner}){rest}, E'{{}}'::jsonb)"
            case "json_array":
                # A value out of JSON becomes one again; `jn` takes nothing whose type is open, a text for example.
                items = (f"jn({item})" if _OF_JSON.search(item) else item for item in _arguments(inner))
                new = f"jsonb_build_array({', '.join(items)})"
            case "iif":
                condition_of, then, otherwise = _arguments(inner)
                new = f"CASE WHEN {condition_of} THEN {then} ELSE {otherwise} END"
            case _:
                value, instead = _arguments(inner)
                new = f"coalesce({value}, {'false' if instead == '0' else instead})"
        text = text[: found.start()] + new + text[end:]
        place = found.start() + new.index("(") if "(" in new else found.start()
        if found[1] == "iif":
            place = found.start()
    return text


def _conflicts(text: str) -> str:
    """`INSERT OR ..`, and `ON CONFLICT DO UPDATE` without columns: those of the primary key."""
    found = _INSERT.match(text)
    if found is None or found[2] not in SQLModel.metadata.tables:
        return text
    kind, table = found.groups()
    columns = [column.name for column in SQLModel.metadata.tables[table].columns]
    key = [column.name for column in SQLModel.metadata.tables[table].primary_key]
    if kind is not None:
        # Those that are not listed, too: a row that is replaced keeps nothing.
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        changes = f"({', '.join(key)}) DO UPDATE SET {changes}" if kind == "REPLACE" and changes else "DO NOTHING"
        before, returning, answered = re.sub(r"INSERT OR \w+", "INSERT", text, count=1).partition(" RETURNING ")
        return f"{before} ON CONFLICT {changes}{returning}{answered}"
    text = text.replace("ON CONFLICT DO UPDATE", f"ON CONFLICT ({', '.join(key)}) DO UPDATE")
    before, updating, changes = text.partition(" DO UPDATE SET ")
    changes, returning, answered = changes.partition(" RETURNING ")
    stored = re.compile(rf"(?<![.\w])({'|'.join(columns)})(?![\w.(])(?!\s*=\s)")  # on the right: the row that is there
    return before + updating + stored.sub(rf"{table}.\1", changes) + returning + answered


def _joins(text: str) -> str:
    place = 0
    while found := _JOIN.search(text, place):
        place = found.end()
        if found[1] == "LEFT ":
            continue
        has_condition = _has_condition(text, place)
        if bool(found[1]) == has_condition:
            new = "JOIN" if has_condition else "CROSS JOIN"
            text = text[: found.start()] + new + text[found.end() :]
            place = found.start() + len(new)
    return text


def _has_condition(text: str, place: int) -> bool:
    """Does ON or USING follow the table that is joined at this place?"""
    depth = 0
    for at in range(place, len(text)):
        character = text[at]
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
        if not depth and text[at - 1] in " )":
            word = _AFTER_TABLE.match(text, at)
            if word is not None:
                return word[1] in ("ON", "USING")
    return False


def _query_names(text: str) -> str:
    ends = [_closing(text, found.end()) for found in _QUERY.finditer(text)]
    for number, end in enumerate(sorted(ends, reverse=True)):
        if not _HAS_NAME.match(text, end):
            text = f"{text[:end]} AS query_{number}{text[end:]}"
    return text

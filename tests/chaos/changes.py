"""Statements of an application, each with what it does to a model of the table."""

from __future__ import annotations

import random
from typing import Any

from tests.chaos.world import DOCUMENTS

Model = dict[int, str | None]
WORDS = ["wing", "stall", "drag", "lift", "plum", "shock", "wave", "heat", "flow", "jet", "body"]
HOT = range(1, 9)  # everybody's favourites
KEYS = range(1, 2 * DOCUMENTS)


def a_key(chance: random.Random) -> int:
    """A key, mostly a hot one."""
    return chance.choice(HOT if chance.random() < 0.5 else KEYS)


def a_text(serial: int, chance: random.Random) -> str:
    """A text; sometimes one that is stored, or under way, already."""
    if chance.random() < 0.2:
        return chance.choice(WORDS)
    return " ".join([*chance.choices(WORDS, k=3), str(serial)])


def change(
    model: Model, kind: str, key: int, serial: int, chance: random.Random
) -> tuple[str, dict[str, Any]]:
    """Change the model, and say what does the same to the table.

    Args:
        model: Texts by key; changed in place.
        kind: Which statement.
        key: Of the document, or of the first of several.
        serial: A number that no other statement has.
        chance: Decides what is left open.

    Returns:
        A statement and its values.
    """
    values: dict[str, Any] = {"key": key, "text": a_text(serial, chance), "last": key + 5}
    present = key in model
    match kind:
        case "upsert" | "insert":
            if kind == "insert":
                values["key"] = key = 1000 + serial
            model[key] = values["text"]
            return (
                "INSERT INTO docs VALUES (%(key)s, %(text)s, 0)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                values,
            )
        case "update" | "empty":
            if kind == "empty":
                values["text"] = chance.choice((None, ""))
            if present:
                model[key] = values["text"]
            return "UPDATE docs SET body = %(text)s WHERE id = %(key)s", values
        case "touch":
            return "UPDATE docs SET seen = seen + 1 WHERE id >= %(key)s", values
        case "append":
            for other in model:
                if key <= other <= values["last"]:
                    model[other] = f"{model[other] or ''} {values['text']}"
            return (
                "UPDATE docs SET body = coalesce(body, '') || ' ' || %(text)s"
                " WHERE id BETWEEN %(key)s AND %(last)s",
                values,
            )
        case "delete":
            model.pop(key, None)
            return "DELETE FROM docs WHERE id = %(key)s", values
        case "delete range":
            for other in [found for found in model if key <= found <= values["last"]]:
                del model[other]
            return "DELETE FROM docs WHERE id BETWEEN %(key)s AND %(last)s", values
        case "move":
            values["other"] = other = chance.choice(KEYS)
            if present and other not in model:
                model[other] = model.pop(key)
            return (
                "UPDATE docs SET id = %(other)s WHERE id = %(key)s"
                " AND NOT EXISTS (SELECT FROM docs WHERE id = %(other)s)",
                values,
            )
        case "refill":
            for other in range(1, DOCUMENTS + 1):
                model.setdefault(other, f"{values['text']} {other}")
            return (
                "INSERT INTO docs SELECT i, %(text)s || ' ' || i, 0"
                f" FROM generate_series(1, {DOCUMENTS}) AS i ON CONFLICT DO NOTHING",
                values,
            )
        case "truncate":
            model.clear()
            return "TRUNCATE docs", {}
    raise AssertionError(kind)

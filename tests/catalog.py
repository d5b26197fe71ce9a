"""The catalog of embver's objects as text, to compare two databases with.

Oids, attribute numbers and the order of privileges are left out: they differ between a database
that was installed, one that was upgraded and one that was restored. Everything else is there:
owners, privileges, settings, definitions, comments.
"""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
from psycopg.rows import tuple_row

# Schemas of ours, and capture triggers wherever the source is.
_OURS = "n.nspname ~ '^embver($|_)'"
_ACL = """(
    SELECT string_agg(format('%s=%s%s/%s', CASE a.grantee WHEN 0 THEN 'PUBLIC'
            ELSE pg_get_userbyid(a.grantee) END, a.privilege_type,
            CASE WHEN a.is_grantable THEN '*' ELSE '' END, pg_get_userbyid(a.grantor)), ' '
        ORDER BY pg_get_userbyid(a.grantee), a.privilege_type, pg_get_userbyid(a.grantor))
    FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) AS a)"""


def _acl(acl: str, kind: str, owner: str) -> str:
    return _ACL.format(acl=acl, kind=kind, owner=owner)


# Each query yields (name, definition); a NULL field prints as nothing.
_QUERIES = {
    "schema": f"""
        SELECT n.nspname::text, concat_ws(E'\n', pg_get_userbyid(n.nspowner),
            {_acl("n.nspacl", "n", "n.nspowner")}, obj_description(n.oid, 'pg_namespace'))
        FROM pg_namespace AS n WHERE {_OURS}""",
    "relation": f"""
        SELECT r.oid::regclass::text, concat_ws(E'\n', r.relkind, r.relpersistence,
            pg_get_userbyid(r.relowner), r.relrowsecurity, r.relforcerowsecurity,
            array_to_string(r.reloptions, ' '), r.relreplident,
            {_acl("r.relacl", "r", "r.relowner")}, obj_description(r.oid, 'pg_class'))
        FROM pg_class AS r INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace
        WHERE {_OURS} AND r.relkind IN ('r', 'p', 'v', 'm', 'c')""",
    "column": f"""
        SELECT r.oid::regclass || '.' || a.attname, concat_ws(E'\n',
            row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum),
            format_type(a.atttypid, a.atttypmod), a.attnotnull,
            pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated,
            a.attcollation::regcollation, a.attstorage, array_to_string(a.attacl, ' '),
            col_description(r.oid, a.attnum))
        FROM pg_attribute AS a
        INNER JOIN pg_class AS r ON r.oid = a.attrelid
        INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace
        LEFT JOIN pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
        WHERE {_OURS} AND r.relkind IN ('r', 'p', 'v', 'm', 'c')
            AND a.attnum > 0 AND NOT a.attisdropped""",
    "sequence": f"""
        SELECT r.oid::regclass::text, concat_ws(E'\n', format_type(s.seqtypid, NULL),
            s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
            pg_get_userbyid(r.relowner), {_acl("r.relacl", "s", "r.relowner")})
        FROM pg_sequence AS s INNER JOIN pg_class AS r ON r.oid = s.seqrelid
        INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE {_OURS}""",
    "constraint": f"""
        SELECT k.conrelid::regclass || '.' || k.conname, concat_ws(E'\n',
            pg_get_constraintdef(k.oid), k.convalidated, obj_description(k.oid, 'pg_constraint'))
        FROM pg_constraint AS k INNER JOIN pg_namespace AS n ON n.oid = k.connamespace
        WHERE {_OURS}""",
    "index": f"""
        SELECT x.indexrelid::regclass::text, concat_ws(E'\n', pg_get_indexdef(x.indexrelid),
            x.indisvalid, x.indisready, x.indisclustered, x.indisreplident,
            array_to_string(r.reloptions, ' '), obj_description(x.indexrelid, 'pg_class'))
        FROM pg_index AS x INNER JOIN pg_class AS r ON r.oid = x.indexrelid
        INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE {_OURS}""",
    "view": f"""
        SELECT r.oid::regclass::text, pg_get_viewdef(r.oid)
        FROM pg_class AS r INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace
        WHERE {_OURS} AND r.relkind = 'v'""",
    "function": f"""
        SELECT f.oid::regprocedure::text, concat_ws(E'\n', md5(pg_get_functiondef(f.oid)),
            pg_get_functiondef(f.oid), pg_get_userbyid(f.proowner),
            {_acl("f.proacl", "f", "f.proowner")}, obj_description(f.oid, 'pg_proc'))
        FROM pg_proc AS f INNER JOIN pg_namespace AS n ON n.oid = f.pronamespace WHERE {_OURS}""",
    "type": f"""
        SELECT t.oid::regtype::text, concat_ws(E'\n', t.typtype, pg_get_userbyid(t.typowner),
            {_acl("t.typacl", "T", "t.typowner")}, obj_description(t.oid, 'pg_type'))
        FROM pg_type AS t INNER JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE {_OURS} AND t.typelem = 0""",
    "policy": f"""
        SELECT p.polrelid::regclass || '.' || p.polname, concat_ws(E'\n', p.polcmd,
            p.polpermissive, (SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC'
                ELSE pg_get_userbyid(o) END, ' ') FROM unnest(p.polroles) AS o),
            pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
            obj_description(p.oid, 'pg_policy'))
        FROM pg_policy AS p INNER JOIN pg_class AS r ON r.oid = p.polrelid
        INNER JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE {_OURS}""",
    "trigger": f"""
        SELECT g.tgrelid::regclass || '.' || g.tgname, concat_ws(E'\n',
            pg_get_triggerdef(g.oid), g.tgenabled, obj_description(g.oid, 'pg_trigger'))
        FROM pg_trigger AS g INNER JOIN pg_proc AS f ON f.oid = g.tgfoid
        INNER JOIN pg_namespace AS n ON n.oid = f.pronamespace
        WHERE {_OURS} AND NOT g.tgisinternal""",
    "default privilege": f"""
        SELECT coalesce(n.nspname::text, '') || ' ' || d.defaclobjtype::text,
            array_to_string(d.defaclacl, ' ')
        FROM pg_default_acl AS d LEFT JOIN pg_namespace AS n ON n.oid = d.defaclnamespace
        WHERE n.oid IS NULL OR {_OURS}""",
}
_TEMPLATES = "SELECT name, body FROM embver_internal.template"


def read_catalog(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Every object of embver's schemas by kind and name, with its definition.

    Also the templates, which are rows, and the revision of every ``alembic_version``.

    Args:
        connection: Of the owner of the objects, or of a superuser.
    """
    found: dict[str, str] = {}
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog")
        for kind, query in _QUERIES.items():
            for name, definition in cursor.execute(query.encode()).fetchall():
                key = f"{kind} {name}"
                assert key not in found, key
                found[key] = definition or ""
        for name, body in cursor.execute(_TEMPLATES).fetchall():
            found[f"template {name}"] = body
        tables = [key for key in found if key.startswith("relation ") and ".alembic_version" in key]
        for key in tables:
            table = key.removeprefix("relation ")
            rows = cursor.execute(f"SELECT version_num FROM {table}".encode()).fetchall()
            found[f"revision {table}"] = ", ".join(sorted(row[0] for row in rows))
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is not the same in two catalogs, one line an object."""
    lines = [f"only before: {key}" for key in sorted(before.keys() - after.keys())]
    lines += [f"only after: {key}" for key in sorted(after.keys() - before.keys())]
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key]:
            lines.append(f"changed: {key}: {_first_difference(before[key], after[key])}")
    return lines


def fingerprint(catalog: dict[str, str]) -> str:
    """One hash of a whole catalog."""
    text = "\n".join(f"{key}\n{catalog[key]}" for key in sorted(catalog))
    return hashlib.sha256(text.encode()).hexdigest()


def _first_difference(before: str, after: str) -> str:
    old, new = before.splitlines(), after.splitlines()
    for left, right in zip(old, new, strict=False):
        if left != right:
            return f"{left!r} became {right!r}"
    return f"{old[len(new) :]!r} became {new[len(old) :]!r}"

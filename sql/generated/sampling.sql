-- What a plan reads of the source, with the rights of its owner: counts, and a random sample that
-- stays small however large the table is.
CREATE OR REPLACE FUNCTION {{schema}}.count_documents() RETURNS TABLE (rows bigint, documents bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
AS $fn$
SELECT count(*), count(d.content) FROM {{schema}}.document AS d;
$fn$;
COMMENT ON FUNCTION {{schema}}.count_documents() IS
'Rows of the source and those with content, exactly. Reads the whole source.';
REVOKE EXECUTE ON FUNCTION {{schema}}.count_documents() FROM PUBLIC;

CREATE OR REPLACE FUNCTION {{schema}}.sample_documents(p_rows int, p_percent float8 DEFAULT NULL)
RETURNS TABLE (weight bigint, content text)
-- The sampled rows are fetched by their place; any other join would read the whole table.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET enable_hashjoin = off SET enable_mergejoin = off
AS $fn$
#variable_conflict use_column
BEGIN
    IF p_percent IS NULL THEN
        RETURN QUERY SELECT 1::bigint, d.content FROM {{schema}}.document AS d
        ORDER BY random() LIMIT p_rows;
        RETURN;
    END IF;
    RETURN QUERY
    WITH seen AS MATERIALIZED (
        SELECT embver_row.tableoid AS relation, embver_row.ctid AS place
        FROM {{source}} AS embver_row TABLESAMPLE SYSTEM (p_percent)
    ), chosen AS MATERIALIZED (
        -- One row a page, for the rows of a page resemble each other; it speaks for all of them.
        SELECT DISTINCT ON (s.relation, b.block) s.relation, s.place,
            count(*) OVER (PARTITION BY s.relation, b.block) AS page_rows
        FROM seen AS s
        CROSS JOIN LATERAL (SELECT (s.place::text::point)[0] AS block) AS b
        ORDER BY s.relation, b.block, random()
    )
    SELECT c.page_rows, {{schema}}.content(embver_row)
    FROM (SELECT x.* FROM chosen AS x ORDER BY random() LIMIT p_rows) AS c
    INNER JOIN {{source}} AS embver_row
        ON embver_row.ctid = c.place AND embver_row.tableoid = c.relation;
END
$fn$;
COMMENT ON FUNCTION {{schema}}.sample_documents(int, float8) IS
'Random rows: of the whole source, or of p_percent of its pages, one a page. weight is the number'
' of rows that one stands for; content is NULL where there is nothing to encode.';
REVOKE EXECUTE ON FUNCTION {{schema}}.sample_documents(int, float8) FROM PUBLIC;

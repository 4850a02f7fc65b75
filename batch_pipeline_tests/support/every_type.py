"""DuckDB's types with values at their extremes, and what a prompt prints for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A value of a type.

    Attributes:
        sql: an expression that casts to it.
        printed: what a prompt prints; None: what DuckDB prints.
    """

    sql: str
    printed: str | None = None


def _plain(*values: str) -> list[Value]:
    return [Value(value) for value in values]


EVERY_TYPE: dict[str, list[Value]] = {
    "BOOLEAN": _plain("true", "false"),
    "TINYINT": _plain("-128", "127"),
    "BIGINT": _plain("-9223372036854775808", "9223372036854775807"),
    "UBIGINT": _plain("18446744073709551615", "0"),
    "HUGEINT": _plain(
        "-170141183460469231731687303715884105728", "170141183460469231731687303715884105727", "12"
    ),
    "UHUGEINT": _plain("340282366920938463463374607431768211455", "7"),
    "BIGNUM": _plain(f"'{'9' * 120}'", "'-1'"),
    "DECIMAL(38,0)": _plain("9" * 38, f"-{'9' * 38}"),
    "DECIMAL(38,37)": _plain("'-9.9999999999999999999999999999999999999'", "'0'"),
    "FLOAT": _plain("3.3", "'nan'", "'-inf'", "'1e-45'", "16777217"),
    "DOUBLE": _plain("0.1", "'nan'", "'inf'", "1e308", "5e-324", "1e16"),
    "VARCHAR": _plain("''", "' é😀\n\t\"''\\ '", "chr(127)", "repeat('x', 5000)", "'NULL'", "'6'"),
    "BLOB": _plain("''", "'\\x00\\xFF\\x27\\x22\\x5Cplain ~'", "'\\xF0\\x9F\\x98\\x80'"),
    "BIT": _plain("'0'", "'000000001'", "'10101'"),
    "UUID": _plain(
        "'00000000-0000-0000-0000-000000000000'", f"'{'f' * 8}-ffff-ffff-ffff-{'f' * 12}'"
    ),
    "ENUM('', 'B c')": _plain("''", "'B c'"),
    "JSON": _plain("'null'", "'{\"a\": [1, 2.50]}'"),
    "DATE": _plain(
        "'infinity'",
        "'-infinity'",
        "'0044-03-15 (BC)'",
        "'5000000-01-01'",
        "'0001-01-01'",
        "'9999-12-31'",
    ),
    "TIME": [
        Value("'24:00:00'"),
        Value("'23:59:59.999999'"),
        Value("'00:00:00'"),
    ],
    "TIME_NS": _plain("'23:59:59.999999999'", "'00:00:00.000000001'"),
    "TIMETZ": _plain("'12:00:00+02'", "'24:00:00+15:59:59'", "'23:59:59.999999-15:59:59'"),
    "TIMESTAMP": [
        Value("'infinity'"),
        Value("'-infinity'"),
        Value("'0044-03-15 (BC) 01:02:03'"),
        Value("'294247-01-10 04:00:54.775806'"),
        Value("'2026-01-01 07:04:58.5'", "2026-01-01T07:04:58.500000"),
    ],
    "TIMESTAMP_S": [Value("'infinity'"), Value("'2026-01-01 00:00:01'", "2026-01-01T00:00:01")],
    "TIMESTAMP_MS": [
        Value("'-infinity'"),
        Value("'0044-03-15 (BC) 01:02:03.123'"),
        Value("'2026-01-01 00:00:01.123'", "2026-01-01T00:00:01.123000"),
    ],
    "TIMESTAMP_NS": [
        Value("'infinity'"),
        Value("'2262-04-11 23:47:16.854775806'", "2262-04-11T23:47:16.854775806"),
        Value("'1677-09-22 00:00:00'", "1677-09-22T00:00:00"),
    ],
    "TIMESTAMPTZ": [
        Value("'infinity'"),
        Value("'0044-03-15 (BC) 01:02:03+00'"),
        Value("'2026-01-01 01:00:00+02'", "2025-12-31T23:00:00+00:00"),
    ],
    "INTERVAL": _plain(
        "'3 days 04:05:06.123456'", "'-14 months'", "'1000000000 days'", "'1 microsecond'"
    ),
    "UNION(num INTEGER, str VARCHAR)": _plain("union_value(num := 1)", "union_value(str := 'a b')"),
    "VARIANT": _plain("1", "'x'", "{'a': 1, 'b': [DATE '2026-01-01']}", "3.3::FLOAT"),
    "GEOMETRY": _plain("'POINT (1.5 2)'", "'LINESTRING EMPTY'"),
    "INTEGER[]": [Value("[]", "[]"), Value("[1, NULL]", "[1,null]")],
    "FLOAT[]": [Value("['3.3', NULL, 'inf']", '[3.3,null,"inf"]'), Value("[]", "[]")],
    "FLOAT[2]": [Value("[3.3, 1.1]", "[3.3,1.1]"), Value("[0.1, NULL]", "[0.1,null]")],
    "DATE[][]": [
        Value("[['infinity', '2026-01-01'], [], NULL]", '[["infinity","2026-01-01"],[],null]'),
        Value("[[NULL]]", "[[null]]"),
    ],
    "INTERVAL[]": [Value("[INTERVAL '1 microsecond', NULL]", '["00:00:00.000001",null]')],
    "VARIANT[]": [Value("[1::VARIANT, 'a'::VARIANT]", '["1","a"]')],
    'STRUCT("f x" FLOAT, "INTERVAL" INTERVAL, "a""b" STRUCT(h HUGEINT, t TIMESTAMP)[])': [
        Value(
            """{'f x': 3.3, 'INTERVAL': '-1 day', 'a"b': [{'h': 1, 't': '-infinity'}]}""",
            '{"f x":3.3,"INTERVAL":"-1 day","a\\"b":[{"h":"1","t":"-infinity"}]}',
        ),
        Value(
            """{'f x': NULL, 'INTERVAL': NULL, 'a"b': [NULL]}""",
            '{"f x":null,"INTERVAL":null,"a\\"b":[null]}',
        ),
    ],
    "STRUCT(h UHUGEINT, b BIT, u UNION(n INTEGER, s VARCHAR), v BLOB, z TIMETZ, e ENUM('a'))": [
        Value(
            "{'h': 340282366920938463463374607431768211455, 'b': '01', 'u': union_value(n := 1),"
            " 'v': '\\xFF', 'z': '12:00:00+02', 'e': 'a'}",
            '{"h":"340282366920938463463374607431768211455","b":"01","u":"1","v":"\\\\xFF",'
            '"z":"12:00:00+02","e":"a"}',
        ),
    ],
    "MAP(VARCHAR, INTEGER)": [
        Value("MAP {}", "{}"),
        Value("MAP {'': NULL, 'a b': 1}", '{"":null,"a b":1}'),
    ],
    "MAP(FLOAT, INTERVAL)": [
        Value("MAP {3.3::FLOAT: INTERVAL '1 microsecond'}", '{"3.3":"00:00:00.000001"}')
    ],
    "MAP(DECIMAL(4,2), DATE)": [Value("MAP {1.50: DATE 'infinity'}", '{"1.50":"infinity"}')],
    "MAP(STRUCT(a INTEGER[]), TIMETZ)": [
        Value("MAP {{'a': [1, 2]}: '12:00:00+02'}", """{"{'a': [1, 2]}":"12:00:00+02"}""")
    ],
    "MAP(DATE, MAP(BLOB, FLOAT))": [
        Value(
            "MAP {DATE '-infinity': MAP {'\\xFF'::BLOB: 1.1::FLOAT}}",
            '{"-infinity":{"\\\\xFF":1.1}}',
        )
    ],
}
"""DuckDB's types: values of each, the least and the largest and what else differs from the rest."""

VIRTUAL = (
    "file_index", "filename", "file_row_number", "rowid", "row_id", "_bp_x",
    "select", "from", "*", "source", "records", "judged", "plan", "hashed", "asked", "past",
    "a.b", "a b", 'a"b', "a'b", "{x}", "$1", "?", "é😀", "k0", "key_hash", "status", "answer",
    "custom_id", "position", "name", "number", "value", "n", "wanted", "part",
)  # fmt: skip
"""Names that columns may have: DuckDB's virtual columns, SQL's words, and what our own SQL calls things."""

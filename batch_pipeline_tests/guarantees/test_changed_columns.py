"""A key under another name, and answers in columns of other names."""

from batch_pipeline import DuckDBSource, DuckDBTable
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House

KIND = {
    "output": {
        "type": "object",
        "properties": {"kind": {"type": "string"}},
        "required": ["kind"],
        "additionalProperties": False,
    }
}


def test_another_output_prefix_is_refused_before_any_money(house: House) -> None:
    house.nights(KIND).night()
    run = house.nights(KIND, output_prefix="x_")
    run.night()  # there is nothing to ask
    house.sql("insert into notes values (900, 'new', 0)")
    said = house.refusal(run)
    assert "output_prefix=''" in said and "allow_reask" in said and house.paid == RECORDS
    run.night(allow_reask=True)
    assert house.paid == RECORDS + 1
    assert house.sql("select count(kind), count(x_kind) from answers") == [(RECORDS, 1)]
    house.sql("insert into notes values (901, 'newer', 0)")
    run.night()  # said once, it is settled
    assert house.paid == RECORDS + 2 and not house.paid_twice


@only_whole
def test_a_renamed_key_goes_on_by_a_query_at_no_cost_or_under_another_name(house: House) -> None:
    house.nights().night()
    house.sql("alter table notes rename id to package_id")
    said = house.refusal(house.nights(key="package_id"))
    assert "no key column `package_id`" in said and "query" in said and "another name" in said
    query = "select package_id as id, * exclude (package_id) from notes"
    house.nights(source=DuckDBSource(database=house.warehouse, query=query, key="id")).night()
    assert house.paid == RECORDS
    new = DuckDBTable(database=house.warehouse, table="answers2")
    run = house.nights(key="package_id", name="packages", destination=new)
    run.night()
    run.night()
    assert house.paid == 2 * RECORDS and len(run.rows()) == RECORDS


def test_a_key_of_another_column_that_the_table_has_goes_on_in_the_table_on_purpose(
    house: House,
) -> None:
    house.sql("alter table notes add column package_id integer")
    house.sql("update notes set package_id = id + 500")
    house.nights().night()
    run = house.nights(key="package_id")
    assert "allow_reask" in house.refusal(run) and house.paid == RECORDS
    run.night(allow_reask=True)
    run.night()
    assert house.paid == 2 * RECORDS and house.statuses() == {"answered": RECORDS}

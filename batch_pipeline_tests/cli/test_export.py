"""`export` writes the requests that a run would send, byte for byte, and commits nothing."""

import json

from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.stage_calls import PlayedNights
from batch_pipeline_tests.support.user_project import CODE, UserProject


def test_what_it_writes_is_what_a_run_sends_and_nothing_is_committed(user_project: UserProject):
    to = user_project.folder / "requests.jsonl"
    result = user_project.run("export", "notes", "--to", str(to))
    assert result.exit_code == 0, result.output
    assert (
        "wrote 10 requests" in result.output and "asks these records all the same" in result.output
    )
    assert not (user_project.folder / "data").exists()
    # Without a ledger there is no id of it yet.
    assert all(json.loads(line)["custom_id"].startswith("00000000-") for line in to.open())
    user_project.store()
    states = user_project.states()
    assert user_project.run("export", "notes", "--to", str(to)).exit_code == 1  # it is there
    to.unlink()
    assert user_project.run("export", "notes", "--to", str(to)).exit_code == 0
    assert user_project.states() == states == []
    with inside(user_project.folder):
        one = user_project.nights("notes")
        PlayedNights(one.pipeline, one.claude, one.store).select("records", "requests")
    sent = sorted((user_project.folder / "data").rglob("requests/*.jsonl"))
    assert to.read_bytes() == b"".join(path.read_bytes() for path in sent)
    assert {*json.loads(to.open().readline())} == {"custom_id", "params"}
    # What is on its way is not asked again, and so not written.
    for more, lines in ((), 0), (("--force",), 0):
        other = user_project.folder / f"other{len(more)}.jsonl"
        result = user_project.run("export", "notes", "--to", str(other), *more, "--json")
        assert (
            json.loads(result.stdout)["requests"] == len(other.read_bytes().splitlines()) == lines
        )


def test_of_variants_it_writes_the_one_that_is_named(user_project: UserProject):
    two = 'pipeline("notes", variants={"plain": {}, "kind": {"system": "Be kind."}})'
    code = f"defs = build_definitions({two}, claude=claude(), store=store)\n"
    user_project.write("pipelines.py", CODE + code)
    to = user_project.folder / "kind.jsonl"
    unnamed = user_project.run("export", "notes", "--to", str(to))
    assert unnamed.exit_code == 2 and "--variant, of plain, kind" in unnamed.output
    user_project.store()
    done = user_project.run("export", "notes", "--to", str(to), "--variant", "kind", "--json")
    assert json.loads(done.stdout)["variant"] == "kind", done.output
    assert all(json.loads(line)["params"]["system"] for line in to.open())
    user_project.submit()
    sent = [path.read_bytes() for path in (user_project.folder / "data").rglob("requests/*.jsonl")]
    written = to.read_bytes()
    mine = [one for one in sent if b"Be kind." in one]
    assert written == b"".join(sorted(mine, key=written.index)) and len(mine) < len(sent)


def test_it_takes_a_part_and_says_what_cannot_be_asked(user_project: UserProject):
    to = user_project.folder / "part.jsonl"
    found = user_project.run(
        "export", "letters", "--to", str(to), "--partition", "odd", "--where", "id > 1", "--n", "2", "--json"
    )  # fmt: skip
    assert json.loads(found.stdout)["requests"] == 2, found.output
    asked = [json.loads(line)["params"]["messages"][0]["content"] for line in to.open()]
    assert asked == ["note 3", "note 5"]
    user_project.change("update notes set text = '' where id = 3")
    to.unlink()
    found = user_project.run("export", "letters", "--to", str(to), "--partition", "odd")
    assert found.exit_code == 3 and "1 record cannot be asked" in found.output
    assert len(to.read_bytes().splitlines()) == 4
    lost = user_project.run("export", "letters", "--to", "/no/such/folder/x", "--partition", "odd")
    assert lost.exit_code == 1 and "no folder /no/such/folder" in lost.output

"""Images and documents in messages: what is put in, what is refused, and where it may come from."""

import base64
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.files import MISSING, OUTSIDE, FilesRoot
from batch_pipeline.requests.build import Built
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.file_blocks import MOST_IMAGE_BYTES
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline_tests.requests.test_build import build, lines_of, records

PDF = b"%PDF-1.4\n%%EOF"
PHOTO = {"type": "image", "path": "{{ photo }}"}
WHAT = {"type": "text", "text": "What is this?"}


def png(grey: int = 0) -> bytes:
    """A picture of one point."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    point = zlib.compress(bytes([0, grey]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", point) + chunk(b"IEND", b"")


def asking(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*blocks, WHAT]}]


def asked(
    folder: Path, names: list[str], *blocks: dict[str, Any], root: str | None = None
) -> Built:
    rows = " union all ".join(f"select {i} as i, {n} as photo" for i, n in enumerate(names))
    path = records(folder, rows)
    root = str(folder / "photos") if root is None else root
    return build(path, folder, prompt=None, messages=asking(*blocks), files_root=root)


def sources(built: Built) -> list[dict[str, Any]]:
    return [
        line["params"]["messages"][0]["content"][0]["source"]
        for lines in lines_of(built)
        for line in lines
    ]


def reasons(built: Built) -> dict[int, str]:
    if built.rejected_path is None:
        return {}
    table = pq.read_table(built.rejected_path).to_pylist()
    return {row["_row"]: row["reason"] for row in table}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_what_cannot_be_sent_is_rejected_with_its_path_and_the_others_go_on(
    tmp_path: Path, photos: Path
) -> None:
    kinds = {
        "a.png": (png(), "image/png"),
        "b.jpg": (b"\xff\xd8\xff\xe0 jpeg", "image/jpeg"),
        "c": (b"GIF89a gif", "image/gif"),
        "d.webp": (b"RIFF\x01\x00\x00\x00WEBPVP8 ", "image/webp"),
    }
    for name, (data, _) in kinds.items():
        (photos / name).write_bytes(data)
    wrong = {
        "large.png": (png() + bytes(MOST_IMAGE_BYTES), "too large: 3,932,227 bytes"),
        "of no kind.png": (b"BM bitmap\0", "of no kind that is known"),
        "text.png": (b"hello", "text/plain"),
        "a.pdf": (PDF, "is application/pdf; in a block of type image it must be a PNG"),
        "empty.png": (b"", "is empty"),
    }
    for name, (data, _) in wrong.items():
        (photos / name).write_bytes(data)
    (photos / "folder").mkdir()
    os.mkfifo(photos / "pipe")  # it would never end
    names = [*kinds, *wrong, "gone.png", "folder", "pipe"]
    built = asked(tmp_path, [*(f"'{name}'" for name in names), "null"], PHOTO)
    assert sources(built) == [
        {"type": "base64", "media_type": media, "data": base64.b64encode(data).decode()}
        for data, media in kinds.values()
    ]
    said = list(reasons(built).values())
    assert built.rejected == len(wrong) + 4
    for (name, (_, why)), reason in zip(wrong.items(), said, strict=False):
        assert name in reason and why in reason
    assert all("is not there" in reason for reason in said[len(wrong) : -1])
    assert said[-1] == "The record names no file."


def test_documents_are_pdfs_or_text_and_keep_what_else_they_say(
    tmp_path: Path, photos: Path
) -> None:
    (photos / "1.pdf").write_bytes(PDF)
    (photos / "2.txt").write_bytes("\ufeffGrüße".encode())
    (photos / "3.png").write_bytes(png())
    block = {
        "type": "document",
        "path": "{{ photo }}",
        "title": "T {{ photo }}",
        "citations": {"enabled": True},
    }
    built = asked(tmp_path, ["'1.pdf'", "'2.txt'", "'3.png'"], block)
    (lines,) = lines_of(built)
    first, second = (line["params"]["messages"][0]["content"][0] for line in lines)
    data = base64.b64encode(PDF).decode()
    assert first == {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
        "title": "T 1.pdf",
        "citations": {"enabled": True},
    }
    text = {"type": "text", "media_type": "text/plain", "data": "Grüße"}
    assert second["source"] == text
    assert "must be a PDF, or text in UTF-8" in reasons(built)[2]
    question = compile_question(
        MessageTemplate(model="m", max_tokens=9, messages=asking(block), files_root=str(photos)),
        {"photo": "VARCHAR"},
    )
    assert question.citations


def test_a_record_names_nothing_outside_of_the_folder(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "photos2").mkdir()
    (tmp_path / "photos2" / "near.png").write_bytes(png())
    (photos / "in.png").write_bytes(png())
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "up").symlink_to(tmp_path)
    (photos / "ok.png").symlink_to(photos / "in.png")
    outside = [
        "../secret.png",
        "x/../../secret.png",
        str(tmp_path / "secret.png"),
        "../photos2/near.png",
        "/etc/passwd",
        "link.png",
        "up/secret.png",
        "file:///etc/passwd",
        "..",
        ".",
        "in.png\x01/../../secret.png",
    ]
    inside = ["in.png", "./in.png", "ok.png", str(photos / "in.png")]
    root = FilesRoot(str(photos))
    for name in outside:
        assert root.mark(name) in (OUTSIDE, MISSING), name
    assert root.mark("/etc/passwd") == root.mark("link.png") == root.mark("a\0b") == OUTSIDE
    built = asked(tmp_path, [f"'{name}'" for name in [*outside, *inside]], PHOTO)
    assert built.requests == len(inside)
    said = reasons(built)
    assert "leads out of" in said[0] and "(files_root)" in said[4]
    # The same of the store of objects, and of a local folder that is written as a URL.
    file_root = FilesRoot(f"file://{photos}")
    assert file_root.mark("link.png") == file_root.mark("/etc/passwd") == OUTSIDE
    assert file_root.mark("in.png") == root.mark("in.png")


def test_files_of_an_object_store_are_read_below_its_url(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/photos/a.png", png())
    store.pipe_file("/bucket/secret.png", png())
    try:
        url = "memory://bucket/photos"
        outside = ["../secret.png", "memory://bucket/secret.png", "/etc/passwd", "s3://b/a.png"]
        names = ["a.png", f"{url}/a.png", "gone.png", *outside]
        built = asked(tmp_path, [f"'{name}'" for name in names], PHOTO, root=url)
        assert built.requests == 2 and built.rejected == 5
        assert "is not there" in reasons(built)[2]
        assert all("leads out of" in reasons(built)[row] for row in range(3, 7))
        before = FilesRoot(url).mark("a.png")
        assert FilesRoot(url).mark("a.png") == before != MISSING
        store.pipe_file("/bucket/photos/a.png", png(1))
        assert FilesRoot(url).mark("a.png") != before
        marks = {FilesRoot(url).mark(name) for name in outside}
        assert marks == {OUTSIDE}
        for name in (
            "%2e%2e/secret.png",
            "x/%252E./../secret.png",
            "..\\secret.png",
            "..%2fsecret",
        ):
            assert FilesRoot(url).mark(name) == OUTSIDE
    finally:
        store.rm("/bucket", recursive=True)


def test_bytes_of_a_column_urls_and_ids_of_files(tmp_path: Path) -> None:
    picture = f"unhex('{png().hex()}')"
    rows = f"select 0 as i, {picture} as photo, 'x' as name union all select 1, null, 'y'"
    image = {"type": "image", "bytes": "photo"}
    blocks = [
        image,
        {"type": "image", "url": "https://example.com/{{ name }}.png"},
        {"type": "document", "file_id": "file_{{ name }}"},
    ]
    built = build(records(tmp_path, rows), tmp_path, prompt=None, messages=asking(*blocks))
    ((line,),) = lines_of(built)
    found = [block.get("source") for block in line["params"]["messages"][0]["content"]]
    assert found == [
        {
            "type": "base64",
            "media_type": "image/png",
            "data": base64.b64encode(png()).decode(),
        },
        {"type": "url", "url": "https://example.com/x.png"},
        {"type": "file", "file_id": "file_x"},
        None,
    ]
    assert reasons(built) == {1: "What is in the column photo is NULL."}
    alone = MessageTemplate(model="m", max_tokens=9, messages=asking(image))
    assert compile_question(alone, {"photo": "BLOB", "name": "VARCHAR"}).columns == ("photo",)
    for columns, said in (({"photo": "VARCHAR"}, "which is VARCHAR"), ({}, "not in the source")):
        with pytest.raises(InputError, match=said):
            compile_question(alone, columns)


@pytest.mark.parametrize(
    ("block", "root", "said"),
    [
        ({"type": "image"}, None, "needs one of path, bytes, url, file_id"),
        ({**PHOTO, "url": "u"}, "p", "it has path and url"),
        (PHOTO, None, "set files_root"),
        ({"type": "image", "url": "{{ u }}"}, "p", "no block has one"),
        ({"type": "image", "path": "{{ a | lower }}"}, "p", "may hold text and columns alone"),
        ({"type": "image", "path": "{% if a %}a{% endif %}"}, "p", "text and columns alone"),
        ({"type": "image", "path": 3}, "p", "path is 3; it must be text"),
        ({"type": "image", "bytes": "{{ photo }}"}, None, "the name of a column of bytes"),
        (PHOTO, 3, "files_root must be a folder or a URL"),
        (PHOTO, "https://host/photos", "a web server does not tell"),
    ],
)
def test_what_could_not_be_filled_is_refused_when_it_is_declared(
    block: dict[str, Any], root: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        MessageTemplate(model="m", max_tokens=9, messages=asking(block), files_root=root)


def test_earlier_turns_show_how_to_answer_and_have_files_too(tmp_path: Path, photos: Path) -> None:
    (photos / "a.png").write_bytes(png(1))
    (photos / "shown.png").write_bytes(png(2))
    turns = [
        {"role": "user", "content": [{"type": "image", "path": "shown.png"}, WHAT]},
        {"role": "assistant", "content": "A grey point."},
        *asking(PHOTO),
    ]
    path = records(tmp_path, "select 0 as i, 'a.png' as photo")
    built = build(path, tmp_path, prompt=None, messages=turns, files_root=str(photos))
    ((line,),) = lines_of(built)
    messages = line["params"]["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user"]
    data = [messages[place]["content"][0]["source"]["data"] for place in (0, 2)]
    assert data == [base64.b64encode(png(grey)).decode() for grey in (2, 1)]

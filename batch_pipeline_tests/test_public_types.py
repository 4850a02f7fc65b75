"""That `public_types.py`, which the type checkers read, leaves no public name out."""

import ast
from pathlib import Path

import batch_pipeline


def test_each_public_name_is_used_where_the_type_checkers_look() -> None:
    text = Path(__file__).with_name("public_types.py").read_text(encoding="utf-8")
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not set(batch_pipeline.__all__) - used
    assert Path(batch_pipeline.__file__).with_name("py.typed").exists()

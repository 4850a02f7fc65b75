"""Blocks of the guides as `make test` looks at them: read, but no night is played; `make soak` runs them."""

import shlex

import dagster as dg
import yaml
from sybil import Example, Lexeme
from sybil.evaluators.python import PythonEvaluator

import batch_pipeline
from batch_pipeline.cli.main import main
from batch_pipeline_tests.docs.project import Project
from batch_pipeline_tests.docs.shell_blocks import COMMAND, ShellBlocks, commands, without_variables


class ReadBlocks:
    """Declares what Python declares, and checks fields of YAML, commands and flags."""

    def __init__(self, project: Project):
        """Take where names and files are looked for."""
        self._project = project
        self._run = PythonEvaluator()
        self._shell = ShellBlocks(project)

    def python(self, example: Example) -> None:
        """Execute a block, and look whether the definitions in it can be loaded."""
        text = example.parsed
        example.parsed = Lexeme(self._project.real(text), text.offset, text.line_offset)
        before = dict(example.namespace)
        self._run(example)
        for name, one in example.namespace.items():
            if isinstance(one, dg.Definitions) and before.get(name) is not one:
                self._project.complete(one)

    def yaml(self, example: Example) -> None:
        """Check a component's fields."""
        for data in yaml.safe_load_all(example.parsed):
            if "type" in data:
                package, _, name = data["type"].rpartition(".")
                assert package == batch_pipeline.__name__
                model = getattr(batch_pipeline, name).model().model_validate(data["attributes"])
                assert not model.problems

    def shell(self, example: Example) -> None:
        """Check that each command, flag, target and package is there."""
        for line in commands(str(example.parsed)):
            words = without_variables(shlex.split(line, comments=True))
            if words[0] == COMMAND:
                command = main.commands[words[1]]
                command.make_context(words[1], words[2:], resilient_parsing=False)
            else:
                self._shell.run_line(line, words)

"""inspect_ai: an evaluation by calls, and the same through batches."""

import json
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import BatchConfig, GenerateConfig
from inspect_ai.scorer import includes

done = []
samples = [Sample(input=f"Say hello to {name}.", target="hello") for name in ("Ana", "Bo")]
batching = BatchConfig(size=2, send_delay=0.2, tick=0.2)
for kind, config in (
    ("call", GenerateConfig(max_tokens=50)),
    ("batch", GenerateConfig(max_tokens=50, batch=batching)),
):
    [log] = eval(
        Task(dataset=samples, scorer=includes(), config=config),
        model="anthropic/claude-haiku-4-5",
        display="none",
        log_dir=sys.argv[1] + "/logs",
    )
    assert log.status == "success", log.error
    assert all(sample.output.completion for sample in log.samples), log.samples
    done.append(kind)
print(json.dumps({"done": done}))

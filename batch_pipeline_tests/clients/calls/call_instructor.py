"""instructor: a typed answer, a stream of it, and a batch of its batch processor."""

import json
import time

import anthropic
import instructor
from instructor.batch import BatchProcessor
from pydantic import BaseModel

MODEL = "claude-haiku-4-5"
TEXT = [{"role": "user", "content": "Supplier: Nimbus Ltd"}]
done = []


class Invoice(BaseModel):
    supplier: str


client = instructor.from_anthropic(anthropic.Anthropic())
asked = {"model": MODEL, "max_tokens": 100, "messages": TEXT, "response_model": Invoice}
assert client.create(**asked).supplier
done.append("call")

assert list(client.create_partial(**asked))[-1].supplier
done.append("stream")

processor = BatchProcessor(f"anthropic/{MODEL}", Invoice)
buffer = processor.create_batch_from_messages([TEXT, TEXT], max_tokens=100, temperature=0)
batch = processor.submit_batch(buffer)
while processor.get_batch_status(batch)["status"] != "ended":
    time.sleep(0.1)
results = processor.retrieve_results(batch)
assert [result.success for result in results] == [True, True], results
assert all(result.result.supplier for result in results)
done.append("batch")
print(json.dumps({"done": done}))

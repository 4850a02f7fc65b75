"""langchain-anthropic: a call, a stream, a tool, an answer under a schema. Its `batch` is many calls."""

import json

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

done = []


class Invoice(BaseModel):
    """Keeps an invoice."""

    supplier: str


model = ChatAnthropic(model="claude-haiku-4-5", max_tokens=100)
answer = model.invoke("Say hello.")
assert answer.text and answer.usage_metadata["output_tokens"]
done.append("call")

assert "".join(piece.text for piece in model.stream("Say hello."))
done.append("stream")

for method in ("function_calling", "json_schema"):
    found = model.with_structured_output(Invoice, method=method).invoke("Supplier: Nimbus Ltd")
    assert isinstance(found, Invoice) and found.supplier
done += ["tool", "schema"]

assert model.get_num_tokens_from_messages([HumanMessage("Say hello.")])
done.append("count")

assert len(model.batch(["Say hello.", "Say good-bye."])) == 2
print(json.dumps({"done": done}))

"""llm-anthropic, the plugin of llm: a call, a stream, an answer under a schema. It has no batches."""

import json
import os

import llm

done = []
model = llm.get_model("claude-haiku-4.5")
# The plugin has no setting for another URL; its client takes `base_url` from the model.
model.base_url = os.environ["ANTHROPIC_BASE_URL"]
assert model.prompt("Say hello.", stream=False, key="any").text()
done.append("call")

assert "".join(model.prompt("Say hello.", stream=True, key="any"))
done.append("stream")

schema = {
    "type": "object",
    "properties": {"supplier": {"type": "string"}},
    "required": ["supplier"],
    "additionalProperties": False,
}
answer = model.prompt("Supplier: Nimbus Ltd", schema=schema, stream=False, key="any").text()
assert json.loads(answer)["supplier"]
done.append("schema")
print(json.dumps({"done": done}))

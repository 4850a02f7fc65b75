"""litellm: a call, a stream, an answer under a schema, a file; it looks at batches and fetches results, and makes none."""

import json
import os
import time
import urllib.request

import litellm
from pydantic import BaseModel

MODEL = "anthropic/claude-haiku-4-5"
HELLO = [{"role": "user", "content": "Say hello."}]
done = []


class Invoice(BaseModel):
    supplier: str


answer = litellm.completion(model=MODEL, messages=HELLO, max_tokens=50)
assert answer.choices[0].message.content and answer.usage.completion_tokens
done.append("call")

pieces = list(litellm.completion(model=MODEL, messages=HELLO, max_tokens=50, stream=True))
assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
done.append("stream")

text = [{"role": "user", "content": "Supplier: Nimbus Ltd"}]
answer = litellm.completion(model=MODEL, messages=text, max_tokens=50, response_format=Invoice)
assert Invoice.model_validate_json(answer.choices[0].message.content).supplier
done.append("schema")

file = litellm.create_file(
    file=("note.txt", b"Hello."), purpose="user_data", custom_llm_provider="anthropic"
)
assert file.id.startswith("file_")
done.append("file")

params = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": HELLO}
request = urllib.request.Request(
    os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages/batches",
    json.dumps({"requests": [{"custom_id": "one", "params": params}]}).encode(),
    {"x-api-key": "any", "anthropic-version": "2023-06-01", "content-type": "application/json"},
)
with urllib.request.urlopen(request) as reply:
    batch = json.load(reply)["id"]
while litellm.retrieve_batch(batch_id=batch, custom_llm_provider="anthropic").status != "completed":
    time.sleep(0.1)
results = litellm.file_content(file_id=batch, custom_llm_provider="anthropic")
assert b"one" in results.content
done.append("batch looked at")
print(json.dumps({"done": done}))

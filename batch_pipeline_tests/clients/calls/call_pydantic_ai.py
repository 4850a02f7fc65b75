"""pydantic-ai: a call, a stream, a typed answer, and runs whose requests go through batches."""

import asyncio
import json
from datetime import timedelta

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.capabilities import BatchModelRequests

MODEL = "anthropic:claude-haiku-4-5"
done = []


class Invoice(BaseModel):
    supplier: str


async def main() -> None:
    agent = Agent(MODEL)
    assert (await agent.run("Say hello.")).output
    done.append("call")

    async with agent.run_stream("Say hello.") as stream:
        assert "".join([piece async for piece in stream.stream_text(delta=True)])
    done.append("stream")

    found = (await Agent(MODEL, output_type=Invoice).run("Supplier: Nimbus Ltd")).output
    assert found.supplier
    done.append("tool")

    soon = timedelta(seconds=0.1)
    batching = BatchModelRequests(max_wait=soon, poll_interval=soon)
    async with batching:
        agent = Agent(MODEL, capabilities=[batching])
        runs = await asyncio.gather(agent.run("Say hello."), agent.run("Say good-bye."))
    assert all(run.output for run in runs)
    done.append("batch")


asyncio.run(main())
print(json.dumps({"done": done}))

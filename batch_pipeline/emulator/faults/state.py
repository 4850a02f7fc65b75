"""What others do meanwhile: to batches, to the API key, to the server's clock.

The batch is the one that the call is about, or that it creates; else the oldest one. `which` names
another: its id, `oldest`, `newest`, `all`.
"""

from batch_pipeline.emulator.faults.errors import authentication_error
from batch_pipeline.emulator.faults.kind import Scene, kind
from batch_pipeline.emulator.replies import Reply

_ABOUT_OPEN = ("create", "list", "retrieve", "cancel")
_ABOUT_ENDED = ("retrieve", "list", "results", "create", "cancel", "delete")


@kind("batches", *_ABOUT_OPEN, open_only=True)
def expire_half_way(scene: Scene, id: str, *, share: float = 0.5) -> None:
    """An open batch ends with only a share of its requests answered; the rest has expired."""
    scene.emulator.end(id, share)


@kind("batches", *_ABOUT_OPEN, open_only=True)
def cancel_half_way(scene: Scene, id: str, *, share: float = 0.5) -> None:
    """Somebody cancels an open batch of which a share is answered; the rest is canceled. A manual
    batch is `canceling` until it is ended."""
    scene.emulator.withdraw(id, share)


@kind("batches", *_ABOUT_ENDED)
def delete_batch(scene: Scene, id: str) -> None:
    """Somebody deletes a batch (an open one ends first): it is a 404 from then on. What was
    answered stays on the bill."""
    scene.emulator.end(id)
    scene.emulator.remove(id)


@kind("batches", *_ABOUT_ENDED)
def archive_results(scene: Scene, id: str) -> None:
    """The results of a batch are gone, as 29 days after its creation (an open one ends first):
    `archived_at` is set, `results_url` is null, and the results are a 404."""
    scene.emulator.end(id)
    scene.emulator.archive(id)


@kind("before", lasting=True)
async def revoke_key() -> Reply | None:
    """From this call on the API key (every one, or only `key`) is refused: 401
    `authentication_error`."""
    return authentication_error()


@kind("scene", lasting=True)
def move_key(scene: Scene, *, workspace: str = "another-workspace") -> None:
    """From this call on the API key (every one, or only `key`) belongs to another workspace, which
    has none of the old one's batches."""
    if scene.workspace is not None:
        scene.workspace = workspace


@kind("scene", lasting=True)
def clock_skew(scene: Scene, *, seconds: float) -> None:
    """From this call on the server's clock is off by some seconds: the `Date` header and every
    time of every batch."""
    scene.clock_offset += seconds

"""The routes of the Message Batches API, and of the little around it that clients use."""

from typing import Any, Literal

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batch_pipeline.emulator.admin import admin_routes
from batch_pipeline.emulator.calls import ApiCall, Call, Handler, Server, new_request_id
from batch_pipeline.emulator.catalog import MODELS, Model, find_model
from batch_pipeline.emulator.database import File
from batch_pipeline.emulator.errors import ApiError, error_document, invalid
from batch_pipeline.emulator.files import LEAST_SECONDS, MAX_BYTES, MOST_SECONDS, document_of
from batch_pipeline.emulator.forms import parts_of
from batch_pipeline.emulator.organization import cost_report, usage_report
from batch_pipeline.emulator.queries import integer_of, limit_of, values_of
from batch_pipeline.emulator.replies import Reply
from batch_pipeline.emulator.respond import count
from batch_pipeline.emulator.rules import Occasion
from batch_pipeline.emulator.stream import events_of

_MOST_DIGITS = 18
_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_LIFECYCLES = ("active", "deprecated", "retired")
_KINDS_OF_THINKING = ("adaptive", "between_tools", "disabled", "enabled")
_LEVELS_OF_EFFORT = ("low", "medium", "high", "xhigh", "max")


def build_app(server: Server) -> Starlette:
    """The whole emulator as an ASGI application.

    It must run under the protocol of `emulator.server`, which lets calls close their connection.
    """
    batches = "/v1/messages/batches"
    one = batches + "/{batch_id}"
    table: list[tuple[str, str, str, Handler]] = [
        ("create", "POST", batches, _create),
        ("list", "GET", batches, _list),
        ("results", "GET", one + "/results", _results),
        ("cancel", "POST", one + "/cancel", _cancel),
        ("retrieve", "GET", one, _retrieve),
        ("delete", "DELETE", one, _delete),
        ("count_tokens", "POST", "/v1/messages/count_tokens", _count_tokens),
        ("messages", "POST", "/v1/messages", _message),
        ("models", "GET", "/v1/models", _list_models),
        ("models", "GET", "/v1/models/{model_id:path}", _retrieve_model),
        ("files", "POST", "/v1/files", _upload_file),
        ("files", "GET", "/v1/files", _list_files),
        ("files", "GET", "/v1/files/{file_id}", _retrieve_file),
        ("files", "GET", "/v1/files/{file_id}/content", _download_file),
        ("reports", "GET", "/v1/organizations/usage_report/messages", usage_report),
        ("reports", "GET", "/v1/organizations/cost_report", cost_report),
        ("files", "DELETE", "/v1/files/{file_id}", _delete_file),
    ]
    routes = [
        Route(path, ApiCall(server, name, f"{method} {path}", handler), methods=[method])
        for name, method, path, handler in table
    ]
    return Starlette(
        routes=[*routes, *admin_routes(server)],
        exception_handlers={HTTPException: _http_error, ApiError: _api_error},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    type = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return _error_response(error.status_code, type, message)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error.status, error.type, error.message, error.details)


def _error_response(
    status: int, type: str, message: str, details: dict[str, Any] | None = None
) -> Response:
    id = new_request_id()
    document = error_document(type, message, id, details)
    return JSONResponse(document, status_code=status, headers={"request-id": id})


async def _create(call: Call) -> Reply:
    emulator = call.emulator
    limit = emulator.options.max_batch_bytes
    declared = call.request.headers.get("content-length", "")
    # The length is as a client wrote it: it may have more digits than Python reads as a number.
    if declared.isdecimal() and (len(declared) > _MOST_DIGITS or int(declared) > limit):
        raise _too_large(limit)
    body = emulator.new_spool()
    size = 0
    try:
        async for chunk in call.request.stream():
            size += len(chunk)
            if size <= limit:
                body.write(chunk)
        if size > limit:
            raise _too_large(limit)
        created = await run_in_threadpool(
            emulator.create, call.workspace, body, call.host, call.version, call.betas
        )
    finally:
        body.discard()
    return Reply(document=created)


def _too_large(limit: int) -> ApiError:
    return ApiError("request_too_large", f"Request exceeds the maximum size of {limit} bytes")


async def _list(call: Call) -> Reply:
    query = call.request.query_params
    page = await run_in_threadpool(
        call.emulator.page,
        call.workspace,
        None if call.scene.circles else query.get("after_id"),
        *(query.get("before_id"), limit_of(call.request), call.host),
        *(call.scene.unlisted_seconds, call.scene.unlisted_newest),
    )
    if call.scene.circles and page["data"]:
        page["has_more"] = True
    return Reply(document=page)


async def _retrieve(call: Call) -> Reply:
    found = call.emulator.retrieve
    return Reply(document=await run_in_threadpool(found, call.workspace, call.batch_id, call.host))


async def _cancel(call: Call) -> Reply:
    cancel = call.emulator.cancel
    return Reply(document=await run_in_threadpool(cancel, call.workspace, call.batch_id, call.host))


async def _delete(call: Call) -> Reply:
    delete = call.emulator.delete
    return Reply(document=await run_in_threadpool(delete, call.workspace, call.batch_id))


async def _results(call: Call) -> Reply:
    lines = await run_in_threadpool(call.emulator.results, call.workspace, call.batch_id)
    return Reply(lines=lines)


async def _params_of(call: Call) -> dict[str, Any]:
    try:
        params = orjson.loads(await call.request.body())
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    if not isinstance(params, dict):
        raise invalid("Input should be an object")
    return params


async def _message(call: Call) -> Reply:
    params = await _params_of(call)
    answer = call.emulator.message
    message = await run_in_threadpool(answer, call.workspace, params, _occasion(call, "message"))
    if params.get("stream"):
        return Reply(lines=events_of(message), headers=_EVENTS)
    return Reply(document=message)


async def _count_tokens(call: Call) -> Reply:
    params = await _params_of(call)
    return Reply(document={"input_tokens": count(params, _occasion(call, "count"))})


def _occasion(call: Call, kind: Literal["message", "count"]) -> Occasion:
    return call.emulator.occasion(kind, call.workspace, call.version, call.betas)


async def _list_models(call: Call) -> Reply:
    query = call.request.query_params
    limit = limit_of(call.request)
    lifecycles = values_of(call.request, "lifecycle")
    for lifecycle in lifecycles:
        if lifecycle not in _LIFECYCLES:
            raise invalid(f"lifecycle: Input should be {' or '.join(_LIFECYCLES)}")
    # All models that the emulator knows are active.
    ids = [] if lifecycles and "active" not in lifecycles else list(MODELS)
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise invalid("Only one of after_id and before_id may be given")
    for name, id in (("after_id", after), ("before_id", before)):
        if id and find_model(id).id not in MODELS:
            raise invalid(f"{name}: no model {id} exists")
    if before:
        there = ids[: list(MODELS).index(find_model(before).id)] if ids else []
        page, has_more = there[-limit:], len(there) > limit
    else:
        there = ids[list(MODELS).index(find_model(after).id) + 1 :] if after else ids
        page, has_more = there[:limit], len(there) > limit
    return Reply(
        document={
            "data": [_model_document(MODELS[id]) for id in page],
            "has_more": has_more,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
    )


async def _retrieve_model(call: Call) -> Reply:
    model = find_model(call.request.path_params["model_id"])
    if model.id not in MODELS and not call.emulator.options.any_model:
        raise ApiError("not_found_error", f"model: {model.id}")
    return Reply(document=_model_document(model))


def _model_document(model: Model) -> dict[str, Any]:
    ways = model.ways
    thinking = {kind: {"supported": kind in ways.thinking} for kind in _KINDS_OF_THINKING}
    effort = {level: {"supported": level in ways.effort} for level in _LEVELS_OF_EFFORT}
    yes, no = {"supported": True}, {"supported": False}
    return {
        "id": model.id,
        "type": "model",
        "display_name": model.name,
        "created_at": f"{model.released}T00:00:00Z",
        "lifecycle": "active",
        "line": model.id.split("-")[1] if model.id in MODELS else None,
        "max_input_tokens": model.max_input,
        "max_tokens": model.max_output,
        "capabilities": {
            "batch": yes,
            "citations": yes,
            "code_execution": yes,
            "context_management": {
                "supported": True,
                "clear_thinking_20251015": yes,
                "clear_tool_uses_20250919": yes,
                "compact_20260112": yes,
            },
            "effort": {"supported": bool(ways.effort), **effort},
            "image_input": yes,
            "pdf_input": yes,
            # The emulator takes server tools, and never calls one.
            "server_tools": {"supported": False, "code_execution": no, "web_search": no},
            "structured_outputs": yes,
            "thinking": {"supported": True, "types": thinking},
        },
    }


async def _upload_file(call: Call) -> Reply:
    body = bytearray()
    async for chunk in call.request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise _too_large(MAX_BYTES)
    fields = {
        part.name: part
        for part in parts_of(call.request.headers.get("content-type", ""), bytes(body))
    }
    for name in fields:
        # litellm sends `purpose`, which the SDK does not type: that it is passed over is our reading.
        if name not in ("file", "expires_in_seconds", "purpose"):
            raise invalid(f"{name}: Extra inputs are not permitted")
    if "file" not in fields:
        raise invalid("file: Field required")
    seconds = None
    if "expires_in_seconds" in fields:
        seconds = integer_of(fields["expires_in_seconds"].content.decode("latin-1"))
        if seconds is None or not LEAST_SECONDS <= seconds <= MOST_SECONDS:
            raise invalid(
                f"expires_in_seconds: Input should be between {LEAST_SECONDS} and {MOST_SECONDS}"
            )
    keep = call.emulator.files.keep
    file = await run_in_threadpool(keep, call.workspace, fields["file"], seconds)
    return Reply(document=_file_document(call, file))


async def _list_files(call: Call) -> Reply:
    files, ids = call.emulator.files, values_of(call.request, "ids")
    query = call.request.query_params
    if ids:
        if "page" in query or "limit" in query:
            raise invalid("ids: cannot be given together with page or limit")
        found, more = files.named(call.workspace, ids), None
    else:
        found, more = files.page(call.workspace, query.get("page"), limit_of(call.request))
    documents = [_file_document(call, file) for file in found]
    return Reply(document={"data": documents, "next_page": more})


async def _retrieve_file(call: Call) -> Reply:
    return Reply(document=_file_document(call, _file(call)))


async def _download_file(call: Call) -> Reply:
    file = _file(call)
    if not call.emulator.options.downloadable_files:
        # SDK types/file_not_downloadable_error_details.py: only what a tool made can be downloaded.
        raise ApiError(
            "invalid_request_error",
            f"File {file.id} is not downloadable: only files that a tool made are",
            details={"error_code": "file_not_downloadable"},
        )
    content = await run_in_threadpool(call.emulator.files.content, file)
    return Reply(body=content, headers={"content-type": file.mime_type})


async def _delete_file(call: Call) -> Reply:
    file = _file(call)
    await run_in_threadpool(call.emulator.files.remove, file)
    return Reply(document={"id": file.id, "type": "file_deleted"})


def _file(call: Call) -> File:
    return call.emulator.files.required(call.workspace, call.request.path_params["file_id"])


def _file_document(call: Call, file: File) -> dict[str, Any]:
    return document_of(file, call.emulator.options.downloadable_files)

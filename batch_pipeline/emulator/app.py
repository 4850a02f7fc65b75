"""The routes of the Message Batches API, and of the little around it that clients use."""

from typing import Any

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
from batch_pipeline.emulator.errors import ApiError, error_document, invalid
from batch_pipeline.emulator.queries import limit_of
from batch_pipeline.emulator.replies import Reply
from batch_pipeline.emulator.respond import count

_MOST_DIGITS = 18


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
        ("models", "GET", "/v1/models/{model_id}", _retrieve_model),
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
        created = await run_in_threadpool(emulator.create, call.workspace, body, call.host)
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
    return Reply(document=await run_in_threadpool(call.emulator.message, call.workspace, params))


async def _count_tokens(call: Call) -> Reply:
    return Reply(document={"input_tokens": count(await _params_of(call))})


async def _list_models(call: Call) -> Reply:
    models = [_model_document(model) for model in MODELS.values()]
    ids = [model["id"] for model in models]
    return Reply(
        document={"data": models, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}
    )


async def _retrieve_model(call: Call) -> Reply:
    model = find_model(call.request.path_params["model_id"])
    if model.id not in MODELS:
        raise ApiError("not_found_error", f"model: {model.id}")
    return Reply(document=_model_document(model))


def _model_document(model: Model) -> dict[str, Any]:
    yes, no = {"supported": True}, {"supported": False}
    return {
        "id": model.id,
        "type": "model",
        "display_name": model.name,
        "created_at": f"{model.released}T00:00:00Z",
        "lifecycle": "active",
        "line": model.id.split("-")[1],
        "max_input_tokens": model.max_input,
        "max_tokens": model.max_output,
        "capabilities": {
            "batch": yes,
            "citations": yes,
            "code_execution": yes,
            "context_management": {"supported": False},
            "effort": {"supported": True, "low": yes, "medium": yes, "high": yes, "max": yes},
            "image_input": yes,
            "pdf_input": yes,
            "server_tools": {"supported": False, "code_execution": no, "web_search": no},
            "structured_outputs": yes,
            "thinking": {
                "supported": True,
                "types": {"adaptive": yes, "between_tools": no, "disabled": yes, "enabled": yes},
            },
        },
    }
